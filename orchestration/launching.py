"""Where Dagster starts runs and their steps (`MISS_DAGSTER_LAUNCH`): here, on a Ray cluster, or as Kubernetes jobs.

- "local": a run is a process beside the daemon, its steps are in that process.
- "ray" (dagster-ray): a run is a job on the cluster's head, which reserves nothing; each step is a job of its own, on any node with
  `MISS_DAGSTER_STEP_CPUS` cores to spare. Steps that work by shards on the cluster (`MISS_COMPUTE=ray`) reserve nothing either, and
  are on the head: a training asks for all cores of a node, and would wait for ever for those that its own step holds.
- "kubernetes" (dagster-k8s): the chart's launcher starts a run, and each step is a job of its own, with what the run's pod has.
- Pools, retries and run monitoring are Dagster's own and the same everywhere (dagster.yaml). What Dagster has no setting for: a
  step whose process is lost, say with its node, is started again, as often as `assets.retries` tries what is busy.
- A step's process elsewhere has the home, by the same path, and the same packages; it is told the settings that the process which
  starts it has in its environment, secrets excepted: those are in the environment of Ray's nodes.

`miss materialize` runs in its own process, whatever is set.

Not covered: options of a component by variables of their own (`MISS_TRAINING__EPOCHS`), `miss.env`, and addresses of MLflow, which
may hold a password: Ray's nodes have them in their own environment. The steps of a run whose process was killed go on to their end.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from assets.settings import Settings
from model.errors import BadInput, NotReady

if TYPE_CHECKING:
    import dagster as dg

__all__ = ["carried", "executor", "run_launcher"]

PACKAGES = {"ray": ("dagster_ray", "miss-retrieval[ray]"), "kubernetes": ("dagster_k8s", "dagster-k8s")}
"""What is imported, and what brings it."""
ELSEWHERE = {"home", "dagster_launch", "mlflow_uri", "mlflow_tracking_uri"}
"""Settings that are told by value, or never since they may hold a password."""
STOP_WAIT_S = 30
"""How long a run that is stopped has to stop its steps, before Ray kills it; Ray's own 3 s are few for many."""


def _installed(launch: str) -> None:
    module, package = PACKAGES[launch]
    if importlib.util.find_spec(module) is None:
        raise NotReady(
            f"MISS_DAGSTER_LAUNCH = {launch} needs {module}, which is not installed; run pip install '{package}'"
        )


def carried(settings: Settings) -> list[str]:
    """What a process on the cluster is told, as dagster-ray takes it: NAME=VALUE, or NAME as whoever starts it has it.

    Raises BadInput for a home whose path a shell would read in another way: dagster-ray hands it on in one.
    """
    if set("'$") & set(str(settings.root)):
        raise BadInput(
            f"MISS_HOME = {settings.root} has a ' or $ in it, which MISS_DAGSTER_LAUNCH = ray cannot hand on"
        )
    # Dagster asks for `dagster` by its name, and Ray puts in what PATH is there
    path = f"PATH={Path(sys.executable).parent}:${{PATH}}"
    told = [f"MISS_HOME={settings.root}", f"MISS_DAGSTER_LAUNCH={settings.dagster_launch}", path]
    for name, field in Settings.model_fields.items():
        if name not in ELSEWHERE and field.annotation is not SecretStr:
            told.append(f"MISS_{name.upper()}")
    return told


def run_launcher(settings: Settings) -> dict[str, Any]:
    """The entry `run_launcher` of dagster.yaml; empty where it is Dagster's default or the chart's.

    It names no address: Ray's client takes that from the environment, on the cluster too. Raises NotReady where the package is
    missing, BadInput as `carried` does.
    """
    if settings.dagster_launch != "ray":
        return {}
    _installed("ray")
    config = {"ray": {"env_vars": [*carried(settings), f"RAY_JOB_STOP_WAIT_TIME_S={STOP_WAIT_S}"]}}
    return {"run_launcher": {"module": "dagster_ray", "class": "RayRunLauncher", "config": config}}


def executor(settings: Settings) -> dg.ExecutorDefinition:
    """What runs the steps of a run. Raises as `run_launcher` does, for either package."""
    if settings.dagster_launch == "local":
        import dagster as dg

        return dg.in_process_executor
    _installed(settings.dagster_launch)
    if settings.dagster_launch == "kubernetes":
        from dagster_k8s import k8s_job_executor

        return _again(k8s_job_executor)
    from dagster_ray import ray_executor

    return _again(ray_executor.configured({"ray": _reserved(settings)}, name="ray"))


def _reserved(settings: Settings) -> dict[str, Any]:
    """What a step is on the Ray cluster, as dagster-ray's executor takes it."""
    cores = settings.dagster_step_cpus
    told = {"env_vars": [*carried(settings), f"OMP_NUM_THREADS={max(int(cores), 1)}"]}
    return told if settings.compute == "ray" else {"num_cpus": cores, **told}


def _again(definition: dg.ExecutorDefinition) -> dg.ExecutorDefinition:
    """The same, but a step whose process was lost is started again instead of failing its run."""
    import dagster as dg

    from assets.retries import AGAIN_S, TIMES

    def made(context: dg.InitExecutorContext) -> dg.Executor:
        assert definition.executor_creation_fn is not None
        steps = definition.executor_creation_fn(context)
        fails = steps.log_failure_or_retry_event_after_error

        # asked when a step's health is bad; what a step raises comes by its own events, and as `assets.retries` has it
        def lost(step: Any, error: Any, known: Any) -> Any:
            from dagster._core.events import DagsterEvent, StepRetryData

            tried = known.get_retry_state().get_attempt_count(step.step.key)
            begun = context.instance.get_run_step_stats(step.run_id, [step.step.key])
            # Dagster refuses a second attempt where there was no first
            if tried < TIMES and begun and begun[0].attempts == tried + 1:
                return DagsterEvent.step_retry_event(step, StepRetryData(error=error, seconds_to_wait=AGAIN_S))
            return fails(step, error, known)

        steps.log_failure_or_retry_event_after_error = lost  # type: ignore[method-assign]
        return steps

    return dg.ExecutorDefinition(
        name=definition.name,
        config_schema=definition.config_schema,
        requirements=definition.get_requirements,
        executor_creation_fn=made,
        description=definition.description,
    )
