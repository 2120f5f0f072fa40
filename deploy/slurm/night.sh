#!/usr/bin/env bash
# A whole night on Slurm: what comes before the shards, the shards as an array, and what comes after them.
#
#   night.sh [--wait] CONFIG RUN [SHARDS[%AT_ONCE]] [SBATCH OPTION...]
#   night.sh --status CONFIG RUN
#
# CONFIG and RUN are on a file system that all nodes share; SHARDS is 8 unless it is given, and all of them at once.
# More options go to all three jobs: --partition, --account, --time, --mem and the like; --job-name, --comment and --output
# are this script's own. A job whose predecessor failed is cancelled instead of waiting for ever.
#
#   --wait     come back when the night has ended
#   --status   one line that says where the night is
#
# Settings, from the environment (defaults in parentheses):
#   TWOTOWER_LOGS      logs, in a folder per run: prepare.log, shard-I.log, finish.log (logs, beside CONFIG)
#   PREPARE_OPTIONS, SHARD_OPTIONS, FINISH_OPTIONS   sbatch options of one of the jobs, separated by blanks (none)
#   POLL               seconds between two looks with --wait (10)
#   TRIES, TWOTOWER_BIN and what twotower itself reads go on to the jobs: see task.sh
#
# The same command again goes on in the same run: what is complete is not done again, and logs are appended to. While the
# jobs of an earlier submission wait or run, nothing is submitted.
#
# Exit codes: 0 submitted, or with --wait and --status the night is done; 1 a job failed or cannot be submitted; 2 wrong
# usage; 75 jobs of this run are still there.
set -euo pipefail
shopt -s inherit_errexit

usage() {
    sed -n '4,5s/^#  /usage:/p' "${BASH_SOURCE[0]}" >&2
    exit 2
}
mode=submit
case "${1:-}" in
--wait | --status)
    mode="${1#--}"
    shift
    ;;
esac
if [ $# -lt 2 ] || [[ $1 == -* || $2 == -* ]]; then
    usage
fi
config="$(realpath -m -- "$1")"
run="$(realpath -m -- "$2")"
shift 2
shards=8
if [[ ${1:-} =~ ^[1-9][0-9]*(%[1-9][0-9]*)?$ ]]; then
    shards="$1"
    shift
elif [ $# -gt 0 ] && [[ $1 != -* ]]; then
    usage
fi
if [ "$mode" = status ] && [ $# -gt 0 ]; then
    usage
fi
if [ "$mode" != status ] && [ ! -r "$config" ]; then
    echo "night.sh: cannot read the job file $config" >&2
    exit 2
fi
name="$(basename -- "$run")"
if [[ ! $name =~ ^[A-Za-z0-9._-]+$ || $run == *'|'* ]]; then
    echo "night.sh: the run is $run, expected a name of letters, digits and .-_, as it becomes part of the jobs' names" >&2
    exit 2
fi
logs="$(realpath -m -- "${TWOTOWER_LOGS:-$(dirname -- "$config")/logs}")/$name"
task="$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/task.sh"

# The jobs of this run that wait or run, of whichever submission: "NUMBER[_INDEX] STATE NAME".
# The comment tells runs of one name apart.
queued() {
    local all
    all="$(squeue --noheader --array --format='%i|%T|%j|%k' \
        --name="twotower-$name-prepare,twotower-$name-shard,twotower-$name-finish")" || return 1
    awk -F'|' -v run="$run" '$4 == run { print $1, $2, $3 }' <<<"$all"
}

# state LOG NUMBER: what the log says last of a job that has left the queue, as "done" or a reason.
state() {
    local last
    last="$(grep -h "^== job $2 " "$1" 2>/dev/null | tail -n 1)" || true
    case "$last" in
    *' done') echo 'done' ;;
    '') echo 'did not begin' ;;
    *' try '*) echo "was ended (see $1)" ;;
    *) echo "failed with ${last##*: } (see $1)" ;;
    esac
}

