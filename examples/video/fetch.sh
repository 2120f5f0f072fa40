#!/usr/bin/env bash
# Downloads Video.txt, as SASRec's authors publish it (from McAuley's Amazon reviews of video games), and checks it.
# usage: examples/video/fetch.sh DIR        leaves DIR/Video.txt
set -euo pipefail
dir=${1:?usage: fetch.sh DIR}
url=https://raw.githubusercontent.com/kang205/SASRec/master/data/Video.txt
sha256=b7376fe24430743f411dc7f567285657b2adb3f74361cc7ba0aee94f3024b651
mkdir -p "$dir"
curl -fL --retry 3 -o "$dir/Video.txt" "$url"
echo "$sha256  $dir/Video.txt" | sha256sum -c - || { echo "error: $dir/Video.txt is not the file that SASRec's authors publish; delete it and try again" >&2; exit 1; }
echo "now: examples/video/run.sh $dir/Video.txt"
