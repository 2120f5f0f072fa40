#!/usr/bin/env bash
# A step of a night in a pod: step.sh head|shards|tail
#
# From the environment: JOB_NAME, whose end is the date of the night; TWOTOWER_RUNS, the folder of the runs;
# TWOTOWER_CONFIG, the job file; for `shards` SHARDS and JOB_COMPLETION_INDEX, which an Indexed Job sets. A step's output is
# a function of its inputs, and what is complete is not done again, so a pod may run twice.
set -euo pipefail

runs="${TWOTOWER_RUNS:?the folder of the runs}"
date="${JOB_NAME: -10}"
if [[ ! $date =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]]; then
    echo "step.sh: the name of the Job is $JOB_NAME, expected one that ends with the date of the night, as twotower-head-2026-01-31" >&2
    exit 2
fi
export TWOTOWER_RUN="$runs/$date"

# The shell hands a stop on to the program, which then ends at the next part.
stage() {
    twotower "$@" &
    wait $!
}
trap 'kill -TERM $(jobs -p) 2>/dev/null; wait; exit 143' TERM

case "${1:-}" in
head)
    stage encode-features
    stage train
    stage infer --side item
    ;;
shards)
    stage infer --side user --shard "$JOB_COMPLETION_INDEX/$SHARDS"
    stage recall --shard "$JOB_COMPLETION_INDEX/$SHARDS"
    ;;
tail)
    stage evaluate
    # An earlier night that is done again, to look at it say, is not put in place of a later one.
    latest="$(basename -- "$(readlink -- "$runs/latest" || true)")"
    if [[ $latest =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ && $latest > $date ]]; then
        echo "latest names $latest, which is later: $date is not published (twotower publish --run $TWOTOWER_RUN does it)"
    else
        stage publish
    fi
    ;;
*)
    echo "usage: step.sh head|shards|tail" >&2
    exit 2
    ;;
esac
