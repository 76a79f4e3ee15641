"""The artifact store: a killed run must find what it finished, and nobody may ever read a torn or stale folder."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from assets.stores.artifacts import Artifact, ArtifactStore
from model.errors import BadInput, Corrupt, NotReady

ROOT = Path(__file__).parents[2]


class Builder:
    """Writes one file and counts how often it was asked to."""

    def __init__(self, text: str = "vectors") -> None:
        self.text, self.calls = text, 0

    def __call__(self, folder: Path, work: Path) -> Mapping[str, Any]:
        self.calls += 1
        assert work.is_dir()
        (folder / "data.txt").write_text(self.text)
        return {"rows": 3}


def _produce(
    store: ArtifactStore, build: Builder, *, code: str = "1", epochs: int = 4, items: Artifact | str = "v1"
) -> tuple[Artifact, bool]:
    return store.produce(
        "embeddings", code_version=code, config={"epochs": epochs}, inputs={"items": items}, build=build
    )


def test_what_is_finished_is_not_built_again(tmp_path: Path) -> None:
    store, build = ArtifactStore(tmp_path), Builder()
    first, reused = _produce(store, build)
    assert not reused
    assert first.meta["rows"] == 3
    assert first.meta["artifact"]["inputs"] == {"items": "v1"}
    assert first.seconds >= 0
    again, reused = _produce(ArtifactStore(tmp_path), build)
    assert reused
    assert again == first == store.current("embeddings") == store.current("embeddings", verify=True)
    assert build.calls == 1
    assert not store.work_dir("embeddings", first.key).exists()


def test_anything_that_went_in_makes_another_artifact_and_going_back_finds_the_old_one(tmp_path: Path) -> None:
    store, build = ArtifactStore(tmp_path), Builder()
    first, _ = _produce(store, build)
    keys = {first.key}
    for change in ({"code": "2"}, {"epochs": 5}, {"items": "v2"}):
        other, reused = _produce(store, build, **change)  # type: ignore[arg-type]
        assert not reused
        assert store.current("embeddings") == other
        keys.add(other.key)
    assert len(keys) == 4
    back, reused = _produce(store, build)
    assert reused
    assert back == first == store.current("embeddings")


def test_the_same_bytes_leave_everything_downstream_as_it_is(tmp_path: Path) -> None:
    store, downstream = ArtifactStore(tmp_path), Builder("tree")

    def tree(upstream: Artifact) -> tuple[Artifact, bool]:
        return store.produce("tree", code_version="1", config={}, inputs={"embeddings": upstream}, build=downstream)

    first, _ = _produce(store, Builder(), items="v1")
    second, reused = _produce(store, Builder(), items="v2")  # other input, same content made of it
    assert not reused
    assert (first.data_version == second.data_version, first.key == second.key) == (True, False)
    assert (tree(first)[1], tree(second)[1], downstream.calls) == (False, True, 1)
    third, _ = _produce(store, Builder("other vectors"), items="v3")
    assert tree(third)[1] is False


def test_a_changed_byte_is_noticed_kept_aside_and_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, build = ArtifactStore(tmp_path), Builder()
    first, _ = _produce(store, build)
    (first.path / "data.txt").write_text("vectorz")
    with pytest.raises(Corrupt):
        store.current("embeddings", verify=True)
    with caplog.at_level(logging.WARNING):
        again, reused = _produce(store, build)
    assert (reused, build.calls) == (False, 2)
    assert "damaged" in caplog.text
    assert again.data_version == first.data_version
    assert (again.path / "data.txt").read_text() == "vectors"
    assert (tmp_path / "embeddings" / f".corrupt-{first.key[:16]}" / "data.txt").read_text() == "vectorz"


@pytest.mark.parametrize("damage", ["manifest gone", "manifest torn", "manifest of another shape", "folder gone"])
def test_every_damage_is_either_repaired_or_named(tmp_path: Path, damage: str) -> None:
    store, build = ArtifactStore(tmp_path), Builder()
    first, _ = _produce(store, build)
    manifest = first.path / "manifest.json"
    if damage == "manifest torn":
        manifest.write_text(manifest.read_text()[:40])
    elif damage == "manifest of another shape":
        manifest.write_text(json.dumps({"files": {}, "digest": "", "meta": {}}))
    else:
        manifest.unlink()
        if damage == "folder gone":
            (first.path / "data.txt").unlink()
            first.path.rmdir()
    with pytest.raises(Corrupt, match="miss materialize"):
        store.current("embeddings")
    assert _produce(store, build) == (store.current("embeddings"), False)


def test_a_build_that_fails_publishes_nothing_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def build(folder: Path, work: Path) -> Mapping[str, Any]:
        (folder / "data.txt").write_text("half")
        if not (work / "checkpoint").exists():
            (work / "checkpoint").write_text("epoch 3")
            raise RuntimeError("out of memory")
        return {"resumed_from": (work / "checkpoint").read_text()}

    with pytest.raises(RuntimeError, match="out of memory"):
        store.produce("model", code_version="1", config={}, inputs={}, build=build)
    with pytest.raises(NotReady, match=r"'model' has not been made.*miss materialize"):
        store.current("model")
    artifact, _ = store.produce("model", code_version="1", config={}, inputs={}, build=build)
    assert artifact.meta["resumed_from"] == "epoch 3"


KILLED = """
import sys, time
from pathlib import Path
from assets.stores.artifacts import ArtifactStore
def build(folder, work):
    (folder / "data.txt").write_text("torn")
    (work / "checkpoint").write_text("epoch 3")
    print("building", flush=True)
    time.sleep(60)
    return {}
