#!/usr/bin/env bash
# Runs a night as Kubernetes would, with a stand-in for kubectl (stand_in.py) that runs the commands of the manifests, pod by
# pod: the chain, the same again, pods that are killed, a wrong job file. After all of them the bytes must be those of a run
# without shards. This needs no cluster, and tests none: what a real one does with the manifests is not tested here.
#   deploy/kubernetes/test_chain.sh
# Needs twotower, from PATH or TWOTOWER_BIN; PyYAML is fetched with the validator.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
program="$(command -v "${TWOTOWER_BIN:-twotower}")" || {
    echo "test_chain.sh: cannot find the program ${TWOTOWER_BIN:-twotower}; set TWOTOWER_BIN" >&2
    exit 1
}
python="$("$here/../../scripts/python_env.sh" '' "$here/validate.txt")" || exit 1
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# shellcheck source=deploy/checks.sh
. "$here/../checks.sh"
mkdir "$work/bin" "$work/cluster"
ln -s "$program" "$work/bin/twotower"
printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$python" "$here/stand_in.py" >"$work/bin/kubectl"
chmod +x "$work/bin/kubectl"
export PATH="$work/bin:$PATH" CLUSTER="$work/cluster"
unset TWOTOWER_CONFIG TWOTOWER_RUN TWOTOWER_RUNS TWOTOWER_SHARD TWOTOWER_MEMORY JOB_COMPLETION_INDEX JOB_NAME SHARDS FAULTS FLAKY
# The job file of the manifests, with results as lines: those of all shards, one after the other, are those of a whole run.
twotower -q synth "$work/tables" --users 2000 --items 200 >/dev/null || exit 1
sed "s|/data/tables|$work/tables|; s|^\[recall\]\$|&\nformat = \"jsonl\"|" "$here/base/pipeline.toml" >"$work/pipeline.toml"
printf '\n[train]\nepochs = 1\n' >>"$work/pipeline.toml"
settings() { printf '{"TWOTOWER_CONFIG": "%s", "TWOTOWER_RUNS": "%s", "POLL": "0.1"}' "$1" "$work/runs"; }
SETTINGS="$(settings "$work/pipeline.toml")"
export SETTINGS
whole() { twotower -q run --config "$work/pipeline.toml" --run "$work/whole/run" >"$work/out" 2>&1; }
check "a run without shards" whole
cat "$work"/whole/run/recall/part-* >"$work/whole.jsonl"
check "has a line for each user" test "$(wc -l <"$work/whole.jsonl")" -eq 2000

# A night that hangs is a failure.
night() { timeout 300 kubectl create job "twotower-night-$1" --from=cronjob/twotower-night >/dev/null; }
ended() { grep -q "\"$2\"" "$CLUSTER/$1.json"; }
pods() { grep -c "^twotower-\($1\)-$2 " "$CLUSTER/pods"; }
same() { cat "$work/runs/$1"/recall/part-* | cmp - "$work/whole.jsonl"; }

night 2026-01-31
check "a night is done" ended twotower-night-2026-01-31 Complete
check "a pod for each shard, and one for each other step" test "$(pods 'head\|shards\|tail' 2026-01-31)" -eq 10
check "the same bytes as without shards" same 2026-01-31
check "latest names it" test "$(readlink "$work/runs/latest")" = 2026-01-31
find "$work/runs/2026-01-31" -type f -printf '%p %i %T@\n' | sort >"$work/before"
sleep 1
kubectl delete job twotower-night-2026-01-31
night 2026-01-31
check "the same night again is done" ended twotower-night-2026-01-31 Complete
check "by Jobs of its own" test "$(pods 'head\|shards\|tail' 2026-01-31)" -eq 20
find "$work/runs/2026-01-31" -type f -printf '%p %i %T@\n' | sort >"$work/after"
check "and writes nothing" cmp "$work/before" "$work/after"

FAULTS='twotower-head-2026-02-01 None KILL
twotower-head-2026-02-01 None TERM
twotower-shards-2026-02-01 3 KILL
twotower-shards-2026-02-01 3 KILL
twotower-shards-2026-02-01 5 TERM
twotower-tail-2026-02-01 None KILL' FLAKY=1 night 2026-02-01 2>/dev/null
# The call above may be one of those that fail.
[ -e "$CLUSTER/twotower-night-2026-02-01.json" ] || night 2026-02-01
check "a night with pods that are killed, and an API that fails, is done" ended twotower-night-2026-02-01 Complete
check "a killed pod was tried again" test "$(grep -c '^twotower-shards-2026-02-01 3 137$' "$CLUSTER/pods")" -eq 2
check "a pod that is told to stop ends so" grep -q '^twotower-shards-2026-02-01 5 143$' "$CLUSTER/pods"
check "six pods were killed" test "$(grep -c '2026-02-01 .* 1[34][37]$' "$CLUSTER/pods")" -eq 6
check "the same bytes" same 2026-02-01
check "latest names it" test "$(readlink "$work/runs/latest")" = 2026-02-01
sleep 1
kubectl delete job twotower-night-2026-01-31
night 2026-01-31
check "an earlier night again is done" ended twotower-night-2026-01-31 Complete
check "and does not become latest" test "$(readlink "$work/runs/latest")" = 2026-02-01

sed 's/^epochs = 1$/epoch = 1/' "$work/pipeline.toml" >"$work/wrong.toml"
SETTINGS="$(settings "$work/wrong.toml")" night 2026-02-02
check "a wrong job file fails the night" ended twotower-night-2026-02-02 Failed
check "after one pod" test "$(grep -c '2026-02-02 ' "$CLUSTER/pods")" -eq 2
check "whose exit code is 2" grep -q '^twotower-head-2026-02-02 - 2$' "$CLUSTER/pods"
check "and the log names the key" grep -q epoch "$CLUSTER/twotower-head-2026-02-02.log"
sleep 1
kubectl delete job twotower-night-2026-02-02
night 2026-02-02
check "once it is mended, the same night again is done" ended twotower-night-2026-02-02 Complete

echo '{"created": "2026-01-01T00:00:00Z", "conditions": []}' >"$CLUSTER/twotower-shards-2026-02-03.json"
night 2026-02-03
check "a night that is under way is left alone" ended twotower-night-2026-02-03 Failed
check "with exit code 75" grep -q '^twotower-night-2026-02-03 - 75$' "$CLUSTER/pods"
night today
check "the date is that of the night's Job" ended "twotower-tail-$(date -u +%F)" Complete

if [ "$failures" -ne 0 ]; then
    tail -n 5 "$CLUSTER"/*.log
    echo "$failures failed"
    exit 1
fi
echo "all passed"
