#!/bin/sh
# Exact search against HNSW by number of items: docs/search.jsonl, and the plot docs/search.svg made from it.
#
#   cargo build --release --workspace --examples --bins
#   benches/search_curve.sh WORK [ITEMS...]
#
# Items and queries are vectors of a model trained for it (benches/search_vectors.py): the queries are its users. WORK gets
# data, vectors and graphs (about 500 MB). Needs Python 3 with numpy and pyarrow.
set -eu
work=$1
shift
[ $# -gt 0 ] || set -- 2000 5000 10000 20000 50000 100000 200000
root=$(dirname "$0")/..
search=$root/target/release/examples/search_speed
python=${PYTHON:-python3}
mkdir -p "$work"
: > "$work/search.jsonl"
for items in "$@"; do
    "$python" "$root/benches/search_vectors.py" "$work" "$items"
    for kind in exact hnsw; do
        "$search" --items "$work/items.f32" --queries "$work/queries.f32" --dim 64 --k 50 --kind $kind \
            --threads 2 --repeats 3 --parallel-build --index "$work/graph-$items" | tee -a "$work/search.jsonl"
    done
done
mv "$work/search.jsonl" "$root/docs/search.jsonl"
"$python" "$root/benches/search_plot.py" "$root/docs/search.jsonl" "$root/docs/search.svg"