ArtifactStore(Path(sys.argv[1])).produce("embeddings", code_version="1", config={"epochs": 4}, inputs={"items": "v1"}, build=build)
"""


def test_killed_in_the_middle_of_a_build_nothing_torn_is_left_and_the_next_run_finishes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        os.kill(process.pid, signal.SIGKILL)
    store = ArtifactStore(tmp_path)
    with pytest.raises(NotReady):
        store.current("embeddings")
    assert not [path for path in (tmp_path / "embeddings").iterdir() if not path.name.startswith(".")]
    seen = []

    class Resumed(Builder):
        def __call__(self, folder: Path, work: Path) -> Mapping[str, Any]:
            seen.append((work / "checkpoint").read_text())
            return super().__call__(folder, work)

    artifact, reused = _produce(store, Resumed())
    assert (reused, seen) == (False, ["epoch 3"])
    assert sorted(path.name for path in artifact.path.iterdir()) == ["data.txt", "manifest.json"]
    left = [path.name for path in (tmp_path / "embeddings").iterdir() if path.name.endswith(".tmp")]
    assert left == [], "what the kill left was cleared away"


def test_two_at_once_build_it_once(tmp_path: Path) -> None:
    build, results = Builder(), []

    class Slow(Builder):
        def __call__(self, folder: Path, work: Path) -> Mapping[str, Any]:
            time.sleep(0.3)
            return build(folder, work)

    def one() -> None:
        results.append(_produce(ArtifactStore(tmp_path), Slow()))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.calls == 1
    assert sorted(reused for _, reused in results) == [False, True, True]


def test_pruning_keeps_the_current_one_the_newest_and_fresh_checkpoints(tmp_path: Path) -> None:
    store, build = ArtifactStore(tmp_path), Builder()
    made = [_produce(store, build, epochs=epochs)[0] for epochs in range(6)]
    for age, artifact in enumerate(reversed(made)):
        os.utime(artifact.path, (time.time() - 60 * age, time.time() - 60 * age))
    store.point(made[0])  # the oldest is current
    fresh, abandoned = store.work_dir("embeddings", "a" * 64), store.work_dir("embeddings", "b" * 64)
    torn = tmp_path / "embeddings" / f".{'c' * 16}.x1.tmp"
    for folder in (fresh, abandoned, torn):
        folder.mkdir()
    os.utime(abandoned, (0, 0))
    removed = store.prune(keep=3)
    kept = {path.name for path in (tmp_path / "embeddings").iterdir() if path.is_dir()}
    assert kept == {made[index].key[:16] for index in (0, 4, 5)} | {fresh.name}
    assert len(removed) == 5
    assert store.current("embeddings", verify=True) == made[0]
    with pytest.raises(BadInput, match="keep=0"):
        store.prune(keep=0)
    assert ArtifactStore(tmp_path / "nothing").prune() == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "white space", "café"])
def test_a_name_that_would_leave_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="no name for an asset"):
        ArtifactStore(tmp_path).produce(name, code_version="1", config={}, inputs={}, build=Builder())
