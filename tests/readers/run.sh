#!/usr/bin/env bash
# Opens results as the documents say, with pandas, polars, DuckDB and pyarrow: makes a small run with the given program,
# and executes the Python blocks of docs/FORMATS.md ("Opening results") and of the READMEs on it, as they stand there.
# That the packages cannot be had (scripts/python_env.sh) is a failure.
#
# usage: tests/readers/run.sh TWOTOWER        (the program, built)
set -euo pipefail
twotower=$(realpath "$1")
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$(scripts/python_env.sh)
"$python" tests/readers/readers.py "$twotower" "$work"
