#!/usr/bin/env bash
# One SLURM array task per shard: vectors of the shard's users, then their recall.
#
#   sbatch --array=0-7 slurm-array.sh CONFIG RUN
#
# RUN, on a file system that all nodes share, holds encoders, towers and item vectors already: make
# them once, before the array, with `twotower encode-features`, `train` and `infer --side item`.
# The array must start at 0. A task that failed may be run again alone (`sbatch --array=3`, with
# SHARDS set to the full number): a shard's output is a function of its inputs and replaces itself.
#SBATCH --job-name=twotower
#SBATCH --array=0-7
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
#SBATCH --output=twotower-%A_%a.log
set -euo pipefail

if [ $# -ne 2 ]; then
    echo "usage: sbatch --array=0-N slurm-array.sh CONFIG RUN" >&2
    exit 2
fi
config="$1"
run="$2"
shards="${SHARDS:-${SLURM_ARRAY_TASK_COUNT:?not inside a SLURM array}}"

# twotower reads its shard number from SLURM_ARRAY_TASK_ID. srun hands signals to the program.
srun twotower infer --config "$config" --run "$run" --side user --shards "$shards"
srun twotower recall --config "$config" --run "$run" --shards "$shards"
