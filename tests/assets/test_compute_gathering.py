"""What would be lost to gathering histories in shards: a user's order, a user, a day; or another file than one machine makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_day_files import bucket_uri  # noqa: F401
from test_warehouse import RowsSource, write

from assets.compute import Engine, engine
from assets.compute.gathering import gathered
from assets.compute.local import LocalEngine
from assets.sources import detect
from assets.stores import day_files
from assets.stores.day_files import DayFiles
from assets.stores.warehouse import Warehouse
from model.files import digest_file, read_npz
from model.histories import Histories

NAMES = "histories.npz", "days.npz", "users.npz"
USERS = ["u", "U", "é", "用户", "user 10", "user 9", "it's", "𝕦"]


class Sharded(LocalEngine):
    """Shards as on a cluster, in this process."""

    name = "sharded"


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Three batches with ties in time, late arrivals, positions of their own, and ids in many scripts."""
    rng = np.random.default_rng(5)
    found = Warehouse(tmp_path / "warehouse.duckdb")
    for batch in range(2):
        rows = {
            (USERS[int(rng.integers(8))], "abc"[int(rng.integers(3))], int(rng.integers(12)) * 40_000)
            for _ in range(60)
        }
        found.ingest(RowsSource(sorted(rows), f"{batch:02d}" * 32))
    return found


def gather(folder: Path, where: Engine, warehouse: Warehouse, days: str) -> dict[str, Any]:
    """Into `folder`; what was told, and the digests of what was written."""
    (folder / "work").mkdir(parents=True)
    catalogue = folder / "items.parquet"
    warehouse.items_frame().to_parquet(catalogue, index=False)
    told = gathered(where, warehouse, DayFiles(days), catalogue, work=folder / "work", target=folder)
    return told | {name: digest_file(folder / name) for name in NAMES}


def test_the_files_are_those_of_one_machine_to_the_byte(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_files, "BUCKET_ROWS", 20)
    by_one = gather(tmp_path / "one", LocalEngine(), warehouse, str(tmp_path / "days"))
    assert not (tmp_path / "days").exists(), "one machine asks the warehouse"
    by_shards = gather(tmp_path / "shards", Sharded(), warehouse, str(tmp_path / "days"))
    assert by_shards == by_one
    found = Histories.load(tmp_path / "shards" / "histories.npz")
    users = read_npz(tmp_path / "shards" / "users.npz")["user_id"].tolist()
    assert users == sorted(USERS)
    for row, user in enumerate(users):
        had = warehouse.rows(
            "SELECT item_id FROM behaviors WHERE user_id = ? ORDER BY position, timestamp, item_id, event", [user]
        )
        assert ["abc"[item] for item in found[row]] == [item for (item,) in had]


def test_positions_that_a_source_gives_are_kept(tmp_path: Path) -> None:
    rows = [("u1", "a", 10), ("u1", "b", 10), ("u1", "c", 10), ("u2", "b", 5)]
    source = write(tmp_path / "export", rows=rows, position=[2, 0, 1, 0])
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.ingest(detect(source))
    gather(tmp_path / "shards", Sharded(), warehouse, str(tmp_path / "days"))
    assert Histories.load(tmp_path / "shards" / "histories.npz")[0].tolist() == [1, 2, 0]


def test_the_next_day_is_read_beside_what_was_there(warehouse: Warehouse, tmp_path: Path) -> None:
    days = str(tmp_path / "days")
    gather(tmp_path / "first", Sharded(), warehouse, days)
    warehouse.ingest(RowsSource([("new", "a", 86_400 * 20), ("u", "b", 1)], "99" * 32))
    assert gather(tmp_path / "next", Sharded(), warehouse, days) == gather(
        tmp_path / "one", LocalEngine(), warehouse, days
    )


@pytest.mark.ray
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_cluster_gathers_what_one_machine_does(
    cluster: Any,
    warehouse: Warehouse,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    monkeypatch.setattr(day_files, "BUCKET_ROWS", 40)
    days = request.getfixturevalue("bucket_uri")("gathered") if place == "bucket" else str(tmp_path / "days")
    on_ray = engine("ray", [].append)
    assert gather(tmp_path / "ray", on_ray, warehouse, days) == gather(tmp_path / "one", LocalEngine(), warehouse, days)
    assert on_ray.used()["workers"] >= 2


def test_what_a_shard_is_told_is_names(warehouse: Warehouse, tmp_path: Path) -> None:
    """Rows in it would go through the process that plans."""
    asked: list[Any] = []

    class Listening(Sharded):
        def each(self, make: Any, arguments: tuple[Any, ...], shards: Any, what: str) -> Any:
            asked.extend([arguments, *shards])
            return super().each(make, arguments, shards, what)

    gather(tmp_path / "shards", Listening(), warehouse, str(tmp_path / "days"))
    told = [value for each in asked for value in (each.values() if isinstance(each, dict) else each)]
    assert all(isinstance(name, str) for value in told for name in ([value] if isinstance(value, str) else value))
