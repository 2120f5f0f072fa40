#!/usr/bin/env bash
# SASRec and TiSASRec on MovieLens-100K, with and without hyper-connections. ml-100k/fetch.sh leaves DATA.
# usage: examples/tisasrec-ml-100k/run.sh DATA [SEEDS] [OPTION...]     options of examples/sequence_models.py, such as
#        --grid cl4srec; without one the grids tisasrec,mhc
#        OUT=DIR keeps the runs there
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: run.sh DATA [SEEDS] [OPTION...]} seeds=${2:-3} out=${OUT:-tisasrec-ml-100k-runs}
shift $(($# < 2 ? $# : 2))
TWOTOWER=$("$here/../program.sh")
export TWOTOWER
exec python3 "$here/../sequence_models.py" "$out" --data "$data/u.data" --seeds "$seeds" --grid "tisasrec,mhc" "$@"
