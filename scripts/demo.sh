#!/usr/bin/env bash
# The main job, end to end, on data it makes itself: obtains ONNX Runtime, builds twotower, then
#   twotower demo DIR [--users N] [--items M] [--json] ...
# usage: scripts/demo.sh [DIR] [options of `twotower demo`]        (DIR defaults to ./demo)
set -euo pipefail
case "${1:--}" in -*) set -- demo "$@" ;; esac
dir=$(realpath -m "$1")
shift
source "$(dirname "$0")/prepare.sh"
cargo build --release --workspace --bins >&2
exec "${CARGO_TARGET_DIR:-target}/release/twotower" demo "$dir" "$@"
