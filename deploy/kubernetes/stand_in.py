"""A stand-in for kubectl that knows Jobs made of the CronJobs in base/, and runs their pods at once, one after the other.

From the environment: CLUSTER, a folder for its state; SETTINGS, what replaces values of settings.env (JSON); FAULTS, "JOB INDEX
SIGNAL" lines: the first pod of an index gets KILL to its program, or TERM as a pod that is evicted; FLAKY=1, every third
call fails as if there were no API.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import yaml

BASE = pathlib.Path(__file__).parent / "base"
cluster = pathlib.Path(os.environ["CLUSTER"])
units = {"Mi": 1 << 20, "Gi": 1 << 30}


def state_of(job):
    return cluster / f"{job}.json"


def environment(container, job, index):
    own = {name: os.environ[name] for name in ("PATH", "HOME", "CLUSTER", "SETTINGS", "FAULTS", "FLAKY", "ORT_DYLIB_PATH") if name in os.environ}
    settings = dict(line.split("=", 1) for line in (BASE / "settings.env").read_text().splitlines())
    own |= settings | json.loads(os.environ["SETTINGS"])
    for variable in container["env"]:
        source = variable["valueFrom"]
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']", source
            own[variable["name"]] = job
        else:
            kind, resource = source["resourceFieldRef"]["resource"].split(".")
            size = container["resources"][kind][resource]
            own[variable["name"]] = str(int(size[:-2]) * units[size[-2:]])
    if index is not None:
        own["JOB_COMPLETION_INDEX"] = str(index)
    return own


def programs(shell):
    """The running twotower of a pod's shell, if there is one. Processes may end meanwhile."""
    try:
        pids = pathlib.Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        # "PID (NAME) STATE ...", and Z is one that has ended.
        stats = [pathlib.Path(f"/proc/{pid}/stat").read_text() for pid in pids]
    except OSError:
        return []
    return [int(pid) for pid, stat in zip(pids, stats) if "(twotower" in stat and ") Z " not in stat]


def pod(container, job, index, fault):
    command = [part.replace("/opt/scripts", str(BASE)) for part in container["command"]]
    with (cluster / f"{job}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment(container, job, index), stdout=log, stderr=log)
        while fault and process.poll() is None:
            if programs(process.pid):
                time.sleep(0.02)
                # That one, or the next of this pod.
                if alive := programs(process.pid):
                    try:
                        os.kill(alive[0] if fault == "KILL" else process.pid, signal.Signals[f"SIG{fault}"])
                        break
                    except ProcessLookupError:
                        continue
            time.sleep(0.002)
        code = process.wait()
    code = code if code >= 0 else 128 - code
    with (cluster / "pods").open("a") as pods:
        print(job, index if index is not None else "-", code, file=pods)
    return code


def run(job, spec):
    [container] = spec["template"]["spec"]["containers"]
    final = next(rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule)
    indexed = spec.get("completionMode") == "Indexed"
    tries = 1 + spec["backoffLimitPerIndex" if indexed else "backoffLimit"]
    faults = [line.split() for line in os.environ.get("FAULTS", "").splitlines()]
    for index in range(spec["completions"]) if indexed else [None]:
        signals = [s for j, i, s in faults if j == job and i == str(index)]
        for attempt in range(tries):
            code = pod(container, job, index, signals[attempt] if attempt < len(signals) else None)
            if code == 0:
                break
            if code in final or attempt + 1 == tries:
                return "Failed"
    return "Complete"


def main(arguments):
    if os.environ.get("FLAKY"):
        calls = cluster / "calls"
        number = int(calls.read_text()) + 1 if calls.exists() else 1
        calls.write_text(str(number))
        if number % 3 == 0:
            sys.exit("the connection to the server was refused")
    verb, kind, job, *options = arguments
    assert kind == "job", arguments
    if verb == "get":
        assert options[0] == "--ignore-not-found" and options[1].startswith("--output=jsonpath="), options
        if state_of(job).exists():
            state = json.loads(state_of(job).read_text())
            print(state["created"], *state["conditions"], end="" if state["conditions"] else " ")
    elif verb == "delete":
        state_of(job).unlink(missing_ok=True)
    elif verb == "create":
        if state_of(job).exists():
            sys.exit(f'jobs.batch "{job}" already exists')
        step = options[0].removeprefix("--from=cronjob/twotower-")
        spec = yaml.safe_load((BASE / f"{step}.yaml").read_text())["spec"]["jobTemplate"]["spec"]
        state = {"created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "conditions": []}
        state_of(job).write_text(json.dumps(state))
        # Whatever happens here, nobody may wait for ever.
        state["conditions"] = ["Failed"]
        try:
            state["conditions"] = [run(job, spec)]
        finally:
            state_of(job).write_text(json.dumps(state))
        print(f"job.batch/{job} created")
    else:
        sys.exit(f"the stand-in does not know {arguments}")


main(sys.argv[1:])
