#!/usr/bin/env bash
# Opens results as the documents say, with pandas, polars, DuckDB and pyarrow: makes a small run with the given program,
# and executes the Python blocks of docs/FORMATS.md ("Opening results") and of the READMEs on it, as they stand there.
# Packages of the pinned versions (requirements.txt) are fetched with pip into a cache folder. That they cannot be had is
# a failure.
#
# usage: tests/readers/run.sh TWOTOWER        (the program, built)
set -euo pipefail
twotower=$(realpath "$1")
cd "$(dirname "$0")/../.."
requirements=tests/readers/requirements.txt
cache="${TWOTOWER_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/twotower-ci}"
packages="$cache/readers-$(sha256sum "$requirements" | cut -c 1-16)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ ! -d "$packages" ]; then
    if python3 -m pip --version > /dev/null 2>&1; then
        pip=(python3 -m pip)
    elif python3 -m venv "$work/venv" > /dev/null 2>&1; then
        pip=("$work/venv/bin/python" -m pip)
    else
        echo "tests/readers: pip is needed to fetch pandas, polars, DuckDB and pyarrow: apt-get install -y python3-pip (or python3-venv)" >&2
        exit 1
    fi
    mkdir -p "$cache"
    rm -rf "$packages.new"
    "${pip[@]}" install --quiet --disable-pip-version-check --only-binary :all: --target "$packages.new" -r "$requirements"
    mv -T "$packages.new" "$packages"
fi
PYTHONPATH="$packages" python3 tests/readers/readers.py "$twotower" "$work"
