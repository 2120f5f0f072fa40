#!/usr/bin/env bash
# A night on Kubernetes: makes a Job of each step (head, shards, tail), one after the other, and waits for it.
#
# Runs in the pod of the CronJob twotower-night, or anywhere with kubectl and JOB_NAME. The Jobs are named
# twotower-STEP-DATE, which is all that this script remembers: when its pod is killed, another one goes on. The date is the end
# of the own Job's name, where it is one, else the day in TZ on which the own Job was made. So this does a night again, or now:
#
#   kubectl create job twotower-night-2026-01-31 --from=cronjob/twotower-night
#
# Jobs of this date from before the own Job are replaced once they have ended; while one is under way, nothing is done.
#
# Exit codes: 0 done, 1 a step failed, 2 wrong settings, 69 Jobs cannot be made, 75 this night is under way.
set -euo pipefail

own="${JOB_NAME:?the name of the Job of this night}"
poll="${POLL:-10}"
say() { echo "$(date +%FT%T%z) $1"; }

# get JOB: "CREATED [CONDITION...]" or nothing if there is no such Job; waits until the API answers.
get() {
    until kubectl get job "$1" --ignore-not-found \
        --output=jsonpath='{.metadata.creationTimestamp} {.status.conditions[?(@.status=="True")].type}'; do
        sleep "$poll"
    done
}
has_ended() { [[ " $1 " == *' Complete '* || " $1 " == *' Failed '* ]]; }

begun="$(get "$own")"
begun="${begun%% *}"
if [ -z "$begun" ]; then
    echo "night.sh: there is no Job $own" >&2
    exit 2
fi
date="${own: -10}"
[[ $date =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] || date="$(date -d "$begun" +%F)"

for step in head shards tail; do
    found="$(get "twotower-$step-$date")"
    if [ -n "$found" ] && ! has_ended "$found" && [[ ${found%% *} < $begun ]]; then
        echo "night.sh: the Job twotower-$step-$date of an earlier night of this date is under way; nothing is done" >&2
        exit 75
    fi
done

for step in head shards tail; do
    job="twotower-$step-$date"
    refused=0
    say "$job"
    while :; do
        found="$(get "$job")"
        if [ -z "$found" ]; then
            if ! kubectl create job "$job" --from="cronjob/twotower-$step"; then
                refused=$((refused + 1))
                [ "$refused" -lt 10 ] || exit 69
            fi
        elif has_ended "$found" && [[ ${found%% *} < $begun ]]; then
            kubectl delete job "$job" --ignore-not-found || true
        elif [[ " $found " == *' Complete '* ]]; then
            break
        elif [[ " $found " == *' Failed '* ]]; then
            say "$job has failed: kubectl describe job $job; kubectl logs --selector batch.kubernetes.io/job-name=$job"
            exit 1
        fi
        sleep "$poll"
    done
done
say "the night $date is done"
