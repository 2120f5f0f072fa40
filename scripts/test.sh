#!/usr/bin/env bash
# All tests: obtains ONNX Runtime (the towers are tested through it), then runs them in the product's profile.
# usage: scripts/test.sh [options of `cargo test`]
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in cargo cc; do
  command -v "$tool" >/dev/null || { echo "error: \`$tool\` not found; see Prerequisites in README.md" >&2; exit 1; }
done
scripts/onnxruntime.sh >&2
exec cargo test --release --workspace "$@"
