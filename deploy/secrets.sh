#!/bin/sh
# Makes the files that docker-compose.yml takes its secrets from: once; what is there stays, and it says so.
#
#   SIRAYA_API_KEY=... deploy/secrets.sh [DIRECTORY]      without the variable it asks for the key
#
#   store_password    between gateway and store              admin_key    for the admin API and the command line
#   upstream_api_key  the provider's, as given               grafana_password  its user `admin`, with --profile observability
#
# The directory is for its owner alone; the files in it can be read by any user, since a container's is none of the host's.
# What stands for a key in an example, such as your-key, is not stored: every request would fail with the provider's 401.
set -eu

directory=${1:-${SECRETS_DIR:-secrets}}

fail() {
  echo "secrets.sh: $1" >&2
  exit 1
}

random() { LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c 48; }

put() { # name, value
  printf '%s\n' "$2" >"$directory/$1.new"
  chmod 444 "$directory/$1.new"
  mv "$directory/$1.new" "$directory/$1"
  echo "made $directory/$1"
}

is_placeholder() { # value
  case $(printf '%s' "$1" | tr 'A-Z_ ' 'a-z--') in
  *your*key* | *key*here* | *api-key* | *change*me* | *changeit* | *placeholder* | *replace* | *example*) return 0 ;;
  *...* | *…* | *\<* | *\>* | *\$* | env:* | file:* | *xxxx* | *\*\*\** | todo* | key | secret | none | null | test | dummy) return 0 ;;
  esac
  return 1
}

check() { # value
  is_placeholder "$1" && fail "this is a placeholder, not a key; nothing was stored. Set SIRAYA_API_KEY to the provider's key"
  case $1 in
  *[[:space:]]*) fail "the provider's key has a space or a line break in it; nothing was stored" ;;
  esac
}

kept=$directory/upstream_api_key
if [ -s "$kept" ] && is_placeholder "$(cat "$kept")"; then
  echo "$kept holds a placeholder, which is replaced" >&2
  rm -f "$kept"
fi
if [ ! -s "$kept" ]; then
  if [ -z "${SIRAYA_API_KEY:-}" ]; then
    [ -t 0 ] || fail "SIRAYA_API_KEY is not set"
    printf "The provider's API key (not shown): " >&2
    trap 'stty echo' EXIT
    stty -echo && read -r SIRAYA_API_KEY && echo >&2
    [ -n "$SIRAYA_API_KEY" ] || fail "no key given"
  fi
  check "$SIRAYA_API_KEY"
fi

mkdir -p "$directory"
chmod 700 "$directory"
for name in store_password admin_key grafana_password; do
  if [ -s "$directory/$name" ]; then
    echo "kept $directory/$name"
  else
    put "$name" "$(random)"
  fi
done
if [ ! -s "$kept" ]; then
  put upstream_api_key "$SIRAYA_API_KEY"
elif [ -n "${SIRAYA_API_KEY:-}" ] && [ "$SIRAYA_API_KEY" != "$(cat "$kept")" ]; then
  echo "kept $kept; SIRAYA_API_KEY is another key: remove the file to store that one"
else
  echo "kept $kept"
fi
