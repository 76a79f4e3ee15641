"""What a reader of the table of scale would lose: a stage that does not do what is counted, shards that grow with the data, and a
driver through which the data go."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from made_once import made_once

from assets.compute import Shard
from assets.compute.local import LocalEngine
from assets.stores import day_files
from benchmarks import scale
from benchmarks.measured import apart
from benchmarks.scale_stages import STAGES, exported, made, run

TINY = {"embeddings": 6, "histories": 2000, "tree": 400, "training": 20, "evaluation": 20, "retrieval": 20}
SLOW = ("training", "retrieval")
"""Stages whose smallest run takes seconds: torch's optimisers, an export."""


def export(folder: Path) -> None:
    """The graph of all sizes, which takes longer than all else."""
    exported(folder)


@pytest.fixture
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder for data of stages, with the graph in it where one is needed."""
    if request.node.get_closest_marker("slow"):
        return shutil.copytree(made_once("scale-export", export), tmp_path / "data")
    return tmp_path / "data"


class Counting(LocalEngine):
    """Shards as on a cluster, in this process; the largest number that a step of work was cut into."""

    name = "sharded"
    most = 1

    def each(self, make: Any, arguments: tuple[Any, ...], shards: Any, what: str, **more: Any) -> list[Shard]:
        self.most = max(self.most, len(shards))
        return super().each(make, arguments, shards, what, **more)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in STAGES])
def test_a_stage_does_what_is_counted_in_shards_of_one_size(tmp_path: Path, data: Path, name: str) -> None:
    bucket, cut = day_files.BUCKET_ROWS, []
    for times in scale.TIMES:
        where, folder = Counting([].append), data / f"{name}-{times}"
        made(name, folder, TINY[name] * times, 12)
        units, seconds = run(name, where, folder, tmp_path / "work", shard=TINY[name] // 2)
        assert units == TINY[name] * times
        assert seconds > 0
        cut.append(where.most)
    assert not (tmp_path / "work").exists()
    assert bucket == day_files.BUCKET_ROWS
    if name != "training":
        assert cut[0] == 2
        assert 16 <= cut[1] <= 20


def test_data_are_written_once(tmp_path: Path) -> None:
    made("tree", tmp_path, 50, 1)
    before = (tmp_path / "embeddings.npz").stat().st_mtime_ns
    made("tree", tmp_path, 50, 1)
    assert (tmp_path / "embeddings.npz").stat().st_mtime_ns == before
    made("tree", tmp_path, 60, 1)
    assert (tmp_path / "embeddings.npz").stat().st_mtime_ns != before


def record(
    times: int, seconds: float, *, engine: str = "Ray 2", workers: int = 1, driver: float = 100.0
) -> dict[str, Any]:
    used = {"workers_cpu_seconds": seconds / 2, "worker_peak_mib": 300.0}
    told = {"stage": "tree", "times": times, "units": 1000 * times, "seconds": seconds, "driver MiB": driver}
    return told | {"engine": engine, "workers": workers, "used": used}


def test_the_figures_follow_from_both_sizes() -> None:
    local = scale.figures(record(1, 2.0, engine="this process"), record(10, 20.0, engine="this process"))
    on_ray = scale.figures(record(1, 7.0), record(10, 25.0, driver=170.0))
    assert local["overhead, s"] == pytest.approx(0.0)
    assert on_ray["overhead, s"] == pytest.approx(5.0)  # 2 s for each 1,000 units beside
    assert on_ray["units a second"] == pytest.approx(400)
    assert on_ray["units a core-second"] == pytest.approx(800)
    assert on_ray["unit"] == "items"
    two = scale.figures(record(1, 9.0, workers=2), record(10, 16.0, workers=2, driver=101.0))
    rows = scale.compared([local, on_ray, two])
    assert [row["rate against this process"] for row in rows] == pytest.approx([1.0, 0.8, 1.25])
    growth, slower = scale.targets(rows)
    assert (growth["value"], growth["met"]) == (70.0, False)
    assert slower["name"].startswith("tree: Ray with one worker")
    assert (slower["value"], slower["met"]) == (pytest.approx(1.25), True)


def test_what_did_not_grow_and_what_no_worker_did_have_figures_too() -> None:
    """A busy machine may turn both sizes round; one machine asks its warehouse, and no worker."""
    small, large = record(1, 3.0), record(10, 2.0)
    large["used"]["workers_cpu_seconds"] = 0.0
    found = scale.figures(small, large)
    assert found["overhead, s"] == 3.0
    assert found["units a core-second"] is None


def test_without_ray_it_ends_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["scale", "--folder", str(tmp_path / "data")])
    with pytest.raises(SystemExit) as ended:
        scale.main()
    assert ended.value.code == 3
    assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


# -- memory of the driver, on a real cluster -------------------------------------------------------------------------------

LARGE = {"embeddings": 10, "tree": 20_000, "evaluation": 100, "retrieval": 200, "histories": 100_000}
"""At 1x. At 10x: 51 MB of vectors; 12 MB of behaviors to train on and as many to test on, 24 MB in a bundle; day files of a
million. A peak does not come down again and hides what is lower, so histories, whose day files the driver writes, are last."""
LENGTH, BOUND_MIB = 3000, 40


def growth(folder: Path, engine: str, sizes: Mapping[str, int]) -> dict[str, float]:
    """Stage -> how much more than all stages at 1x a driver of its own had had, at most, when the stage was done at 10x, MiB."""
    asked = {"engine": engine, "workers": 2, "folder": str(folder), "sizes": sizes}
    records = apart("scale", "--one", json.dumps(asked))["records"]
    before = max(each["driver MiB"] for each in records if each["times"] == 1)
    return {each["stage"]: each["driver MiB"] - before for each in records if each["times"] == 10}


@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_the_driver_of_a_cluster_does_not_grow_with_the_data(data: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]' brings it")
    scale.prepared(data, LARGE, LENGTH)
    on_ray = growth(data, "ray", LARGE)
    assert max(on_ray.values()) < BOUND_MIB, on_ray
    # who holds the data is seen to grow by the same measure
    alone = growth(data, "local", {"tree": LARGE["tree"]})
    assert alone["tree"] > 2 * BOUND_MIB
