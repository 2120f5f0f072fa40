#!/usr/bin/env bash
# The main job, end to end, on data it makes itself: obtains ONNX Runtime, builds twotower, then
#   twotower demo DIR [--users N] [--items M] [--json] ...
# usage: scripts/demo.sh [DIR] [options of `twotower demo`]        (DIR defaults to ./demo)
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in cargo cc; do
  command -v "$tool" >/dev/null || { echo "error: \`$tool\` not found; see Prerequisites in README.md" >&2; exit 1; }
done
scripts/onnxruntime.sh >&2
cargo build --release --workspace --bins >&2
case "${1:--}" in -*) set -- demo "$@" ;; esac
exec "${CARGO_TARGET_DIR:-target}/release/twotower" demo "$@"
