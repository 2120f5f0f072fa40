#!/usr/bin/env bash
# Tests nightly.sh with a stand-in for twotower: locking, exit codes, logs, signals, pruning.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# shellcheck source=deploy/checks.sh
. "$here/checks.sh"

# The stand-in prints its arguments and does what the file `behaviour` says.
mkdir -p "$work/bin" "$work/home"
cat >"$work/bin/twotower" <<'STANDIN'
#!/usr/bin/env bash
echo "called: $*"
echo "a line on stderr" >&2
# shellcheck disable=SC1091
. "$TWOTOWER_HOME/behaviour"
STANDIN
chmod +x "$work/bin/twotower"
export PATH="$work/bin:$PATH" TWOTOWER_HOME="$work/home" TZ=UTC
unset TWOTOWER_CONFIG TWOTOWER_RUNS TWOTOWER_LOGS TWOTOWER_LOG_DAYS TWOTOWER_BIN TWOTOWER_FLAGS TWOTOWER_UPDATE_FROM TWOTOWER_METRICS_FILE
echo 'exit 0' >"$work/home/behaviour"
log="$work/home/logs/2026-01-31.log"

nightly() { "$here/nightly.sh" "$@" >"$work/out" 2>"$work/err"; }
exits() { # exits CODE ARGS...
    local expected="$1"
    shift
    nightly "$@"
    [ $? -eq "$expected" ]
}
wait_for() { # wait_for FILE
    for _ in $(seq 100); do
        [ -e "$1" ] && return 0
        sleep 0.1
    done
    return 1
}

check "a missing job file is refused with 78" exits 78 2026-01-31
check "the refusal names the setting" grep -q TWOTOWER_CONFIG "$work/err"
touch "$work/home/pipeline.toml"
check "a wrong date is refused with 78" exits 78 yesterday

check "a good run exits 0" exits 0 2026-01-31
check "a good run prints nothing" test ! -s "$work/out" -a ! -s "$work/err"
check "the run folder is named after the date" \
    grep -q "called: run --config $work/home/pipeline.toml --run $work/home/runs/2026-01-31 --update-from previous\$" "$log"
check "stderr goes to the log" grep -q "a line on stderr" "$log"
check "the log tells start and end" grep -q "end, exit code 0" "$log"
check "the default date is today" exits 0
check "today has its log" test -s "$work/home/logs/$(date +%F).log"
export TWOTOWER_FLAGS="--threads 2"
check "flags are accepted" exits 0 2026-01-30
check "flags reach the program" grep -q -- "--threads 2\$" "$work/home/logs/2026-01-30.log"
unset TWOTOWER_FLAGS
export TWOTOWER_METRICS_FILE=/metrics/night.prom
check "a file of metrics is accepted" exits 0 2025-12-24
check "and reaches the program" grep -q -- "--metrics-file /metrics/night.prom\$" "$work/home/logs/2025-12-24.log"
unset TWOTOWER_METRICS_FILE
export TWOTOWER_UPDATE_FROM=
check "a fresh start every night can be asked for" exits 0 2026-01-29
check "then no earlier run is named" grep -q "runs/2026-01-29\$" "$work/home/logs/2026-01-29.log"
unset TWOTOWER_UPDATE_FROM

# From other folders, as cron and people start it, and by a relative path.
from() { # from FOLDER HOME DATE
    (cd "$1" && TWOTOWER_HOME="$2" "$here/nightly.sh" "$3" >"$work/out" 2>"$work/err")
}
called="called: run --config $work/home/pipeline.toml --run $work/home/runs"
check "it runs from the root folder" from / "$work/home" 2026-01-28
check "it runs from beside the job, by a relative path" from "$work" home 2026-01-27
check "both call the same paths" test \
    "$(grep -c "$called" "$work/home/logs/2026-01-28.log" "$work/home/logs/2026-01-27.log" | grep -c ":1$")" -eq 2
check "the same date again is the same call" exits 0 2026-01-28
check "the log has both" test "$(grep -c "$called/2026-01-28 --update-from previous\$" "$work/home/logs/2026-01-28.log")" -eq 2
check "no folder is made elsewhere" test ! -e "$work/runs" -a ! -e "$work/home/home"

for code in 1 2 3 4 5; do
    echo "echo the reason; exit $code" >"$work/home/behaviour"
    check "exit code $code is preserved" exits "$code" 2026-01-31
done
check "a failure shows the end of the log" grep -q "the reason" "$work/err"
check "logs of one date are appended" test "$(grep -c start "$log")" -eq 6

# Two runs: the first waits for a file, the second must not start.
echo "touch $work/started; while [ ! -e $work/go ]; do sleep 0.05; done; exit 0" >"$work/home/behaviour"
"$here/nightly.sh" 2026-02-01 &
first=$!
wait_for "$work/started"
check "a second run exits 75" exits 75 2026-02-02
check "the second run says why" grep -q "another run holds" "$work/err"
check "the second run calls nothing" test ! -e "$work/home/logs/2026-02-02.log"
touch "$work/go"
wait "$first"
check "the first run is undisturbed" test $? -eq 0
echo 'exit 0' >"$work/home/behaviour"
check "the lock is free afterwards" exits 0 2026-02-02

# A stopped wrapper stops the program and hands on its exit code.
rm -f "$work/started"
echo "trap 'echo stopping; exit 143' TERM; touch $work/started; while :; do sleep 0.05; done" >"$work/home/behaviour"
"$here/nightly.sh" 2026-02-03 2>/dev/null &
first=$!
wait_for "$work/started"
kill -TERM "$first"
wait "$first"
check "a stopped run exits as the program does" test $? -eq 143
check "the program was told to stop" grep -q stopping "$work/home/logs/2026-02-03.log"
check "the log tells its end" grep -q "end, exit code 143" "$work/home/logs/2026-02-03.log"

echo 'exit 0' >"$work/home/behaviour"
touch -d '40 days ago' "$work/home/logs/2025-12-01.log" "$work/home/logs/notes.txt"
check "a run that prunes exits 0" exits 0 2026-02-04
check "old logs are deleted" test ! -e "$work/home/logs/2025-12-01.log"
check "other files stay" test -e "$work/home/logs/notes.txt"
check "new logs stay" test -e "$log"

if [ "$failures" -ne 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "all passed"
