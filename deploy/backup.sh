#!/usr/bin/env bash
# A snapshot of the compose stack's store, while it runs:  deploy/backup.sh FILE
# Valkey writes an RDB snapshot of one moment; it is checked before it gets its name.
set -euo pipefail
file=${1:?usage: deploy/backup.sh FILE}
compose=(docker compose)
docker compose version >/dev/null 2>&1 || compose=(docker-compose)
store=$("${compose[@]}" ps -q valkey)
[ -n "$store" ] || { echo "backup.sh: the store does not run" >&2; exit 1; }

umask 077
trap 'rm -f "$file.new"; docker exec "$store" rm -f /data/backup.rdb' EXIT
docker exec "$store" sh -c 'REDISCLI_AUTH=$(cat /run/secrets/store_password) valkey-cli --rdb /data/backup.rdb' >/dev/null
docker exec "$store" valkey-check-rdb /data/backup.rdb >/dev/null
docker exec "$store" cat /data/backup.rdb >"$file.new"
mv "$file.new" "$file"
echo "wrote $file ($(wc -c <"$file") bytes)"
