#!/usr/bin/env bash
# Puts a snapshot into the compose stack's store:  deploy/restore.sh FILE [--yes]
# What the store has is moved aside within its volume (before-restore/), and the gateways stop meanwhile.
set -euo pipefail
file=${1:?usage: deploy/restore.sh FILE [--yes]}
[ -s "$file" ] || { echo "restore.sh: $file is not there, or empty" >&2; exit 1; }
if [ "${2:-}" != --yes ]; then
  read -r -p "Replace everything that the store has by $file? [y/N] " answer
  [ "$answer" = y ] || exit 1
fi
compose=(docker compose)
docker compose version >/dev/null 2>&1 || compose=(docker-compose)

mapfile -t gateways < <("${compose[@]}" ps --services --filter status=running | grep '^gateway') # started again at the end
"${compose[@]}" stop "${gateways[@]}" valkey

# With the append-only file on, Valkey reads a snapshot only as the base of one: so it is made into one.
"${compose[@]}" run --rm -T --no-deps valkey sh -euc '
  cd /data
  rm -rf before-restore
  mkdir before-restore
  [ ! -d appendonlydir ] || mv appendonlydir before-restore/
  mkdir appendonlydir
  cat >appendonlydir/appendonly.aof.1.base.rdb
  valkey-check-rdb appendonlydir/appendonly.aof.1.base.rdb >/dev/null
  echo "file appendonly.aof.1.base.rdb seq 1 type b" >appendonlydir/appendonly.aof.manifest
' <"$file"
"${compose[@]}" up -d --no-deps valkey "${gateways[@]}"
echo "restored $file; what was there before is in the volume, in before-restore/"
