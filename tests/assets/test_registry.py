"""The registry against a real MLflow store: a bundle must come back byte by byte under the version and alias it got."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from assets.stores.registry import CHALLENGER, CHAMPION, Registry
from model.errors import BadInput, Corrupt
from model.files import read_json, verify_dir

ROOT = Path(__file__).parents[2]
Make = Callable[[str], Path]


def _register(registry: Registry, folder: Path, **tags: str) -> str:
    with registry.run("candidate", tags={"dagster/run_id": "dagster-1"}) as run:
        return registry.register(folder, run_id=run.run_id, tags=tags)


def test_a_bundle_comes_back_whole_and_says_where_it_came_from(
    registry: Registry, bundle: Make, tmp_path: Path
) -> None:
    folder = bundle("first model")
    version = _register(registry, folder, code_version="7")
    manifest = read_json(folder / "manifest.json")
    info = registry.by_alias(CHALLENGER)
    assert info is not None
    assert (info.version, info.digest, info.aliases) == ("1", manifest["digest"], (CHALLENGER,))
    assert version == "1"
    assert info.tags["digest/retrieval.onnx"] == manifest["files"]["retrieval.onnx"]["sha256"]
    assert info.tags["data_version/index_tree"] == "ab" * 32
    assert info.tags["code_version"] == "7"
    assert registry.find_run("dagster/run_id", "dagster-1") == info.run_id
    assert registry.find_run("dagster/run_id", "it's another") is None
    got = registry.download(version, tmp_path / "served bundle")
    assert verify_dir(got) == manifest
    assert registry.download(version, got) == got  # a right one already there is kept
    assert not list(tmp_path.glob(".served*")), "nothing temporary is left behind"


def test_the_same_bundle_is_one_version_and_a_changed_one_another(registry: Registry, bundle: Make) -> None:
    first = _register(registry, bundle("a"))
    assert _register(registry, bundle("a")) == first
    second = _register(registry, bundle("b"))
    assert (first, second) == ("1", "2")
    assert [(each.version, each.aliases) for each in registry.versions()] == [("1", ()), ("2", (CHALLENGER,))]
    registry.set_alias(CHAMPION, second)
    registry.delete_alias(CHALLENGER)
    assert _register(registry, bundle("b")) == second
    assert registry.aliases() == {CHAMPION: "2"}, "the champion, materialized again, does not challenge itself"
    assert _register(registry, bundle("a")) == first
    assert registry.aliases() == {CHAMPION: "2", CHALLENGER: "1"}


def test_old_versions_go_with_their_files_and_never_champion_or_previous(
    registry: Registry, bundle: Make, tmp_path: Path
) -> None:
    versions = [_register(registry, bundle(text)) for text in "abcdefg"]
    registry.set_alias(CHAMPION, "2")
    registry.set_alias("previous", "1")
    with pytest.raises(BadInput, match="at least 3"):
        registry.prune(2)
    assert registry.prune(3) == ["3", "4"]
    assert [each.version for each in registry.versions()] == ["1", "2", "5", "6", "7"]
    for version in ("1", "2", "5"):
        assert registry.download(version, tmp_path / version).is_dir()
    assert len(list(registry.artifact_root.glob("*/artifacts/bundle/*/manifest.json"))) == len(versions) - 2
    assert registry.prune(3) == []
    assert _register(registry, bundle("c")) == "8", "what was deleted may come back, as a new version"


def test_two_bundles_in_one_run_do_not_overwrite_each_other(registry: Registry, bundle: Make, tmp_path: Path) -> None:
    with registry.run("two") as run:
        versions = [registry.register(bundle(text), run_id=run.run_id) for text in ("a", "b")]
    for version, text in zip(versions, ("a", "b"), strict=True):
        assert (registry.download(version, tmp_path / text) / "retrieval.onnx").read_text() == text


def test_changed_or_lost_bytes_are_never_handed_out_and_registering_again_repairs_them(
    registry: Registry, bundle: Make, tmp_path: Path
) -> None:
    version = _register(registry, bundle("a"))
    [stored] = registry.artifact_root.glob("*/artifacts/bundle/*/retrieval.onnx")
    stored.write_text("b")
    with pytest.raises(Corrupt, match=r"sha256 differs"):
        registry.download(version, tmp_path / "served")
    assert not (tmp_path / "served").exists()
    assert _register(registry, bundle("a")) == version
    assert registry.download(version, tmp_path / "served").is_dir()
    shutil.rmtree(stored.parent)
    shutil.rmtree(tmp_path / "served")
    with pytest.raises(Corrupt, match=r"not there.*miss materialize"):
        registry.download(version, tmp_path / "served")


def test_another_bundle_in_the_place_of_the_registered_one_is_noticed(
    registry: Registry, bundle: Make, tmp_path: Path
) -> None:
    version = _register(registry, bundle("a"))
    [stored] = registry.artifact_root.glob("*/artifacts/bundle/*")
    shutil.rmtree(stored)
    shutil.copytree(bundle("b"), stored)  # whole in itself, but not what was judged
    with pytest.raises(Corrupt, match="as registered"):
        registry.download(version, tmp_path / "served")


def test_a_damaged_download_is_replaced_and_a_folder_of_something_else_is_not(
    registry: Registry, bundle: Make, tmp_path: Path
) -> None:
    version = _register(registry, bundle("a"))
    got = registry.download(version, tmp_path / "served")
    (got / "retrieval.onnx").write_text("damaged")
    assert (registry.download(version, got) / "retrieval.onnx").read_text() == "a"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(BadInput, match="no bundle"):
        registry.download(version, tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.png").read_bytes() == b"mine"


@pytest.mark.parametrize("asked", ["99", "", "champion", "1; drop", "../1", "-1", "99999999999999999999"])
def test_a_version_that_does_not_exist_is_named_with_those_that_do(
    registry: Registry, bundle: Make, asked: str, tmp_path: Path
) -> None:
    _register(registry, bundle("a"))
    with pytest.raises(BadInput, match=r"registered are 1"):
        registry.version(asked)
    with pytest.raises(BadInput):
        registry.download(asked, tmp_path / "served")


def test_what_is_no_bundle_is_not_registered(registry: Registry, bundle: Make, tmp_path: Path) -> None:
    folder = bundle("a")
    (folder / "evaluation.json").write_text("other")
    with registry.run("candidate") as run:
        with pytest.raises(Corrupt):
            registry.register(folder, run_id=run.run_id)
        with pytest.raises(BadInput, match="no bundle"):
            registry.register(tmp_path / "nowhere", run_id=run.run_id)
    assert registry.versions() == []


def test_a_run_keeps_parameters_curves_pictures_and_how_it_ended(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,rank\n")
    with registry.run("training", tags={"dagster/run_id": "d-1"}) as run:
        run.log_params(
            {"training": {"epochs": 3, "optimizer": {"lr": 0.1}}, "tags": []} | {f"p{i}": i for i in range(150)}
        )
        run.log_metrics_series({"loss": [1.0 / (step + 1) for step in range(1200)], "recall@10": {5: 0.25, 10: 0.5}})
        run.log_metrics({"ndcg@10": 0.1})
        run.log_figure_bytes("figures/loss.png", b"\x89PNG")
        run.log_dict("evaluation.json", {"rows": []})
        run.log_file(tmp_path / "rows.csv", "users")
    client = registry._client
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["dagster/run_id"] == "d-1"
    assert found.data.params["training.optimizer.lr"] == "0.1"
    assert len(found.data.params) == 153
    assert len(client.get_metric_history(run.run_id, "loss")) == 1200
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "recall_10")] == [(5, 0.25), (10, 0.5)]
    names = {each.path for folder in (None, "figures", "users") for each in client.list_artifacts(run.run_id, folder)}
    assert {"figures/loss.png", "evaluation.json", "users/rows.csv"} <= names
    with pytest.raises(ZeroDivisionError), registry.run("broken") as broken:
        raise ZeroDivisionError
    assert client.get_run(broken.run_id).info.status == "FAILED"
    with registry.run("quoted", tags={"who": "it's me"}) as quoted:
        pass
    assert registry.find_run("who", "it's me") == quoted.run_id
    with registry.run("training", run_id=run.run_id, tags={"stage": "evaluation"}) as again:
        assert again.run_id == run.run_id
    assert client.get_run(run.run_id).data.tags["stage"] == "evaluation"


def test_a_model_card_of_any_length_is_kept(registry: Registry, bundle: Make) -> None:
    version = _register(registry, bundle("a"))
    registry.describe(version, "# Card\n" + "x" * 9000)
    info = registry.version(version)
    assert len(info.description) == 5000
    assert info.description.startswith("# Card")
    [whole] = registry.artifact_root.glob(f"*/artifacts/model_card_{version}.md")
    assert whole.stat().st_size == 9007
    registry.set_tags(version, {"review": "approved"})
    registry.delete_tag(version, "review")
    registry.delete_tag(version, "review")
    assert "review" not in registry.version(version).tags


def test_looking_into_an_empty_home_makes_nothing(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", "miss-retrieval", tmp_path / "new" / "runs")
    assert registry.by_alias(CHAMPION) is None
    assert registry.versions() == []
    assert registry.find_run("dagster/run_id", "x") is None
    with pytest.raises(BadInput, match="none yet"):
        registry.version("1")
    assert list(tmp_path.iterdir()) == []


FIRST_USE = """
import sys
from pathlib import Path
from assets.stores.registry import Registry
home = Path(sys.argv[1])
registry = Registry(f"sqlite:///{home / 'mlflow.db'}", "miss-retrieval", home / "runs")
print("go", flush=True)
with registry.run("first"):
    pass
assert "torch" not in sys.modules
"""


def _first_use(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", FIRST_USE, str(home)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_first_use_may_be_killed_in_the_migration_and_raced_by_two_processes(tmp_path: Path) -> None:
    killed = _first_use(tmp_path)
    staging, deadline = tmp_path / ".mlflow.db.new", time.monotonic() + 60
    while not (staging.exists() and staging.stat().st_size > 100_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert staging.exists(), "killed too late to show anything"
    assert not (tmp_path / "mlflow.db").exists()
    racers = [_first_use(tmp_path) for _ in range(2)]
    for racer in racers:
        _, errors = racer.communicate(timeout=120)
        assert racer.returncode == 0, errors
        assert errors == "", "no warning and no log line reaches the terminal"
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    try:
        assert connection.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]
        assert connection.execute("SELECT count(*) FROM registered_models").fetchall() == [(1,)]
    finally:
        connection.close()
