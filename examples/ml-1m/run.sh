#!/usr/bin/env bash
# DSSM on MovieLens-1M: every rating a positive, leave-last-out in time order, full ranking, earlier items excluded.
# usage: examples/ml-1m/run.sh DATA [SEEDS] [JOB]   DATA holds users.dat, movies.dat and ratings.dat (see fetch.sh)
#        JOB is `pipeline` (the default: DSSM over counted histories) or `attention` (a transformer reads them)
#        OUT=DIR keeps the runs there (default: ml-1m-JOB in the current folder)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: run.sh DATA [SEEDS] [JOB]} seeds=${2:-3} job=${3:-pipeline}
case $job in
  pipeline) final_epochs=8 ;;
  attention) final_epochs=15 ;;
  *) echo "run.sh: expected the job pipeline or attention, found $job" >&2; exit 2 ;;
esac
out=${OUT:-ml-1m-$job}
mkdir -p "$out/job"
cp "$here/$job.toml" "$out/job/pipeline.toml"
cp "$data/users.dat" "$out/job/"
# The year stands at the end of the title; the job reads it as a column of its own.
LC_ALL=C awk -F'::' 'BEGIN { print "movie_id\tyear\tgenres" }
  { year = $2; sub(/.*\(/, "", year); sub(/\).*/, "", year); print $1 "\t" year "\t" $3 }' "$data/movies.dat" > "$out/job/items.tsv"
# ratings_chrono.csv (user,item,rating,pos) has a user's ratings by rank in time; ratings.dat has the time itself.
if [ -f "$data/ratings.dat" ]; then
  LC_ALL=C awk -F'::' 'BEGIN { print "user,item,time" } { print $1 "," $2 "," $4 }' "$data/ratings.dat"
else
  LC_ALL=C awk -F, 'BEGIN { print "user,item,time" } NR > 1 { print $1 "," $2 "," $4 }' "$data/ratings_chrono.csv"
fi > "$out/job/interactions.csv"
exec "$here/../movielens.sh" "$out/job" "$final_epochs" "$seeds" "$out" held-out final
