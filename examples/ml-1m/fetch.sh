#!/usr/bin/env bash
# Downloads MovieLens-1M from GroupLens (research use, no redistribution: read its README) and checks it.
# usage: examples/ml-1m/fetch.sh DIR        leaves DIR/ml-1m
set -euo pipefail
dir=${1:?usage: fetch.sh DIR}
url=https://files.grouplens.org/datasets/movielens/ml-1m.zip
md5=c4d9eecfca2ab87c1945afe126590906
mkdir -p "$dir"
curl -fL --retry 3 -o "$dir/ml-1m.zip" "$url"
echo "$md5  $dir/ml-1m.zip" | md5sum -c - || { echo "error: $dir/ml-1m.zip is not the archive GroupLens publishes; delete it and try again" >&2; exit 1; }
python3 -m zipfile -e "$dir/ml-1m.zip" "$dir"
echo "now: examples/ml-1m/run.sh $dir/ml-1m"
