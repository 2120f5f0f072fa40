#!/bin/sh
# A soak: one `infer` process over ROWS rows, and its memory after the first minute and at the end.
#
#   benches/soak.sh DIR [ROWS] [MEMORY] [ENGINE]
#
# DIR/trained holds a model of 1,000,000 users, as benches/night.sh makes it. The table of DIR/data (50,000,000 users,
# made where it is missing) is read as often as it takes to come to ROWS, 500,000,000 by default. Vectors of so many
# rows are 128 GB: parts that are complete are removed while the others are made. DIR needs 6 GB. It takes about a
# quarter of an hour.
set -eu
mkdir -p "$1"
dir=$(cd "$1" && pwd)
rows=${2:-500000000}
memory=${3:-512MiB}
engine=${4:-native}
users=50000000
twotower=${TWOTOWER:-$(cd "$(dirname "$0")/.." && pwd)/target/release/twotower}

[ -e "$dir/trained/run/evaluation/manifest.json" ] || "$twotower" demo "$dir/trained" --users 1000000 --quiet
[ -e "$dir/data/meta.json" ] || "$twotower" synth "$dir/data" --users "$users" --quiet
rm -rf "$dir/soak"
mkdir -p "$dir/soak/users"
times=$(( (rows + users - 1) / users ))
for time in $(seq "$times"); do
    for file in "$dir"/data/users/*.parquet; do
        ln -s "$file" "$dir/soak/users/$(printf '%04d' "$time")-${file##*/}"
    done
done

"$twotower" infer --config "$dir/trained/pipeline.toml" --run "$dir/trained/run" --side user --quiet \
    --table "$dir/soak/users/*.parquet" --output "$dir/soak/vectors" --memory "$memory" --engine "$engine" &
pid=$!
began=$(date +%s)
rss() { awk '/^VmRSS/ { print $2 }' "/proc/$pid/status" 2> /dev/null || true; }
first='' last='' most=0
while kill -0 "$pid" 2> /dev/null; do
    now=$(rss)
    if [ -n "$now" ]; then
        last=$now
        [ "$now" -le "$most" ] || most=$now
        [ -n "$first" ] || [ $(($(date +%s) - began)) -lt 60 ] || first=$now
    fi
    rm -f "$dir"/soak/vectors/part-*.parquet
    sleep 1
done
wait "$pid"
seconds=$(($(date +%s) - began))
parts=$(find "$dir/soak/vectors" -name 'part-*.json' | wc -l)
echo "soak: $((users * times)) rows, $parts parts, in $seconds s; after the first minute ${first:-none} KiB, at the end $last KiB, at most $most KiB"
rm -rf "$dir/soak"
