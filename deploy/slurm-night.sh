#!/usr/bin/env bash
# A whole night on Slurm: what comes before the shards, the shards as an array, and what comes after them.
#
#   slurm-night.sh CONFIG RUN [SHARDS] [SBATCH OPTION...]
#
# CONFIG and RUN are on a file system that all nodes share; SHARDS is 8 unless it is given. More options go to all three
# jobs: --partition, --account, --chdir and the like. Prints the numbers of the jobs. A job whose predecessor failed is
# cancelled instead of waiting for ever.
set -euo pipefail

if [ $# -lt 2 ] || [[ ! ${3:-8} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: slurm-night.sh CONFIG RUN [SHARDS] [SBATCH OPTION...]" >&2
    exit 2
fi
config="$(realpath -- "$1")"
run="$(realpath -m -- "$2")"
shards="${3:-8}"
shift $(($# < 3 ? $# : 3))
task="$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/slurm-task.sh"

# submit STEP [OPTION...]: prints the job's number.
submit() {
    local step="$1"
    shift
    local job
    job="$(sbatch --parsable --job-name="twotower-$step" "$@" "$task" "$step" "$config" "$run")"
    printf '%s\n' "${job%%;*}" # the name of a cluster follows the number, where there are several
}
after() { printf -- '--dependency=afterok:%s\n' "$1"; }

prepare="$(submit prepare "$@")"
array="$(submit shard "$(after "$prepare")" --kill-on-invalid-dep=yes --array="0-$((shards - 1))" "$@")"
finish="$(submit finish "$(after "$array")" --kill-on-invalid-dep=yes "$@")"
printf 'prepare %s\nshards %s\nfinish %s\n' "$prepare" "$array" "$finish"
