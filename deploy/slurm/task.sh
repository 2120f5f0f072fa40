#!/usr/bin/env bash
# One job of a night on Slurm. `night.sh` submits all of them; a step can also be submitted by itself:
#
#   sbatch task.sh prepare CONFIG RUN
#   sbatch --array=0-7 task.sh shard CONFIG RUN
#   sbatch task.sh finish CONFIG RUN
#
#   prepare   encoders, towers, and the vectors of all items
#   shard     vectors of the users of a shard, and their items; the array must start at 0. A shard can be done again
#             alone, with SHARDS set to the number of all: sbatch --array=3 --export=ALL,SHARDS=8 ...
#   finish    evaluation and quality gates; switches `latest`, unless it names a run of a later date
#
# CONFIG and RUN are on a file system that all nodes share. A task that was killed or stopped is queued again, TRIES times
# in all (default 3; what Slurm itself queues again counts too), unless its exit code is one that a retry cannot mend (2 to
# 5). What is complete is not done again. TWOTOWER_BIN is the program (twotower, from PATH).
#SBATCH --job-name=twotower
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@60
#SBATCH --output=twotower-%x-%A_%a.log
set -euo pipefail

step="${1:-}"
if [ $# -ne 3 ] || [[ ! $step =~ ^(prepare|shard|finish)$ ]]; then
    echo "usage: sbatch [--array=0-N] task.sh prepare|shard|finish CONFIG RUN" >&2
    exit 2
fi
config="$2"
run="$3"
tries="${TRIES:-3}"
try=$((${SLURM_RESTART_COUNT:-0} + 1))
# night.sh --status reads these lines.
job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
say() { echo "== job $job $(date +%FT%T%z) $step: $1"; }
say "try $try on ${SLURMD_NODENAME:-an unknown node}"
# polars has a variable of its own for its threads.
export POLARS_MAX_THREADS="${SLURM_CPUS_PER_TASK:-1}"

# Runs a stage. srun hands signals to the program, which takes its threads and its memory from Slurm's variables; srun
# takes the number of cores from its own option alone.
# Slurm's own --requeue is for lost nodes and preemption: a task whose program was killed (137, memory) or stopped (143,
# a time limit or a drained node) would stay FAILED.
stage() {
    local code=0
    srun --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        "${TWOTOWER_BIN:-twotower}" "$@" --config "$config" --run "$run" || code=$?
    case "$code" in
    0) return 0 ;;
    2 | 3 | 4 | 5) ;;
    *)
        if [ "$try" -lt "$tries" ]; then
            say "exit code $code, queued again"
            if scontrol requeue "$SLURM_JOB_ID"; then
                sleep 600 # Slurm ends this script
            fi
        fi
        ;;
    esac
    say "exit code $code, given up"
    exit "$code"
}

case "$step" in
prepare)
    stage encode-features
    stage train
    stage infer --side item
    ;;
shard)
    shards="${SHARDS:-${SLURM_ARRAY_TASK_COUNT:?not inside an array: sbatch --array=0-N}}"
    stage infer --side user --shard "$SLURM_ARRAY_TASK_ID/$shards"
    stage recall --shard "$SLURM_ARRAY_TASK_ID/$shards"
    ;;
finish)
    stage evaluate
    # An earlier night that is done again, to look at it say, is not put in place of a later one.
    date='^[0-9]{4}-[0-9]{2}-[0-9]{2}$'
    own="$(basename -- "$run")"
    latest="$(basename -- "$(readlink -- "$(dirname -- "$run")/latest" || true)")"
    if [[ $own =~ $date && $latest =~ $date && $latest > $own ]]; then
        echo "latest names $latest, which is later: $own is not published (twotower publish --run $run does it)"
    else
        stage publish
    fi
    ;;
esac
say "done"
