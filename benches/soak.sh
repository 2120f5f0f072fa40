#!/bin/sh
# A soak: one `infer` process over ROWS rows, and its memory in the first minute and in the last.
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
    --table "$dir/soak/users/*.parquet" --output "$dir/soak/output" --memory "$memory" --engine "$engine" &
pid=$!
began=$(date +%s)
: > "$dir/soak/rss"
while kill -0 "$pid" 2> /dev/null; do
    rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status" 2> /dev/null || true)
    [ -z "$rss" ] || echo "$(($(date +%s) - began)) $rss" >> "$dir/soak/rss"
    rm -f "$dir"/soak/output/vectors/part-*.parquet
    sleep 1
done
wait "$pid"
seconds=$(($(date +%s) - began))
parts=$(find "$dir/soak/output/manifests" -name 'part-*.json' | wc -l)
echo "soak: $((users * times)) rows, $parts parts, in $seconds s"
# A part begins by giving memory back, so that one reading says little: the middle one of a minute does, and the highest.
minute() {
    awk -v from="$1" -v to="$2" '$1 > from && $1 <= to { print $2 }' "$dir/soak/rss" | sort -n |
        awk '{ rss[NR] = $1 } END { print rss[int((NR + 1) / 2)], rss[NR] }'
}
end=$(tail -n 1 "$dir/soak/rss" | cut -d ' ' -f 1)
echo "$(minute 0 60) $(minute $((end - 60)) "$end")" | awk '{
    printf "resident, median: %d KiB in the first minute, %d KiB in the last (%+.1f%%)\n", $1, $3, 100 * ($3 / $1 - 1)
    printf "resident, at most: %d KiB in the first minute, %d KiB in the last (%+.1f%%)\n", $2, $4, 100 * ($4 / $2 - 1)
}'
rm -rf "$dir/soak"
