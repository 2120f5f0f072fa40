#!/usr/bin/env bash
# Tests night.sh on a real Slurm of three nodes on this machine, which it starts and stops: a night by one command, the
# same again, two at once, a wrong job file, a list of breakdowns, and random kills. After all of them the bytes must be
# those of a local run.
#
#   deploy/slurm/test_night.sh [KILLS]      (20; 0 leaves out the breakdowns too)
#
# Needs root, and slurmctld, slurmd, slurm-client and munge (Debian's packages), and twotower, from PATH or TWOTOWER_BIN.
# Where there is no Slurm, it says so and ends with 0, or with 1 if TWOTOWER_NEED_SLURM is set. USERS is the size of the
# table of users (300000), TWOTOWER_TEST_DIR a folder that is kept.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
kills="${1:-20}"
# Debian has the daemons there.
PATH="$PATH:/usr/sbin:/sbin"
for program in slurmctld slurmd sbatch munged; do
    if ! command -v "$program" >/dev/null || [ "$(id -u)" -ne 0 ]; then
        echo "skipped: a test on Slurm needs root and $program (apt-get install slurmctld slurmd slurm-client munge)"
        [ -z "${TWOTOWER_NEED_SLURM:-}" ]
        exit
    fi
done
program="$(command -v "${TWOTOWER_BIN:-twotower}")" || {
    echo "test_night.sh: cannot find the program ${TWOTOWER_BIN:-twotower}; set TWOTOWER_BIN" >&2
    exit 1
}
unset TWOTOWER_LOGS TWOTOWER_CONFIG TWOTOWER_RUN TWOTOWER_SHARD JOB_COMPLETION_INDEX SHARDS TRIES
unset PREPARE_OPTIONS SHARD_OPTIONS FINISH_OPTIONS
# shellcheck source=deploy/checks.sh
. "$here/../checks.sh"

# The cluster. Times are short, so that failures show within seconds; nothing listens beyond the loopback.
work="${TWOTOWER_TEST_DIR:-$(mktemp -d)}"
mkdir -p "$work"/{bin,run,log,state,munge,spool/n1,spool/n2,spool/n3,job}
work="$(realpath -- "$work")"
# Everyone may come through to the sockets.
chmod 755 "$work" "$work"/{run,log,state,munge,spool}
export SLURM_CONF="$work/slurm.conf"
host="$(hostname -s)"
port=$((20000 + RANDOM % 10000))
cat >"$SLURM_CONF" <<CONF
ClusterName=twotower
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/munge.socket,cred_expire=5
CryptoType=crypto/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile=$work/run/slurmctld.pid
SlurmctldLogFile=$work/log/slurmctld.log
SlurmdPidFile=$work/run/slurmd-%n.pid
SlurmdLogFile=$work/log/slurmd-%n.log
SlurmdSpoolDir=$work/spool/%n
SlurmdParameters=config_overrides
StateSaveLocation=$work/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2,nohold_on_prolog_fail
SlurmdTimeout=12
MessageTimeout=10
KillWait=5
MinJobAge=3600
ReturnToService=2
PropagateResourceLimits=NONE
NodeName=DEFAULT CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=6000
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1))
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2))
NodeName=n3 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 3))
PartitionName=main Nodes=n1,n2,n3 Default=YES MaxTime=INFINITE State=UP
CONF
echo IgnoreSystemd=yes >"$work/cgroup.conf"
[ -s "$work/munge/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$work/munge/munge.key")

# Ends the daemon of a pid file, if it still is this program.
end() { # end PIDFILE PROGRAM
    local pid
    pid="$(cat "$1" 2>/dev/null)" && [[ $(readlink "/proc/$pid/exe") == */"$2"* ]] && kill "${3:--TERM}" "$pid" || return 0
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid"
}
stop() {
    scancel --user="$(id -un)" 2>/dev/null
    for _ in $(seq 100); do
        [ -z "$(squeue --noheader 2>/dev/null)" ] && break
        sleep 0.1
    done
    for node in n1 n2 n3; do end "$work/run/slurmd-$node.pid" slurmd; done
    end "$work/run/slurmctld.pid" slurmctld
    end "$work/run/munged.pid" munged
    [ -n "${TWOTOWER_TEST_DIR:-}" ] || rm -rf "$work"
}
trap stop EXIT
munged --key-file="$work/munge/munge.key" --socket="$work/munge/munge.socket" --pid-file="$work/run/munged.pid" \
    --log-file="$work/log/munged.log" --seed-file="$work/munge/munge.seed" --num-threads=2 --force
