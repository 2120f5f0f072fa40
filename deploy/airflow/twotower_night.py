"""A night of twotower as an Airflow DAG: encode, train and items; the shards, side by side; evaluation and `latest`.

Copy it into the folder of DAGs. Workers need the program, and the folder HOME, which they share. The date of a run is the day,
in UTC, after which it may start, and names the run's folder; a run that is cleared goes on there. A task that was killed is
tried again, and goes on from what is complete; exit codes that a retry cannot mend (2 to 5) fail at once, and the run with
its task. When the run of an earlier date is cleared, it takes `latest` if its gates pass.
"""

import os
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

HOME = os.environ.get("TWOTOWER_HOME", "/srv/twotower")
PROGRAM = os.environ.get("TWOTOWER_BIN", "twotower")
SHARDS = 8
FINAL = {2, 3, 4, 5}


class Stage(BashOperator):
    """Commands of twotower, one after the other."""

    def __init__(self, *, commands: list[str], **options):
        super().__init__(
            bash_command="set -e\n" + "\n".join(f"{PROGRAM} {command}" for command in commands),
            append_env=True,
            # Told apart from other failures below.
            skip_on_exit_code=FINAL,
            **options,
        )

    def execute(self, context):
        try:
            return super().execute(context)
        except AirflowSkipException as refused:
            raise AirflowFailException(f"{refused} A retry cannot mend that.") from refused


with DAG(
    dag_id="twotower_night",
    schedule="30 1 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    # Two nights at once would only take each other's cores.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=2)},
) as dag:
    run = {
        "TWOTOWER_CONFIG": f"{HOME}/pipeline.toml",
        "TWOTOWER_RUN": HOME + "/runs/{{ dag_run.run_after.strftime('%Y-%m-%d') }}",
    }
    head = Stage(task_id="head", env=run, commands=["encode-features", "train", "infer --side item"])
    shards = [
        Stage(
            task_id=f"shard_{i}",
            env=run,
            commands=[f"infer --side user --shard {i}/{SHARDS}", f"recall --shard {i}/{SHARDS}"],
        )
        for i in range(SHARDS)
    ]
    tail = Stage(task_id="tail", env=run, commands=["evaluate", "publish"])
    head >> shards >> tail
