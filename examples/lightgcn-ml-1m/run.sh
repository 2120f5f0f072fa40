#!/usr/bin/env bash
# LightGCN and its relatives on MovieLens-1M: ratings of 3 and more, split at random for each user.
# usage: examples/lightgcn-ml-1m/run.sh DATA [SEEDS] [OPTION...]     DATA as for examples/ml-1m; options of
#        examples/graph_models.py, such as --grid layers; without one the grid lightgcn
#        OUT=DIR keeps the runs there
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: run.sh DATA [SEEDS] [OPTION...]} seeds=${2:-3} out=${OUT:-lightgcn-ml-1m-runs}
shift $(($# < 2 ? $# : 2))
TWOTOWER=$("$here/../program.sh")
export TWOTOWER
exec python3 "$here/../graph_models.py" "$out" --data "$data" --seeds "$seeds" --grid lightgcn "$@"
