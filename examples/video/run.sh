#!/usr/bin/env bash
# SASRec on reviews of video games: losses and the paper's evaluation.
# usage: examples/video/run.sh Video.txt [SEEDS] [OPTION...]     options of examples/sequence_models.py, such as
#        --grid cl4srec; without one the grids losses,paper
#        OUT=DIR keeps the runs there
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: run.sh Video.txt [SEEDS] [OPTION...]} seeds=${2:-3} out=${OUT:-video-runs}
shift $(($# < 2 ? $# : 2))
TWOTOWER=$("$here/../program.sh")
export TWOTOWER
exec python3 "$here/../sequence_models.py" "$out" --data "$data" --seeds "$seeds" --grid "losses,paper" "$@"
