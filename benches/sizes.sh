#!/bin/sh
# Time and memory of `infer` and `recall` by number of users, each command a process of its own.
#
#   benches/sizes.sh DIR [MILLIONS]...
#
# DIR/trained holds a model of 1,000,000 users, as benches/night.sh makes it; tables of so many million users (1, 10
# and 50 where none are given) are made in DIR and removed again. MEMORY is the budget, 512MiB by default. DIR needs
# 290 bytes a user. Prints a line a command: its seconds, users a second, and peak memory.
set -eu
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- 1 10 50
twotower=${TWOTOWER:-$(cd "$(dirname "$0")/.." && pwd)/target/release/twotower}

[ -e "$dir/trained/run/evaluation/manifest.json" ] || "$twotower" demo "$dir/trained" --users 1000000 --quiet

# Runs a command of the job and prints what it took; what was removed before is the disk's work no longer.
measure() {
    name=$1
    shift
    sync
    /usr/bin/time -f '%e %M' -o "$dir/sizes/time" "$twotower" "$@" --config "$dir/trained/pipeline.toml" \
        --run "$dir/sizes/run" --memory "${MEMORY:-512MiB}" --quiet \
        --set "tables.users.path=\"$dir/sizes/data/users/*.parquet\"" > "$dir/sizes/out" 2>&1 || {
        cat "$dir/sizes/out" >&2
        exit 1
    }
    awk -v name="$name" -v millions="$millions" '{
        printf "%-20s %3d million: %7.1f s %9d users/s %5d MiB\n", name, millions, $1, millions * 1e6 / $1, $2 / 1024
    }' "$dir/sizes/time"
}

for millions in "$@"; do
    rm -rf "$dir/sizes"
    mkdir -p "$dir/sizes/run/vectors" "$dir/sizes/run/manifests/vectors"
    "$twotower" synth "$dir/sizes/data" --users "${millions}000000" --quiet > "$dir/sizes/out"
    cp -R "$dir/trained/run/encoders" "$dir/trained/run/towers" "$dir/sizes/run"
    cp -R "$dir/trained/run/vectors/item" "$dir/sizes/run/vectors"
    cp -R "$dir/trained/run/manifests/vectors/item" "$dir/sizes/run/manifests/vectors"
    measure 'infer' infer --side user
    measure 'recall' recall
    rm -rf "$dir/sizes/run/recall" "$dir/sizes/run/vectors/user"
    measure 'infer --recall' infer --side user --recall
    rm -rf "$dir/sizes/run/recall" "$dir/sizes/run/vectors"
    measure 'infer, native' infer --side user --engine native
    rm -rf "$dir/sizes/run/vectors"
    measure 'infer, int16' infer --side user --engine native-int16
    rm -rf "$dir/sizes/run/vectors"
    measure 'infer, int16, f16' infer --side user --engine native-int16 --set infer.precision=f16
done
rm -rf "$dir/sizes"
