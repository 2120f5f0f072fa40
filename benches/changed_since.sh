#!/bin/sh
# What `--changed-since` saves: a second night in which 5% of USERS users have changed, beside doing all of them, in turns.
#
#   benches/changed_since.sh DIR [USERS] [PAIRS]
#
# Users have EVENTS events each (10), the towers were trained on 20,000 other users. With ATTENTION=1 the user tower has a
# transformer of two blocks and width 64 over the last 20 items. ITEMS is the size of the catalogue (2,000), ENGINE the
# engine (native), TOPK the length of lists (50). Prints the lines of `infer` and `recall` with seconds and peaks, of doing
# all and of taking what has not changed, one after the other, and says whether both left the same files. Needs python3 with
# numpy and pyarrow (PYTHON names it), and in DIR about 2 KiB a user.
set -eu
dir=$(realpath -m "$1")
users=${2:-1000000}
pairs=${3:-3}
here=$(cd "$(dirname "$0")" && pwd)
twotower=${TWOTOWER:-$here/../target/release/twotower}
python=${PYTHON:-python3}
mkdir -p "$dir/small"

recent='{ kind = "numeric", name = "tenure" },\n    { kind = "sequence", name = "recent", max_len = 20, table = "product" },'
sed -e 's,data/interactions,data/events,' -e "s/{ kind = \"numeric\", name = \"tenure\" },/$recent/" \
    -e 's/{ kind = "id", name = "product" }/{ kind = "id", name = "product", table = "product" }/' \
    "$here/../pipeline/src/demo_pipeline.toml" > "$dir/pipeline.toml"
if [ -n "${ATTENTION:-}" ]; then
    sed -i 's/^kind = "dssm"/kind = "dssm"\npooling = "attention"\nembedding_dims = { product = 64 }\nattention = { blocks = 2, heads = 2 }/' \
        "$dir/pipeline.toml"
fi
cp "$dir/pipeline.toml" "$dir/small/"

# make FOLDER USERS: data of that many users, where it is not there yet.
make() {
    [ "$(cat "$1/users.txt" 2> /dev/null)" = "$2 ${ITEMS:-2000} ${EVENTS:-10}" ] && return
    "$twotower" synth "$1" --users "$2" --items "${ITEMS:-2000}" --force --quiet
    "$python" "$here/events.py" "$1" "${EVENTS:-10}"
    echo "$2 ${ITEMS:-2000} ${EVENTS:-10}" > "$1/users.txt"
}

make "$dir/small/data" 20000
rm -rf "$dir/data" "$dir/runs"
make "$dir/data" "$users"
accept="--accept history --accept drift --accept lists --accept unknown --accept overlap --accept metric --accept coverage"
settings="--engine ${ENGINE:-native} --set recall.topk=${TOPK:-50} --set infer.row_hashes=true --quiet"
cd "$dir"
# shellcheck disable=SC2086
"$twotower" run --config small/pipeline.toml --run small/run --set train.epochs=1 $settings $accept > /dev/null
# shellcheck disable=SC2086
"$twotower" run --run runs/1 --update-from small/run --no-train $settings $accept > /dev/null
"$python" - << 'END'
"""Changes a number of one user in twenty."""
import glob

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

rng = np.random.default_rng(11)
for path in sorted(glob.glob("data/users/*.parquet")):
    table = pq.read_table(path)
    at = table.schema.get_field_index("arpu")
    arpu = table["arpu"].to_numpy(zero_copy_only=False)
    changed = np.where(rng.random(len(arpu)) < 0.05, np.nan_to_num(arpu, nan=1.0) * 1.25 + 0.01, arpu)
    column = pa.array(changed, type=table.schema.field(at).type, from_pandas=True)
    pq.write_table(table.set_column(at, table.schema.field(at), column), path)
END
# shellcheck disable=SC2086
"$twotower" run --run runs/2 --update-from runs/1 --no-train $settings $accept > /dev/null
for stage in "infer --side user" recall; do
    for pair in $(seq "$pairs"); do
        echo "$stage, all users, $pair:"
        # shellcheck disable=SC2086
        "$twotower" $stage --run runs/2 --force $settings
        sums=$(cat runs/2/vectors/user/*.parquet runs/2/recall/*.parquet runs/2/row-hashes/*/*.parquet | sha256sum)
        echo "$stage, those who have changed, $pair:"
        # shellcheck disable=SC2086
        "$twotower" $stage --run runs/2 --force $settings --changed-since runs/1
        [ "$sums" = "$(cat runs/2/vectors/user/*.parquet runs/2/recall/*.parquet runs/2/row-hashes/*/*.parquet | sha256sum)" ] ||
            { echo "the files differ"; exit 1; }
    done
done
echo "the files are the same"
