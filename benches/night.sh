#!/bin/sh
# A night: every user of a table of USERS to its best 50 of 2,000 items, by a model trained before.
#
#   benches/night.sh DIR [USERS] [MEMORY] [ENGINE]
#
# With APART=1 vectors of users are kept: `infer` and `recall` are two stages. LIMIT, such as 512M, runs the night
# in a memory control group of that size (cgroup v1, as root).
#
# Makes DIR/trained (a model of 1,000,000 users) where it is missing, then times two commands: making the
# table, and the run: vocabularies of all users, their vectors straight to recalled items, as Parquet. DIR
# needs about 320 bytes a user: 48 GB for the default, 150,000,000. It takes tens of minutes.
set -eu
dir=$1
users=${2:-150000000}
memory=${3:-768MiB}
engine=${4:-ort}
fused=--fused
[ -z "${APART:-}" ] || fused=
twotower=${TWOTOWER:-$(dirname "$0")/../target/release/twotower}
mkdir -p "$dir"

if [ ! -e "$dir/trained/run/evaluation/manifest.json" ]; then
    "$twotower" demo "$dir/trained" --users 1000000 --quiet
fi
cp "$dir/trained/pipeline.toml" "$dir/pipeline.toml"

began=$(date +%s)
"$twotower" synth "$dir/data" --users "$users" --force --quiet
made=$(date +%s)
echo "synth: $users users ($((made - began)) s)"
if [ -n "${LIMIT:-}" ]; then
    group=/sys/fs/cgroup/memory/twotower-night
    mkdir -p "$group"
    echo "$LIMIT" > "$group/memory.limit_in_bytes"
    echo $$ > "$group/cgroup.procs"
fi
# shellcheck disable=SC2086
"$twotower" run --config "$dir/pipeline.toml" --run "$dir/nights/tonight" --force --quiet \
    --update-from "$dir/trained/run" --no-train $fused --memory "$memory" --set "infer.engine=\"$engine\""
ended=$(date +%s)
echo "the night: $((ended - began)) s with synth, $((ended - made)) s without"
