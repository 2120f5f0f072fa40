# Sourced by demo.sh and test.sh: goes to the repository's root, checks what the build needs, obtains ONNX Runtime.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for tool in cargo cc; do
  command -v "$tool" >/dev/null || { echo "error: \`$tool\` not found; see Prerequisites in README.md" >&2; exit 1; }
done
scripts/onnxruntime.sh >&2
