#!/usr/bin/env bash
# Base images from Debian's packages, for a machine whose Docker Engine reaches no registry.
#
#   image                          stands in for       Debian packages          variable that takes it
#   gateway-local/python:3.13      python:3.13-slim    python3 python3-venv     BASE_IMAGE
#   gateway-local/valkey:8         valkey/valkey:8     valkey-server            STORE_IMAGE
#   gateway-local/caddy:2          caddy:2             caddy                    PROXY_IMAGE
#   gateway-local/prometheus:2     prom/prometheus     prometheus               PROMETHEUS_IMAGE
#
# Usage, as root (mmdebstrap needs no registry and no network but the Debian mirror):
#   deploy/local-images/build.sh            makes what is missing and prints the variables, one NAME=image a line
#   deploy/local-images/build.sh --again    makes all of them anew
#
# Debian's Caddy is older than 2.7: BUFFER_REQUESTS=buffer_requests is printed with it, for the Caddyfile.
#
# DEBIAN_MIRROR and DEBIAN_SUITE name another source. Packages of one state of the mirror give one image: the archive's
# times are SOURCE_DATE_EPOCH's. Nothing of the host but its Debian keyring goes into an image.
set -euo pipefail

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
suite=${DEBIAN_SUITE:-trixie}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1735689600}

images=(
  "BASE_IMAGE gateway-local/python:3.13 python3,python3-venv,ca-certificates"
  "STORE_IMAGE gateway-local/valkey:8 valkey-server,valkey-tools"
  "PROXY_IMAGE gateway-local/caddy:2 caddy,ca-certificates"
  "PROMETHEUS_IMAGE gateway-local/prometheus:2 prometheus"
)

# What the public images promise about directories: /data is the store's (uid 999), /config and /data the proxy's (root),
# /prometheus is nobody's. Prometheus is also the program that its public image starts.
directories='mkdir -p "$1/data" "$1/config" && chmod 755 "$1/data" "$1/config"'
store_directory='chown 999:999 "$1/data"'
metrics_directory='mkdir "$1/prometheus" && chown 65534:65534 "$1/prometheus"'

make_image() { # name, packages
  local hooks=("--customize-hook=$directories") changes=(--change 'ENV LANG=C.UTF-8' --change 'WORKDIR /data')
  case $1 in
    */valkey:*) hooks+=("--customize-hook=$store_directory") ;;
    */prometheus:*)
      hooks+=("--customize-hook=$metrics_directory")
      changes+=(--change 'ENTRYPOINT ["prometheus"]')
      ;;
  esac
  mmdebstrap --quiet --variant=essential --include="$2" "${hooks[@]}" \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$suite" - "$mirror" |
    docker import "${changes[@]}" - "$1" >&2
}

for entry in "${images[@]}"; do
  read -r variable name packages <<<"$entry"
  if [[ ${1:-} == --again ]] || ! docker image inspect "$name" >/dev/null 2>&1; then
    command -v mmdebstrap >/dev/null || { echo "build.sh: mmdebstrap is missing: apt-get install mmdebstrap" >&2; exit 1; }
    echo "making $name" >&2
    make_image "$name" "$packages"
  fi
  echo "$variable=$name"
done
echo "BUFFER_REQUESTS=buffer_requests"
