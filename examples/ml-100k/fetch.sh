#!/usr/bin/env bash
# Downloads MovieLens-100K from GroupLens (research use, no redistribution: read its README) and checks it.
# usage: examples/ml-100k/fetch.sh DIR        leaves DIR/ml-100k
set -euo pipefail
dir=${1:?usage: fetch.sh DIR}
url=https://files.grouplens.org/datasets/movielens/ml-100k.zip
md5=0e33842e24a9c977be4e0107933c0723
mkdir -p "$dir"
curl -fL --retry 3 -o "$dir/ml-100k.zip" "$url"
echo "$md5  $dir/ml-100k.zip" | md5sum -c - || { echo "error: $dir/ml-100k.zip is not the archive GroupLens publishes; delete it and try again" >&2; exit 1; }
python3 -m zipfile -e "$dir/ml-100k.zip" "$dir"
echo "now: examples/ml-100k/run.sh $dir/ml-100k"
