#!/bin/sh
# Makes the files that docker-compose.yml takes its secrets from: once; what is there stays.
#
#   SIRAYA_API_KEY=... deploy/secrets.sh [DIRECTORY]      without the variable it asks for the key
#
#   store_password    between gateway and store              admin_key    for the admin API and the command line
#   upstream_api_key  the provider's, as given               grafana_password  its user `admin`, with --profile observability
#
# The directory is for its owner alone; the files in it can be read by any user, since a container's is none of the host's.
set -eu

directory=${1:-${SECRETS_DIR:-secrets}}
mkdir -p "$directory"
chmod 700 "$directory"

random() { LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c 48; }

put() { # name, value
  printf '%s\n' "$2" >"$directory/$1.new"
  chmod 444 "$directory/$1.new"
  mv "$directory/$1.new" "$directory/$1"
  echo "made $directory/$1"
}

[ -s "$directory/store_password" ] || put store_password "$(random)"
[ -s "$directory/admin_key" ] || put admin_key "$(random)"
[ -s "$directory/grafana_password" ] || put grafana_password "$(random)"
if [ ! -s "$directory/upstream_api_key" ]; then
  if [ -z "${SIRAYA_API_KEY:-}" ]; then
    [ -t 0 ] || { echo "secrets.sh: SIRAYA_API_KEY is not set" >&2; exit 1; }
    printf "The provider's API key (not shown): " >&2
    trap 'stty echo' EXIT
    stty -echo && read -r SIRAYA_API_KEY && echo >&2
    [ -n "$SIRAYA_API_KEY" ] || { echo "secrets.sh: no key given" >&2; exit 1; }
  fi
  put upstream_api_key "$SIRAYA_API_KEY"
fi
