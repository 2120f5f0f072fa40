#!/usr/bin/env bash
# All tests: obtains ONNX Runtime (the towers are tested through it), then runs them in the product's profile.
# usage: scripts/test.sh [options of `cargo test`]
set -euo pipefail
source "$(dirname "$0")/prepare.sh"
exec cargo test --release --workspace "$@"
