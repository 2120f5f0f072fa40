#!/usr/bin/env bash
# What the MovieLens examples share: trains and evaluates a prepared job over several seeds, once with the
# validation item held back (how hyper-parameters were chosen) and once with it given back to training.
# usage: examples/movielens.sh JOB_DIR EPOCHS_FINAL SEEDS OUT [PROTOCOL...]     called by run.sh
set -euo pipefail
job=$1 final_epochs=$2 seeds=$3 out=$4
shift 4
here=$(cd "$(dirname "$0")/.." && pwd)
bin=$("$here/examples/program.sh")

# one NAME SEED [--set ...]: encode, train, evaluate in $out/NAME-SEED
one() {
  local name=$1 seed=$2
  shift 2
  local args=(--config "$job/pipeline.toml" --run "$out/$name-$seed" --set "train.seed=$seed" "$@")
  "$bin" encode-features "${args[@]}" >&2
  "$bin" train "${args[@]}" >&2
  "$bin" evaluate "${args[@]}" > "$out/$name-$seed.txt"
}

for protocol in "${@:-held-out final}"; do
  for seed in $(seq 1 "$seeds"); do
    case $protocol in
      held-out) one held-out "$seed" ;;
      final) one final "$seed" --set split.train_on_validation=true --set "train.epochs=$final_epochs" ;;
      time) one time "$seed" --set 'split={kind="time",validation=0.1,test=0.1}' ;;
    esac
  done
done
python3 "$here/examples/summary.py" "$out"
