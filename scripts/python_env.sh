#!/usr/bin/env bash
# Makes the Python environment that tests of the documents use, and prints its interpreter's path.
#   scripts/python_env.sh [FOLDER]        (FOLDER defaults to the user's cache folder)
set -euo pipefail
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/twotower/python}
packages=(numpy==2.4.6 pyarrow==26.0.1 onnxruntime==1.31.1)
if [ "$(cat "$folder/packages" 2>/dev/null)" != "${packages[*]}" ]; then
    python3 -m venv --clear "$folder" >&2
    "$folder/bin/pip" install --quiet "${packages[@]}" >&2
    echo "${packages[*]}" > "$folder/packages"
fi
echo "$folder/bin/python"