# Prints where the last submission is; 0 done, 1 failed, 75 under way.
status() {
    local number step count jobs waiting running finished text failed=0 left=0 line=''
    if [ ! -s "$logs/jobs" ]; then
        echo "$name: nothing was submitted (no $logs/jobs)"
        return 1
    fi
    jobs="$(queued)" || return 75
    while read -r step number count; do
        read -r waiting running < <(awk -v number="$number" '
            { split($1, id, "_") } id[1] == number { if ($2 == "PENDING") w++; else r++ }
            END { print w + 0, r + 0 }' <<<"$jobs")
        if [ "$step" = shard ]; then
            finished=0
            text=''
            for ((i = 0; i < count; i++)); do
                if grep -q "^${number}_$i " <<<"$jobs"; then continue; fi
                case "$(state "$logs/shard-$i.log" "${number}_$i")" in
                done) finished=$((finished + 1)) ;;
                'did not begin') failed=1 ;;
                *)
                    failed=1
                    text+=", shard $i $(state "$logs/shard-$i.log" "${number}_$i")"
                    ;;
                esac
            done
            line+="; shards: $finished of $count done, $running running, $waiting waiting$text"
        elif [ $((waiting + running)) -gt 0 ]; then
            line+="; $step $([ "$running" -gt 0 ] && echo running || echo waiting)"
        else
            text="$(state "$logs/$step.log" "$number")"
            [ "$text" = 'done' ] || failed=1
            line+="; $step $text"
        fi
        left=$((left + waiting + running))
    done <"$logs/jobs"
    printf '%s: %s\n' "$name" "${line#; }"
    [ "$left" -eq 0 ] || return 75
    return "$failed"
}

if [ "$mode" = status ]; then
    status && exit 0 || exit $?
fi

mkdir -p -- "$logs"
# submit STEP [OPTION...]: prints the job's number. `%` in a path would be a pattern of Slurm.
submit() {
    local step="$1" log="${logs//%/%%}/$1.log" job own
    shift
    [ "$step" != shard ] || log="${logs//%/%%}/shard-%a.log"
    own="${step^^}_OPTIONS"
    read -r -a own <<<"${!own:-}"
    job="$(sbatch --parsable ${options[@]+"${options[@]}"} ${own[@]+"${own[@]}"} --open-mode=append --output="$log" \
        --job-name="twotower-$name-$step" --comment="$run" "$@" "$task" "$step" "$config" "$run")" || return 1
    printf '%s\n' "${job%%;*}" # the name of a cluster follows the number, where there are several
}
options=("$@")
after() { printf -- '--dependency=afterok:%s\n' "$1"; }

# The first job is held until all are there: either all are submitted, or none stays.
submitted=()
trap '[ ${#submitted[@]} -eq 0 ] || scancel "${submitted[@]}"' EXIT
prepare="$(submit prepare --hold)"
submitted+=("$prepare")
# Of two submissions at once, the one with the lower number goes on.
earlier="$(queued | awk -v own="$prepare" '{ split($1, id, "_") } id[1] + 0 < own + 0')"
if [ -n "$earlier" ]; then
    {
        echo "night.sh: jobs of $run are still there, nothing is submitted; wait for them, or end them with" \
            "\`scancel $(awk '{ split($1, id, "_"); print id[1] }' <<<"$earlier" | sort -nu | tr '\n' ' ' | sed 's/ $//')\`:"
        printf '%s\n' "$earlier"
    } >&2
    exit 75
fi
array="$(submit shard "$(after "$prepare")" --kill-on-invalid-dep=yes \
    --array="0-$((${shards%%%*} - 1))${shards#"${shards%%%*}"}")"
submitted+=("$array")
finish="$(submit finish "$(after "$array")" --kill-on-invalid-dep=yes)"
submitted+=("$finish")
printf 'prepare %s\nshard %s %s\nfinish %s\n' "$prepare" "$array" "${shards%%%*}" "$finish" >"$logs/jobs"
scontrol release "$prepare"
submitted=()
printf 'prepare %s\nshards %s\nfinish %s\nlogs %s\n' "$prepare" "$array" "$finish" "$logs"
printf 'where it is: %q --status %q %q\n' "${BASH_SOURCE[0]}" "$config" "$run"
[ "$mode" = wait ] || exit 0

# The log of a job that has just ended may come a moment later through a shared file system.
patience=6
while :; do
    code=0
    line="$(status)" || code=$?
    case "$code" in
    0) break ;;
    1)
        patience=$((patience - 1))
        [ "$patience" -gt 0 ] || break
        ;;
    esac
    sleep "${POLL:-10}"
done
printf '%s\n' "$line"
exit "$code"
