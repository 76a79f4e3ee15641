"""Runs and steps on other machines: what a team would lose is a night, to a run that nobody knows is dead, or to two that write at
once.

A real cluster of two nodes on this machine, with the job server that a cluster's head has. Skips where Ray or dagster-ray is not
installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from launched import OWN, SMALL, WIDE, Daemon, defined
from scenes import miss, write_catalogue
from two_nodes import two_nodes

from assets.settings import Settings
from model.errors import BadInput, NotReady
from orchestration import launching
from orchestration.dagster_yaml import VARIABLE, check, configuration, prepare
from orchestration.definitions import build
from orchestration.run import EVERYTHING, instance

ROOT = Path(__file__).resolve().parents[2]
SECRETS = {
    "MISS_DAGSTER_POSTGRES",
    "MISS_SERVICE_TOKEN",
    "MISS_WEBHOOK_SECRET",
    "MISS_MLFLOW_URI",
    "MLFLOW_TRACKING_URI",
}


def settings(home: Path, launch: str, **more: Any) -> Settings:
    return Settings(home=home, dagster_launch=launch, **more)


# -- what is chosen ------------------------------------------------------------------------------------------------------


def test_by_default_everything_is_beside_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISS_DAGSTER_LAUNCH", raising=False)
    assert Settings(home=tmp_path).dagster_launch == "local"
    assert launching.executor(settings(tmp_path, "local")) is dg.in_process_executor
    for launch in ("local", "kubernetes"):
        assert launching.run_launcher(settings(tmp_path, launch)) == {}, "the chart writes its own dagster.yaml"


@pytest.mark.parametrize(("launch", "package"), [("ray", r"miss-retrieval\[ray\]"), ("kubernetes", "dagster-k8s")])
def test_without_the_package_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: str, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotReady, match=f"^MISS_DAGSTER_LAUNCH = {launch} needs .* run pip install '{package}'$"):
        launching.executor(settings(tmp_path, launch))
    if launch == "ray":
        with pytest.raises(NotReady, match="pip install"):
            prepare(tmp_path, settings(tmp_path, launch))
        assert not (tmp_path / "dagster.yaml").exists()


def test_steps_on_kubernetes_are_jobs_by_dagsters_own_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dagster-k8s is only in the image: what is asked of it is its name."""

    @dg.executor(name="k8s", config_schema={"job_namespace": dg.Field(str, is_required=False)})
    def k8s_job_executor(context: dg.InitExecutorContext) -> dg.Executor:
        raise AssertionError("only a run makes one")

    found = types.ModuleType("dagster_k8s")
    found.k8s_job_executor = k8s_job_executor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dagster_k8s", found)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    job = build(settings(tmp_path, "kubernetes")).resolve_job_def(EVERYTHING)
    assert job.executor_def.name == "k8s"
    assert job.executor_def.config_schema is k8s_job_executor.config_schema


def test_the_cluster_is_told_the_settings_and_no_secret(tmp_path: Path) -> None:
    home = tmp_path / "a home 100%"
    told = launching.carried(settings(home, "ray", service_token="s3cret", mlflow_uri="http://me:s3cret@mlflow"))
    assert told[:2] == [f"MISS_HOME={home}", "MISS_DAGSTER_LAUNCH=ray"]
    names = {each.partition("=")[0] for each in told} - {"PATH"}
    known = {f"MISS_{name.upper()}" for name in Settings.model_fields}
    assert names == known - SECRETS - {"MISS_MLFLOW_TRACKING_URI"}
    assert "s3cret" not in str(told)
    for name in ("o'neil", "a$HOME"):
        with pytest.raises(BadInput, match=r"has a ' or [$] in it"):
            launching.executor(settings(tmp_path / name, "ray"))


def test_steps_reserve_cores_unless_their_shards_do(tmp_path: Path) -> None:
    """A training on the cluster waits for all cores of a node: one that its own step held would never come."""
    alone = launching._reserved(settings(tmp_path, "ray", dagster_step_cpus=4))
    assert (alone["num_cpus"], alone["env_vars"][-1]) == (4, "OMP_NUM_THREADS=4")
    by_shards = launching._reserved(settings(tmp_path, "ray", compute="ray", dagster_step_cpus=0.5))
    assert "num_cpus" not in by_shards
    assert by_shards["env_vars"][-1] == "OMP_NUM_THREADS=1"