slurmctld -f "$SLURM_CONF"
for _ in $(seq 100); do
    scontrol ping >/dev/null 2>&1 && break
    sleep 0.1
done
for node in n1 n2 n3; do slurmd -f "$SLURM_CONF" -N "$node"; done
idle() { [ "$(sinfo --noheader --Node --states=idle --format=%N | wc -l)" -eq 3 ]; }
until_true() { # until_true SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}
check "$(sinfo --version) has three nodes" until_true 30 idle
[ "$failures" -eq 0 ] || exit 1

# A small job, and the same done locally, shard by shard.
ln -sf "$program" "$work/bin/twotower"
export PATH="$work/bin:$PATH" POLL=1
unset TWOTOWER_BIN
cd "$work/job" || exit 1
if [ ! -e pipeline.toml ]; then
    twotower -q synth data --users "${USERS:-300000}" --items 1000 >/dev/null 2>&1 &&
        twotower -q init --users data/users --items data/items.parquet --interactions data/interactions \
            --output job.toml >/dev/null 2>&1 &&
        sed 's/^\[train\]$/&\nepochs = 1/' job.toml >pipeline.toml || exit 1
fi
locally() {
    local i
    twotower -q encode-features --run local/run && twotower -q train --run local/run &&
        twotower -q infer --side item --run local/run || return 1
    for i in 0 1 2 3 4 5 6 7; do
        twotower -q infer --side user --shard "$i/8" --run local/run &&
            twotower -q recall --shard "$i/8" --run local/run || return 1
    done
} >/dev/null 2>&1
check "the local run" locally
# Every file but logs, times and checkpoints.
bytes() { (cd "$1" && find vectors recall samples index/index.bin towers/*.onnx encoders/*.parquet encoders/vocab -type f ! -name '*.json' -print0 | sort -z | xargs -0 sha256sum); }
bytes local/run >local.sums
check "has results of eight shards" test "$(grep -c recall/ local.sums)" -eq 8
same() { bytes "$1" | diff - local.sums >&2; }

night() { "$here/night.sh" "$@" >"$work/out" 2>"$work/err"; }
exits() { # exits CODE ARGS...
    local expected="$1" code
    shift
    night "$@"
    code=$?
    [ "$code" -eq "$expected" ] || {
        echo "exit code $code, expected $expected" >&2
        cat "$work/out" "$work/err" >&2
        return 1
    }
}
nothing_queued() { [ -z "$(squeue --noheader)" ]; }
# Six tasks at once.
small=(--cpus-per-task=1 --mem=1500M)
tasks() { # tasks PATTERN RUN: how many lines of the logs of a run have it
    cat "logs/$2"/*.log | grep -c "$1"
}

# One command, start to end.
check "a night by one command" exits 0 --wait pipeline.toml runs/2026-01-31 8 "${small[@]}"
check "the same bytes as locally" same runs/2026-01-31
check "latest names it" test "$(readlink runs/latest)" = 2026-01-31
check "each task took one try" test "$(tasks ' try ' 2026-01-31)" -eq 10
check "the last line says so" grep -q "^2026-01-31: prepare done; shards: 8 of 8 done, 0 running, 0 waiting; finish done\$" "$work/out"
allocation() {
    sbatch --wait --output=doctor.log "${small[@]}" --wrap='srun --cpus-per-task=1 twotower doctor --run local/run' >&2
    grep -c '1500.0 MiB given to this task by Slurm\|1 usable, by Slurm' doctor.log
}
check "a task takes memory and cores of its allocation" test "$(allocation)" -eq 2
find runs/2026-01-31 -type f -printf '%p %i %T@\n' | sort >before
check "the same night again" exits 0 --wait pipeline.toml runs/2026-01-31 8 "${small[@]}"
find runs/2026-01-31 -type f -printf '%p %i %T@\n' | sort >after
check "writes nothing" diff before after
check "latest names it still" test "$(readlink runs/latest)" = 2026-01-31
check "its logs are kept" test "$(tasks ' try ' 2026-01-31)" -eq 20

# Two submissions: while the first waits, while it runs, and at the same moment.
check "a night that is put off" exits 0 pipeline.toml runs/2026-02-01 8 "${small[@]}" --begin=now+1hour
check "a second one of this run is refused" exits 75 pipeline.toml runs/2026-02-01 8 "${small[@]}"
check "the refusal names the jobs" grep -q "scancel [0-9]* [0-9]* [0-9]*\`" "$work/err"
check "nothing of it stays" test "$(squeue --noheader --array | wc -l)" -eq 10
check "the first is under way" exits 75 --status pipeline.toml runs/2026-02-01
check "and says so" grep -q "prepare waiting; shards: 0 of 8 done, 0 running, 8 waiting; finish waiting" "$work/out"
check "a night of another folder is not refused" exits 0 pipeline.toml elsewhere/2026-02-01 8 "${small[@]}" --begin=now+1hour
scancel --user="$(id -un)"
until_true 20 nothing_queued
sleep 1
check "one that was cancelled has failed" exits 1 --status pipeline.toml runs/2026-02-01
for i in 1 2 3 4; do
    ("$here/night.sh" --wait pipeline.toml runs/2026-02-01 8 "${small[@]}" >"out.$i" 2>&1; echo $? >"code.$i") &
    moment[i]=$!
done
wait "${moment[@]}"
check "of four at the same moment one goes through" test "$(cat code.? | sort | tr '\n' ' ')" = "0 75 75 75 "
check "with the same bytes" same runs/2026-02-01
check "by one try each" test "$(tasks ' try ' 2026-02-01)" -eq 10
check "the night before again" exits 0 --wait pipeline.toml runs/2026-01-31 8 "${small[@]}"
check "does not become latest again" test "$(readlink runs/latest)" = 2026-02-01

# What a retry cannot mend.
sed 's/^epochs = 1$/epoch = 1/' pipeline.toml >wrong.toml
check "a wrong job file fails" exits 1 --wait wrong.toml runs/2026-02-02 8 "${small[@]}"
check "after one try" test "$(tasks ' try ' 2026-02-02)" -eq 1
check "with the reason in the log" grep -q epoch logs/2026-02-02/prepare.log
check "the last line names it" grep -q "prepare failed with exit code 2, given up" "$work/out"
check "nothing waits" nothing_queued
check "an option that Slurm refuses" exits 1 pipeline.toml runs/2026-02-02 8 --partition=none
check "leaves no job" nothing_queued

# The programs of jobs, and the tasks that run.
programs() { # programs PREFIX: "PID TASK STEP" of the jobs whose name begins so
    local pid name
    for pid in $(pgrep -x twotower); do
        grep -qz "^SLURM_CONF=$SLURM_CONF\$" "/proc/$pid/environ" 2>/dev/null || continue
        name="$(tr '\0' '\n' <"/proc/$pid/environ" | sed -n 's/^SLURM_JOB_NAME=//p')"
        [[ $name == "$1"* ]] || continue
        echo "$pid $(tr '\0' '\n' <"/proc/$pid/environ" | sed -n 's/^SLURM_JOB_ID=//p') ${name##*-}"
    done 2>/dev/null # a program may end meanwhile
}
some() { [ -n "$(programs "$1")" ]; }
running() { squeue --noheader --array --states=R --name=twotower-2026-02-03-shard --format='%A %N' | sort -n; }
several() { [ "$(running | wc -l)" -ge 4 ]; }

# Cancelled by a person: it stays so, until the same command is given again.
check "a night to be cancelled" exits 0 pipeline.toml runs/2026-02-02 8 "${small[@]}"
until_true 60 some twotower-2026-02-02-prepare
scancel --name=twotower-2026-02-02-prepare
check "all of its jobs end" until_true 30 nothing_queued
sleep 1
check "it has failed" exits 1 --status pipeline.toml runs/2026-02-02
check "the last line says so" grep -q "prepare was ended" "$work/out"
check "it goes on when the same command is given again" exits 0 --wait pipeline.toml runs/2026-02-02 8 "${small[@]}"
check "with the same bytes" same runs/2026-02-02

breakdowns() {
    local pid job
    "$here/night.sh" --wait pipeline.toml runs/2026-02-03 8 "${small[@]}" >out.night 2>&1 &
    local night=$!
    until_true 60 some twotower-2026-02-03-prepare || return 1
    read -r pid job _ < <(programs twotower-2026-02-03-prepare)
    echo "  kill -9 of the first job's program $pid" && kill -9 "$pid"
    until_true 120 several || return 1
    sleep 1
    read -r pid job _ < <(programs twotower-2026-02-03-shard)
    echo "  kill -9 of the program $pid of task $job" && kill -9 "$pid"
    sleep 1
    read -r job _ < <(running | tail -n 1)
    echo "  requeue of task $job" && scontrol requeue "$job"
    echo "  n2 is drained" && scontrol update NodeName=n2 State=DRAIN Reason=test
    sleep 2
    echo "  kill -9 of the daemon of n3, beside $(running | grep -c n3) tasks" && end "$work/run/slurmd-n3.pid" slurmd -KILL
    sleep 2
    echo "  n1 is down for 3 s, with $(running | grep -c n1) tasks"
    scontrol update NodeName=n1 State=DOWN Reason=test
    sleep 3
    scontrol update NodeName=n1 State=RESUME 2>/dev/null # it may be back by itself
    sleep 8
    echo "  n2 is back" && scontrol update NodeName=n2 State=RESUME
    echo "  $("$here/night.sh" --status pipeline.toml runs/2026-02-03)"
    sleep 8
    echo "  n3 is back" && slurmd -f "$SLURM_CONF" -N n3
    wait "$night"
    local code=$?
    tail -n 1 out.night
    return "$code"
}
if [ "$kills" -gt 0 ]; then
    check "a night with breakdowns ends by itself" breakdowns
    check "with the same bytes" same runs/2026-02-03
    check "and is latest" test "$(readlink runs/latest)" = 2026-02-03
    check "some task was queued again" test "$(tasks ' try [2-9] ' 2026-02-03)" -ge 2
    until_true 60 idle
fi

# Random kills, in as many nights as they take.
export TRIES=1000
RANDOM=7
done_kills=0
random_kills() { # random_kills RUN
    local pid job step killed=0 name
    local -A hit=()
    name="$(basename "$1")"
    "$here/night.sh" --wait pipeline.toml "$1" 8 "${small[@]}" >out.night 2>&1 &
    local night=$!
    while kill -0 "$night" 2>/dev/null && [ "$done_kills" -lt "$kills" ]; do
        sleep "$((RANDOM % 2)).$((RANDOM % 9 + 1))"
        read -r pid job step < <(programs "twotower-$name" | shuf -n 1 --random-source=<(yes "$RANDOM"))
        [ -n "$step" ] || continue
        # Most of them for the shards: there is one program before and after them, which has to come through.
        [ "$step" = shard ] || [ "${hit[$step]:-0}" -lt 4 ] || continue
        case $((RANDOM % 3)) in
        0) kill -9 "$pid" 2>/dev/null || continue ;;
        1) kill -TERM "$pid" 2>/dev/null || continue ;;
        2) scontrol requeue "$job" 2>/dev/null || continue ;;
        esac
        killed=$((killed + 1))
        hit["$step"]=$((${hit["$step"]:-0} + 1))
        done_kills=$((done_kills + 1))
    done
    wait "$night"
    local code=$?
    echo "  $killed kills (prepare ${hit[prepare]:-0}, shards ${hit[shard]:-0}, finish ${hit[finish]:-0}), $(tasks ' try ' "$name") tries: $(tail -n 1 out.night)"
    return "$code"
}
round=0
while [ "$done_kills" -lt "$kills" ] && [ "$round" -lt 50 ]; do
    round=$((round + 1))
    run="kills/$(printf 'night-%02d' "$round")"
    check "a night with random kills ends by itself" random_kills "$run"
    check "with the same bytes" same "$run"
    check "and is latest" test "$(readlink kills/latest)" = "$(basename "$run")"
done
[ "$kills" -eq 0 ] || check "$done_kills kills in $round nights" test "$done_kills" -ge "$kills"

if [ "$failures" -ne 0 ]; then
    echo "$failures failed"
    exit 1
fi
echo "all passed"
