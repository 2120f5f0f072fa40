#!/bin/sh
# A night in which every user has a history: USERS users with 3 events each, recent items as a feature of the user
# tower, top 50 of 2,000 items without those seen, by a model trained before on 100,000 other users.
#
#   benches/timeline.sh DIR [USERS] [MEMORY]
#
# With PLAIN=1 the tower has no recent items; events are excluded from the results all the same. With SASREC=1 the model
# is SASRec, 64 wide with 2 blocks, which reads up to 20 items. EVENTS=20 makes so many for each user. With LIMIT, such as
# 345M, `recall` is done once more, alone, in a memory control group of that size (cgroup v1, as root), with nothing of
# the timeline in memory before: the page cache then has what the program leaves of the limit.
#
# Prints the lines of the stages with seconds and peaks. Needs python3 with numpy and pyarrow (PYTHON names it), and in
# DIR about 500 bytes a user, and 25 for each event more than three.
set -eu
dir=$(realpath -m "$1")
users=${2:-20000000}
memory=${3:-512MiB}
events=${EVENTS:-3}
here=$(cd "$(dirname "$0")" && pwd)
twotower=${TWOTOWER:-$here/../target/release/twotower}
python=${PYTHON:-python3}
mkdir -p "$dir"

job=$here/../pipeline/src/demo_pipeline.toml
sed 's,data/interactions,data/events,' "$job" > "$dir/pipeline.toml"
set --
if [ -n "${SASREC:-}" ]; then
    set -- --set 'features.user=[{ kind = "sequence", name = "recent", max_len = 20, table = "product" }]' \
        --set 'features.item=[{ kind = "id", name = "product", table = "product" }]' \
        --set 'model={ kind = "sasrec", dim = 64, blocks = 2 }'
elif [ -z "${PLAIN:-}" ]; then
    sed -i -e 's/{ kind = "numeric", name = "tenure" },/&\n    { kind = "sequence", name = "recent", max_len = 20, table = "product" },/' \
        -e 's/{ kind = "id", name = "product" }/{ kind = "id", name = "product", table = "product" }/' "$dir/pipeline.toml"
fi

# make FOLDER USERS: data of that many users, where it is not there yet.
make() {
    [ -e "$1/events/part-00000.parquet" ] && [ "$(cat "$1/users.txt" 2> /dev/null)" = "$2 $events" ] && return
    "$twotower" synth "$1" --users "$2" --force --quiet
    "$python" "$here/events.py" "$1" "$events"
    echo "$2 $events" > "$1/users.txt"
}

mkdir -p "$dir/small"
make "$dir/small/data" 100000
make "$dir/data" "$users"
cp "$dir/pipeline.toml" "$dir/small/"
accept="--accept history --accept drift --accept lists --accept unknown --accept overlap --accept metric --accept coverage"
# shellcheck disable=SC2086
"$twotower" run --config "$dir/small/pipeline.toml" --run "$dir/small/run" --quiet --set train.epochs=1 "$@" $accept > /dev/null
began=$(date +%s)
# shellcheck disable=SC2086
"$twotower" run --config "$dir/pipeline.toml" --run "$dir/run" --force --quiet --update-from "$dir/small/run" \
    --no-train --fused --memory "$memory" "$@" $accept
echo "the night: $users users, $(($(date +%s) - began)) s; the timeline has $(wc -c < "$dir/run/encoders/timeline.bin") bytes"

if [ -n "${LIMIT:-}" ]; then
    sync
    echo 3 > /proc/sys/vm/drop_caches
    group=/sys/fs/cgroup/memory/twotower-timeline
    mkdir -p "$group"
    echo "$LIMIT" > "$group/memory.limit_in_bytes"
    echo $$ > "$group/cgroup.procs"
    "$twotower" recall --config "$dir/pipeline.toml" --run "$dir/run" --fused --force --quiet --memory 250MiB "$@"
fi
