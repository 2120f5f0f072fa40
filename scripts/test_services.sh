#!/usr/bin/env bash
# Installs the programs that some tests start on loopback: Redis, PostgreSQL and Chromium with a Chinese font, which are
# packages of Debian and need root, and the servers of object stores (scripts/object_stores.sh). What cannot be installed is
# said, with exit code 1; the tests that need it are skipped then, or fail where TWOTOWER_REQUIRE_SERVERS=1 is set.
# usage: scripts/test_services.sh
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v redis-server >/dev/null || packages+=(redis-server)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)
browser() { [ -n "${CHROMIUM:-}" ] || command -v chromium || command -v chromium-browser || command -v google-chrome; }
browser >/dev/null || packages+=(chromium fonts-noto-cjk)
missing=0
if [ ${#packages[@]} -gt 0 ]; then
  install() { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }
  if ! install "${packages[@]}" >&2; then
    echo "test_services: not installed: ${packages[*]}; give \`apt-get install -y ${packages[*]}\` as root" >&2
    missing=1
  fi
fi
if ! scripts/object_stores.sh >/dev/null; then
  echo "test_services: the servers of object stores are not installed; scripts/object_stores.sh says above what it needs" >&2
  missing=1
fi
exit "$missing"