def test_dagster_yaml_names_rays_launcher_and_is_kept_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dagster_ray")
    monkeypatch.setenv(VARIABLE, "")
    home, path = tmp_path / 'a home: 100%, "é', tmp_path / "dagster.yaml"
    prepare(tmp_path, settings(home, "local"))
    before = yaml.safe_load(path.read_text())
    prepare(tmp_path, settings(home, "ray"))
    launcher = yaml.safe_load(path.read_text())
    assert {key: value for key, value in launcher.items() if key != "run_launcher"} == before, "pools and the rest stay"
    asked = launcher["run_launcher"]
    assert (asked["module"], asked["class"]) == ("dagster_ray", "RayRunLauncher")
    assert asked["config"]["ray"]["env_vars"][0] == f"MISS_HOME={home}"
    prepare(tmp_path, settings(home, "local"))
    assert path.read_text() == configuration(postgres=False)
    path.write_text(path.read_text().replace("INFO", "DEBUG"))
    assert check(tmp_path, settings(home, "local")) is False
    with pytest.raises(BadInput, match="changed by hand and has no RayRunLauncher; delete it"):
        prepare(tmp_path, settings(home, "ray"))


def test_dagster_takes_the_launcher_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dagster_ray = pytest.importorskip("dagster_ray")
    from dagster._config import validate_config
    from dagster._core.instance.config import dagster_instance_config_schema

    monkeypatch.setenv("DAGSTER_HOME", "")
    text = configuration(postgres=True, launcher=launching.run_launcher(settings(tmp_path, "ray")))
    assert validate_config(dagster_instance_config_schema(), yaml.safe_load(text)).success
    with instance(settings(tmp_path, "ray")) as found:
        launcher = found.run_launcher
        assert isinstance(launcher, dagster_ray.RayRunLauncher)
        assert launcher.supports_check_run_worker_health, "run monitoring sees runs that died"
        assert found.run_monitoring_enabled
        assert found.run_retries_enabled
        assert found.global_op_concurrency_default_limit == 1


def test_what_runs_in_this_process_does_so_whatever_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `miss materialize` does: no cluster is asked."""
    pytest.importorskip("dagster_ray")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")

    @dg.asset
    def here() -> int:
        return os.getpid()

    own = settings(tmp_path, "ray")
    job = dg.Definitions(assets=[here], executor=launching.executor(own)).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=dg.DagsterInstance.ephemeral())
    assert done.output_for_node("here") == os.getpid()
    assert build(own).resolve_job_def(EVERYTHING).executor_def.name == "ray"


# -- on a cluster --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs() -> Iterator[Any]:
    """The job server of a cluster of two nodes with a core each, as Ray's client; this process is no part of the cluster."""
    pytest.importorskip("dagster_ray", reason="dagster-ray is not installed; pip install '.[ray]' brings it")
    with two_nodes(include_dashboard=True, dashboard_port=0) as cluster, pytest.MonkeyPatch.context() as patch:
        from ray.job_submission import JobSubmissionClient

        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setenv("RAY_API_SERVER_ADDRESS", f"http://{cluster.head_node.webui_url}")
        yield JobSubmissionClient()


