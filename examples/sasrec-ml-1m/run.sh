#!/usr/bin/env bash
# SASRec on MovieLens-1M: losses, the paper's evaluation, and orders of layer norms.
# usage: examples/sasrec-ml-1m/run.sh ml-1m.txt [SEEDS] [OPTION...]     options of examples/sequence_models.py, such as
#        --grid cl4srec; without one the grids losses,paper,norms
#        OUT=DIR keeps the runs there
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: run.sh ml-1m.txt [SEEDS] [OPTION...]} seeds=${2:-3} out=${OUT:-sasrec-ml-1m-runs}
shift $(($# < 2 ? $# : 2))
TWOTOWER=$("$here/../program.sh")
export TWOTOWER
exec python3 "$here/../sequence_models.py" "$out" --data "$data" --seeds "$seeds" --grid "losses,paper,norms" "$@"
