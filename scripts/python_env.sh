#!/usr/bin/env bash
# Fetches the Python packages that the documents' examples use (python_env.txt: versions), and prints the path of an
# interpreter that has them. Needs pip or venv (apt-get install python3-pip).
#   scripts/python_env.sh [FOLDER [VERSIONS]]   (FOLDER defaults to one in the user's cache folder; VERSIONS is a file
#                                               of other packages)
set -euo pipefail
versions=${2:-$(dirname "$0")/python_env.txt}
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/twotower/python-$(sha256sum "$versions" | cut -c 1-16)}
if [ ! -d "$folder" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    if python3 -m pip --version > /dev/null 2>&1; then
        pip=(python3 -m pip)
    elif python3 -m venv "$work/venv" > /dev/null 2>&1; then
        pip=("$work/venv/bin/python" -m pip)
    else
        echo "python_env: pip is needed to fetch the packages of $versions: apt-get install -y python3-pip (or python3-venv)" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$folder")"
    rm -rf "$folder.new"
    "${pip[@]}" install --quiet --disable-pip-version-check --only-binary :all: --target "$folder.new/packages" -r "$versions" >&2
    # The folder is found from the script's own place, so that it may be moved.
    printf '#!/bin/sh\nPYTHONPATH="$(dirname "$0")/packages" exec python3 "$@"\n' > "$folder.new/python"
    chmod +x "$folder.new/python"
    mv -T "$folder.new" "$folder"
fi
echo "$folder/python"
