#!/bin/sh
# Prints the images that docker-compose.yml names, each with the digest that its tag has now, as lines for .env. All or none.
#
#   deploy/digests.sh >>.env
#
# Needs docker with buildx, and the registry. GATEWAY_IMAGE is built here and has no digest before it is pushed.
set -eu
cd "$(dirname "$0")/.."

lines=$(
  sed -n 's/.*\${\([A-Z]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' docker-compose.yml | sort -u | while read -r name image; do
    [ "$name" != GATEWAY_IMAGE ] || continue
    digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}') || exit 1
    case $digest in
    sha256:*) echo "$name=$image@$digest" ;;
    *) echo "digests.sh: no digest of $image: $digest" >&2 && exit 1 ;;
    esac
  done
)
echo "$lines"
