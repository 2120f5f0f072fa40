#!/usr/bin/env bash
# Downloads ml-1m.txt, as SASRec's authors publish it (from MovieLens-1M by GroupLens: research use, no redistribution), and checks it.
# usage: examples/sasrec-ml-1m/fetch.sh DIR        leaves DIR/ml-1m.txt
set -euo pipefail
dir=${1:?usage: fetch.sh DIR}
url=https://raw.githubusercontent.com/kang205/SASRec/master/data/ml-1m.txt
sha256=b725f3acb3986fe3130bffd1e77a74d182a1f51799567a236dbd60270f95b0a2
mkdir -p "$dir"
curl -fL --retry 3 -o "$dir/ml-1m.txt" "$url"
echo "$sha256  $dir/ml-1m.txt" | sha256sum -c - || { echo "error: $dir/ml-1m.txt is not the file that SASRec's authors publish; delete it and try again" >&2; exit 1; }
echo "now: examples/sasrec-ml-1m/run.sh $dir/ml-1m.txt"
