#!/usr/bin/env bash
# One nightly run: takes a lock, runs `twotower run` in a folder named after the date, and logs.
#
#   nightly.sh [YYYY-MM-DD]      the date names the run folder; default today in TZ
#
# Settings, from the environment (defaults in parentheses):
#   TWOTOWER_HOME      folder of the job (/srv/twotower)
#   TWOTOWER_CONFIG    job file ($TWOTOWER_HOME/pipeline.toml)
#   TWOTOWER_RUNS      run folders, runs/YYYY-MM-DD ($TWOTOWER_HOME/runs)
#   TWOTOWER_LOGS      log files, logs/YYYY-MM-DD.log ($TWOTOWER_HOME/logs)
#   TWOTOWER_LOG_DAYS  older logs are deleted (30)
#   TWOTOWER_BIN       the program (twotower, from PATH)
#   TWOTOWER_UPDATE_FROM  the run that is extended (previous: the last one that passed its gates, or a
#                      fresh start where there is none yet); empty for a fresh start every night
#   TWOTOWER_METRICS_FILE  file for node exporter's textfile collector, such as
#                      /var/lib/node_exporter/twotower.prom (none); twotower writes it at the end of the night
#   TWOTOWER_FLAGS     more flags for `twotower run`, separated by blanks (none)
#   TZ                 time zone of the date (UTC)
#
# Exit codes: 75 when another run holds the lock, 78 when the settings are wrong, else twotower's own
# (0 done, 2 usage, 3 input data, 4 artifacts that do not belong together, 5 quality gate, 1 else).
#
# The same date again goes on in the same folder: finished stages are skipped, and it starts from the
# same earlier run. The link `latest` is moved by twotower itself, once the run is complete.
# Relative paths in these settings count from the folder of the job, wherever the script is started.
set -uo pipefail

export TZ="${TZ:-UTC}"
home="${TWOTOWER_HOME:-/srv/twotower}"
log_days="${TWOTOWER_LOG_DAYS:-30}"
program="${TWOTOWER_BIN:-twotower}"
update_from="${TWOTOWER_UPDATE_FROM-previous}"
read -r -a flags <<<"${TWOTOWER_FLAGS:-}"
[ -z "$update_from" ] || flags=(--update-from "$update_from" ${flags[@]+"${flags[@]}"})
metrics_file="${TWOTOWER_METRICS_FILE:-}"
# As a flag alone: a program that is older than it says so.
unset TWOTOWER_METRICS_FILE
[ -z "$metrics_file" ] || flags+=(--metrics-file "$metrics_file")

refuse() {
    printf 'nightly.sh: %s\n' "$1" >&2
    exit 78
}

[ $# -le 1 ] || refuse "one argument at most, a date; got $#"
date="${1:-$(date +%F)}"
[[ $date =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] || refuse "the date is '$date', expected YYYY-MM-DD"
[[ $log_days =~ ^[0-9]+$ ]] || refuse "TWOTOWER_LOG_DAYS is '$log_days', expected a number of days"
case "$program" in
*/*) program="$(realpath -- "$program" 2>/dev/null || printf '%s' "$program")" ;;
esac
if [ -d "$home" ]; then
    cd -- "$home" || refuse "cannot go to the folder of the job $home; set TWOTOWER_HOME"
    home="$PWD"
fi
export TWOTOWER_HOME="$home"
config="${TWOTOWER_CONFIG:-$home/pipeline.toml}"
runs="${TWOTOWER_RUNS:-$home/runs}"
logs="${TWOTOWER_LOGS:-$home/logs}"
[ -r "$config" ] || refuse "cannot read the job file $config; set TWOTOWER_CONFIG"
command -v "$program" >/dev/null || refuse "cannot find the program $program; set TWOTOWER_BIN"
mkdir -p "$runs" "$logs" || refuse "cannot make the folders $runs and $logs"

# The lock is a lock on an open file: it ends with its last holder, however that ends. The program
# inherits it, so that it also outlives a killed wrapper.
exec 9>>"$runs/.nightly.lock" || refuse "cannot open $runs/.nightly.lock"
if ! flock --nonblock 9; then
    printf 'nightly.sh: another run holds %s; nothing done\n' "$runs/.nightly.lock" >&2
    exit 75
fi

log="$logs/$date.log"
say() {
    printf '%s nightly.sh: %s\n' "$(date +%FT%T%z)" "$1" >>"$log"
}
say "start, run folder $runs/$date" || refuse "cannot write $log"

"$program" run --config "$config" --run "$runs/$date" ${flags[@]+"${flags[@]}"} >>"$log" 2>&1 &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT HUP
wait "$child"
code=$?
# A signal ends `wait` before the program has stopped.
while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
done
trap - TERM INT HUP

say "end, exit code $code"
find "$logs" -maxdepth 1 -type f -name '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].log' -mtime "+$log_days" -delete
if [ "$code" -ne 0 ]; then
    # cron mails what a job prints.
    printf 'nightly.sh: twotower run failed with exit code %s; last lines of %s:\n' "$code" "$log" >&2
    tail -n 20 "$log" >&2
fi
exit "$code"
