"""What a lost worker would cost: a stage, a result, or work done twice in silence. One is killed in the middle of every stage.

Training has its own (`test_compute_training.py`): there all workers begin again from the last epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compute_growing import vectors
from test_warehouse import RowsSource
from tiny_bundle import publish
from works import OPTIONS, contents, trained, vectors_of

from assets.compute import Engine, Shard, Work, encoding, evaluating, growing, recommending
from assets.compute.evaluating import evaluated
from assets.compute.gathering import gathered
from assets.compute.growing import grown
from assets.compute.local import LocalEngine
from assets.compute.on_ray import RayEngine
from assets.compute.recommending import recommend_all
from assets.stores import day_files
from assets.stores.day_files import DayFiles
from assets.stores.warehouse import Warehouse
from model.files import digest_file
from model.index_tree import TreeConfig

pytestmark = pytest.mark.ray


class Killing(RayEngine):
    """A cluster on which, in every step of a stage, the worker that has the last shard is killed once, when its work is done but
    nobody was told.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(lambda line: None)
        self.folder, self.steps = folder, list[str]()

    def each(
        self, make: Callable[..., Work], arguments: tuple[Any, ...], shards: Any, what: str, **more: Any
    ) -> list[Shard]:
        self.steps.append(what)
        marker, last = str(self.folder / f"killed-{len(self.steps)}"), dict(shards[-1])

        def dying(*given: Any) -> Work:
            import os
            import signal

            work = make(*given)

            def once(shard: Shard) -> Shard:
                answer = work(shard)
                if shard == last and not os.path.exists(marker):
                    open(marker, "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
                return answer

            return once

        return super().each(dying, arguments, shards, what, **more)


def embeddings(where: Engine, source: Path, out: Path) -> list[str]:
    vectors_of(where, contents(source, "image"), out)
    return [digest_file(out / "embeddings.npz")]


def histories(where: Engine, source: Path, out: Path) -> list[str]:
    warehouse = Warehouse(source / "warehouse.duckdb")
    rows = [(f"u{n % 11}", "abc"[n % 3], 50_000 * (n // 9) + n) for n in range(90)]
    warehouse.ingest(RowsSource(rows, "11" * 32))
    warehouse.items_frame().to_parquet(source / "items.parquet", index=False)
    (out / "work").mkdir()
    days = DayFiles(source / "days")
    gathered(where, warehouse, days, source / "items.parquet", work=out / "work", target=out)
    return [digest_file(out / name) for name in ("histories.npz", "days.npz", "users.npz")]


def tree(where: Engine, source: Path, out: Path) -> list[str]:
    config = TreeConfig(subtree_items=200)
    grown(where, vectors(source, 700), config, work=out / "work", target=out / "tree.npz")
    return [digest_file(out / "tree.npz")]


def evaluation(where: Engine, source: Path, out: Path) -> list[Any]:
    model, known = trained(source)
    found = evaluated(where, model, OPTIONS, known, work=out, per_user=out / "per_user.parquet")
    return [found.ranks.tolist(), found.row() | {"seconds": 0}, digest_file(out / "per_user.parquet")]


def everybody(where: Engine, source: Path, out: Path) -> list[Any]:
    return [recommend_all(where, publish(source / "bundle"), out / "items", k=6, version="3", threads=1)]


@pytest.mark.parametrize(
    ("stage", "steps"),
    [
        (embeddings, ["image embeddings", "image embeddings, together"]),
        (histories, ["histories", "histories, together"]),
        (
            tree,
            ["top levels of the tree"]
            + [f"{what} of level {level}" for level in range(2) for what in ("projections", "halves")]
            + ["sub-trees", "index tree"],
        ),
        (evaluation, ["test users", "test users, together"]),
        (everybody, ["users"]),
    ],
)
def test_a_worker_killed_in_every_step_changes_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Callable[..., list[Any]], steps: list[str]
) -> None:
    monkeypatch.setattr(encoding, "SHARD_ITEMS", 20)
    monkeypatch.setattr(day_files, "BUCKET_ROWS", 30)
    monkeypatch.setattr(growing, "SHARD_ITEMS", 300)
    monkeypatch.setattr(evaluating, "SHARD_USERS", 16)
    monkeypatch.setattr(recommending, "SHARD_USERS", 5)
    places = [tmp_path / name for name in ("killed", "whole")]
    for place in places:
        (place / "source").mkdir(parents=True)
        (place / "out").mkdir()
    where = Killing(tmp_path)
    found, expected = (
        stage(each, place / "source", place / "out")
        for each, place in zip((where, LocalEngine(lambda line: None)), places, strict=True)
    )
    assert where.steps == steps
    assert len(list(tmp_path.glob("killed-*"))) == len(steps), "one was killed in each"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_equal(one, other)
