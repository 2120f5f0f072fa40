"""Checks that twotower_night.py imports under the Airflow of this Python, and how its tasks end, with a stand-in for twotower.

python3 -m venv env && env/bin/pip install -r deploy/airflow/requirements.txt && env/bin/python deploy/airflow/test_dag.py
Without Airflow it says so and ends with 0, or with 1 if TWOTOWER_NEED_AIRFLOW is set.
"""

import importlib.util
import os
import pathlib
import sys
import tempfile

work = tempfile.TemporaryDirectory()
os.environ.setdefault("AIRFLOW_HOME", work.name)
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
home = pathlib.Path(work.name)
program = home / "twotower"
program.write_text('#!/bin/sh\necho "$TWOTOWER_RUN $*" >>"$CALLS"\nexit "$CODE"\n')
program.chmod(0o755)
os.environ |= {"TWOTOWER_HOME": work.name, "TWOTOWER_BIN": str(program), "CALLS": str(home / "calls")}

try:
    import airflow
except ImportError:
    print("skipped: Airflow is not installed (pip install -r deploy/airflow/requirements.txt)")
    sys.exit(bool(os.environ.get("TWOTOWER_NEED_AIRFLOW")))

from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException

spec = importlib.util.spec_from_file_location("night", pathlib.Path(__file__).with_name("twotower_night.py"))
night = importlib.util.module_from_spec(spec)
spec.loader.exec_module(night)

shards = {f"shard_{i}" for i in range(night.SHARDS)}
after = {name: task.downstream_task_ids for name, task in night.dag.task_dict.items()}
assert after == {"head": shards, "tail": set()} | {shard: {"tail"} for shard in shards}, after

# Tasks are run outside of a worker here.
ExecutorSafeguard.test_mode = True
for code, expected in [(0, None), (1, AirflowException), (137, AirflowException)] + [(n, AirflowFailException) for n in (2, 3, 4, 5)]:
    os.environ["CODE"] = str(code)
    pathlib.Path(os.environ["CALLS"]).write_text("")
    task = night.shards[3]
    task.env = {"TWOTOWER_RUN": "run"}
    try:
        task.execute({})
        found = None
    except Exception as error:
        found = type(error)
    assert found is expected, (code, found, expected)
    calls = pathlib.Path(os.environ["CALLS"]).read_text().splitlines()
    assert calls == ["run infer --side user --shard 3/8", "run recall --shard 3/8"][: 2 if code == 0 else 1], calls
print(f"the DAG imports under Airflow {airflow.__version__}; exit codes 2 to 5 fail at once, others are tried again")
