#!/usr/bin/env bash
# Prints the path of the program that the examples run: TWOTOWER where it is set, else a release build of this source,
# for which it fetches ONNX Runtime where there is none.
# usage: bin=$(examples/program.sh)
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${TWOTOWER:-}" ]; then
  "$here/scripts/onnxruntime.sh" >&2
  (cd "$here" && cargo build --release --workspace --bins >&2)
  TWOTOWER="${CARGO_TARGET_DIR:-$here/target}/release/twotower"
fi
echo "$TWOTOWER"
