"""Runs on a cluster, for tests: what Dagster's daemon does with them, and small definitions that are loaded in other processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

OWN = """
import dagster as dg
from assets import catalogue
from assets.settings import Settings
from assets.stores.io_manager import ArtifactIOManager
from assets.stores.resource import Stores
from assets.training_data import training_histories
from orchestration import launching

settings = Settings()
made = [catalogue.items, catalogue.histories, training_histories]
defs = dg.Definitions(
    assets=[catalogue.landed_items, dg.AssetSpec("behaviors"), *made],
    jobs=[dg.define_asset_job("split", selection=dg.AssetSelection.assets(*made))],
    resources={"stores": Stores(home=str(settings.root)), "io_manager": ArtifactIOManager(root=str(settings.artifacts))},
    executor=launching.executor(settings),
)
"""
SMALL = """
import json, os, pathlib, signal, time
import dagster as dg
from assets.settings import Settings
from orchestration import launching

def alone(name):
    begun = time.time()
    time.sleep(2)
    if TIMES:
        pathlib.Path(TIMES, name + ".json").write_text(json.dumps([begun, time.time()]))

@dg.op
def left():
    time.sleep(8)

@dg.op
def right():
    time.sleep(8)

@dg.op(pool="warehouse")
def first():
    alone("first")

@dg.op(pool="warehouse")
def second():
    alone("second")

@dg.op
def dies_once():
    marker = pathlib.Path(os.environ["MISS_HOME"], "died")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

@dg.job(executor_def=launching.executor(Settings()))
def small():
    left(), right(), first(), second(), dies_once()

defs = dg.Definitions(jobs=[small])
"""


WIDE = """
import dagster as dg
from assets.settings import Settings
from orchestration import launching

@dg.op
def whole_nodes():
    import ray
    from ray.util.placement_group import placement_group
    from assets.compute.on_ray import connected

    with connected():
        group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
        ray.get(group.ready(), timeout=40)

@dg.job(executor_def=launching.executor(Settings()))
def wide():
    whole_nodes()

defs = dg.Definitions(jobs=[wide])
"""


def defined(file: Path, name: str) -> Any:
    """What the file defines by that name."""
    names: dict[str, Any] = {"__name__": "defined"}
    exec(compile(file.read_text(), str(file), "exec"), names)
    return names[name]


class Daemon:
    """What Dagster's daemon does with runs of a code location that is loaded in a process of its own."""

    def __init__(self, found: dg.DagsterInstance, context: Any, jobs: Any) -> None:
        self.found, self.context, self.jobs = found, context, jobs

    def launch(self, job: dg.JobDefinition) -> str:
        """Start a run of a job by the instance's launcher; its id."""
        workspace = self.context.create_request_context()
        (location,) = workspace.code_locations
        (repository,) = location.get_repositories().values()
        remote = repository.get_full_job(job.name)
        run = self.found.create_run_for_job(
            job_def=job,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
        )
        self.found.launch_run(run.run_id, workspace)
        return run.run_id

    def until(self, run_id: str, reached: Callable[[dg.DagsterRun], bool], *, within_s: float = 150) -> dg.DagsterRun:
        """The run, once it is so; with what it and its jobs said where it never is."""
        deadline = time.monotonic() + within_s
        while True:
            run = self.found.get_run_by_id(run_id)
            assert run is not None
            if reached(run):
                return run
            died = any(
                str(each.status) == "FAILED" for each in self.of(run_id).values() if not each.metadata.get("dagster/op")
            )
            if time.monotonic() > deadline or run.is_finished or died:
                said = [each.to_json() for each in self.found.all_logs(run_id)]
                logs = [self.jobs.get_job_logs(each.submission_id)[-2000:] for each in self.of(run_id).values()]
                raise AssertionError("\n".join([str(run.status), *said, *logs]))
            time.sleep(0.3)

    def ended(self, run_id: str) -> None:
        """Wait until the run has ended well."""
        self.until(run_id, lambda run: run.status == dg.DagsterRunStatus.SUCCESS)

    def of(self, run_id: str) -> dict[str, Any]:
        """Ray's jobs of a run: its own under "", those of its steps by their keys; of several attempts the last."""
        mine = [each for each in self.jobs.list_jobs() if (each.metadata or {}).get("dagster/run-id") == run_id]
        return {each.metadata.get("dagster/op", ""): each for each in sorted(mine, key=lambda each: each.start_time)}

    def monitor(self) -> None:
        """What run monitoring does every half a minute."""
        from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

        assert not any(execute_run_monitoring_iteration(self.context, logging.getLogger("monitoring")))
