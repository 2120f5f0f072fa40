#!/usr/bin/env bash
# DSSM on MovieLens-100K: every rating a positive, leave-last-out in time order and a split by time, full ranking.
# usage: examples/ml-100k/run.sh DATA [SEEDS]     DATA holds u.data, u.user and u.item (see fetch.sh)
#        OUT=DIR keeps the runs there
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: run.sh DATA [SEEDS]} seeds=${2:-3} out=${OUT:-ml-100k-runs}
mkdir -p "$out/job"
cp "$here/pipeline.toml" "$data/u.user" "$data/u.data" "$out/job/"
# 19 genre flags become one list; the year is the end of the release date.
LC_ALL=C awk -F'|' 'BEGIN { print "movie_id\tyear\tgenres" }
  { year = $3; sub(/.*-/, "", year); genres = ""
    for (g = 6; g <= 24; g++) if ($g == 1) genres = genres (genres == "" ? "" : "|") (g - 6)
    print $1 "\t" year "\t" genres }' "$data/u.item" > "$out/job/items.tsv"
exec "$here/../movielens.sh" "$out/job" 12 "$seeds" "$out" held-out final time
