#!/usr/bin/env bash
# One job of a night on Slurm. `slurm-night.sh` submits all of them; a step can also be submitted by itself:
#
#   sbatch slurm-task.sh prepare CONFIG RUN
#   sbatch --array=0-7 slurm-task.sh shard CONFIG RUN
#   sbatch slurm-task.sh finish CONFIG RUN
#
#   prepare   encoders, towers, and the vectors of all items
#   shard     vectors of the users of a shard, and their items; the array must start at 0. A shard can be done again
#             alone, with SHARDS set to the number of all: sbatch --array=3 --export=ALL,SHARDS=8 ...
#   finish    evaluation and quality gates; switches `latest`
#
# CONFIG and RUN are on a file system that all nodes share. A task that was killed is queued again, TRIES times in all
# (default 3), unless its exit code is one that a retry cannot mend (2 to 5). What is complete is not done again.
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
    echo "usage: sbatch [--array=0-N] slurm-task.sh prepare|shard|finish CONFIG RUN" >&2
    exit 2
fi
config="$2"
run="$3"
tries="${TRIES:-3}"
echo "$step ${SLURM_ARRAY_TASK_ID:-}, try $((${SLURM_RESTART_COUNT:-0} + 1)) on ${SLURMD_NODENAME:-an unknown node}"
# polars has a variable of its own for its threads.
export POLARS_MAX_THREADS="${SLURM_CPUS_PER_TASK:-1}"

# Runs a stage. srun hands signals to the program, which takes its threads and its memory from Slurm's variables.
# Slurm's own --requeue is for lost nodes and preemption: a task whose program was killed (137, memory) or stopped (143,
# a time limit or a drained node) would stay FAILED.
stage() {
    local code=0
    srun --ntasks=1 "${TWOTOWER_BIN:-twotower}" "$@" --config "$config" --run "$run" || code=$?
    case "$code" in
    0) return 0 ;;
    2 | 3 | 4 | 5) exit "$code" ;;
    esac
    if [ $((${SLURM_RESTART_COUNT:-0} + 1)) -lt "$tries" ]; then
        echo "exit code $code: queued again"
        scontrol requeue "$SLURM_JOB_ID"
        sleep 60 # Slurm ends this script
    fi
    exit "$code"
}

case "$step" in
prepare)
    stage encode-features
    stage train
    stage infer --side item
    ;;
shard)
    # twotower reads its shard's number from SLURM_ARRAY_TASK_ID.
    shards="${SHARDS:-${SLURM_ARRAY_TASK_COUNT:?not inside an array: sbatch --array=0-N}}"
    stage infer --side user --shards "$shards"
    stage recall --shards "$shards"
    ;;
finish)
    stage evaluate
    stage publish
    ;;
esac