@pytest.fixture
def daemon(
    jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path], contextlib.AbstractContextManager[Daemon]]]:
    """Opens a daemon over the home `tmp_path`/home and the definitions in a file."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import PythonFileTarget

    # it is gone when the test is
    monkeypatch.setattr(dg.DagsterInstance, "wait_for_local_code_server_processes_on_shutdown", True)
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("MISS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MISS_DAGSTER_LAUNCH", "ray")

    @contextlib.contextmanager
    def opened(file: Path) -> Iterator[Daemon]:
        target = PythonFileTarget(str(file), "defs", str(ROOT), "miss")
        with instance(Settings()) as found, WorkspaceProcessContext(found, target) as context:
            yield Daemon(found, context, jobs)

    return opened


class TestOnACluster:
    pytestmark = pytest.mark.ray

    def test_our_own_assets_step_by_step(self, daemon: Any, jobs: Any, tmp_path: Path) -> None:
        """From the warehouse to the split of the histories, handed on as artifacts by steps that share nothing but the home."""
        write_catalogue(tmp_path / "scenes", users=40)
        miss(tmp_path / "home", "ingest", str(tmp_path / "scenes"))
        file = tmp_path / "own.py"
        file.write_text(OWN)
        chosen = ["items", "histories", "training_histories"]
        with daemon(file) as dagster:
            run_id = dagster.launch(defined(file, "defs").resolve_job_def("split"))
            dagster.ended(run_id)
            there = dagster.of(run_id)
            assert {"", *chosen} <= set(there), "the run is a job, and each of its steps is"
            assert {str(each.status) for each in there.values()} <= {"SUCCEEDED", "RUNNING"}  # one may be about to end
            (made,) = (tmp_path / "home" / "artifacts" / "training_histories").glob("*/manifest.json")
            event = dagster.found.get_latest_materialization_event(dg.AssetKey("training_histories"))
            assert event is not None
            assert event.asset_materialization is not None
            assert event.asset_materialization.metadata["path"].value == str(made.parent)
            assert json.loads(made.read_text())["meta"]["test_users"] > 0
            assert event.run_id == run_id

    def test_nodes_pools_and_a_step_that_is_lost(self, daemon: Any, tmp_path: Path) -> None:
        file = tmp_path / "small.py"
        file.write_text(f"TIMES = {str(tmp_path / 'times')!r}\n" + SMALL)
        (tmp_path / "times").mkdir()
        with daemon(file) as dagster:
            run_id = dagster.launch(defined(file, "small"))
            dagster.ended(run_id)
            there = dagster.of(run_id)
            assert there["left"].driver_node_id != there["right"].driver_node_id, "two steps, a core each"
            spans = sorted(json.loads(path.read_text()) for path in (tmp_path / "times").glob("*.json"))
            assert len(spans) == 2
            assert spans[0][1] <= spans[1][0], "one pool, one at a time"
            retried = [
                each.step_key for each in dagster.found.all_logs(run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
            ]
            assert retried == ["dies_once"]
            assert there["dies_once"].submission_id.endswith("-1"), "its second attempt"

    def test_a_step_has_the_whole_cluster_for_its_shards(
        self, daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MISS_COMPUTE", "ray")
        file = tmp_path / "wide.py"
        file.write_text(WIDE)
        with daemon(file) as dagster:
            run_id = dagster.launch(defined(file, "wide"))
            dagster.ended(run_id)
            there = dagster.of(run_id)
            assert there["whole_nodes"].driver_node_id == there[""].driver_node_id, "both on the head"

    def test_a_run_that_is_stopped_takes_its_steps_with_it(self, daemon: Any, tmp_path: Path) -> None:
        file = tmp_path / "small.py"
        file.write_text("TIMES = None\n" + SMALL.replace("sleep(8)", "sleep(300)"))
        with daemon(file) as dagster:
            run_id = dagster.launch(defined(file, "small"))
            begun = dg.DagsterEventType.STEP_START
            dagster.until(run_id, lambda run: bool(dagster.found.all_logs(run_id, of_type=begun)))
            assert dagster.found.run_launcher.terminate(run_id)
            dagster.until(run_id, lambda run: run.status == dg.DagsterRunStatus.CANCELED, within_s=60)
            deadline = time.monotonic() + 60
            while not all(each.status.is_terminal() for each in dagster.of(run_id).values()):
                assert time.monotonic() < deadline, dagster.of(run_id)
                time.sleep(0.3)

    def test_a_run_that_is_killed_is_noticed_and_is_to_be_tried_again(self, daemon: Any, tmp_path: Path) -> None:
        import psutil

        file = tmp_path / "small.py"
        file.write_text("TIMES = None\n" + SMALL)
        with daemon(file) as dagster:
            run_id = dagster.launch(defined(file, "small"))
            dagster.until(run_id, lambda run: run.status == dg.DagsterRunStatus.STARTED)
            dagster.monitor()
            dagster.until(run_id, lambda run: run.status == dg.DagsterRunStatus.STARTED)
            for process in psutil.process_iter(["cmdline"]):
                told = " ".join(process.info["cmdline"] or [])
                if run_id in told and "execute_run" in told:
                    process.send_signal(signal.SIGKILL)
            deadline = time.monotonic() + 60
            while not dagster.of(run_id)[""].status.is_terminal():
                assert time.monotonic() < deadline
                time.sleep(0.3)
            dagster.monitor()
            run = dagster.found.get_run_by_id(run_id)
            assert run is not None
            assert run.status == dg.DagsterRunStatus.FAILURE
            assert run.tags["dagster/will_retry"] == "true", "a process that died, not a step that failed"
