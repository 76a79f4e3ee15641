"""The landing zone: a team that loses its warehouse, or loads a range of days twice, would lose or double its logs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets.sources import detect
from assets.stores.warehouse import Warehouse
from model.errors import Corrupt, NotReady, Refused

DAY_S = 86_400
START = 1_600_000_000 - 1_600_000_000 % DAY_S  # 2020-09-13
DAYS = ["2020-09-13", "2020-09-14", "2020-09-15", "2020-09-16"]
Rows = list[tuple[str, str, int]]


def write(folder: Path, rows: Rows, *, titles: tuple[str, ...] = ("A", "B", "C")) -> Path:
    """An export of items a, b, c and behaviors (user, item, seconds after the start of the first day)."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item_id": ["a", "b", "c"], "title": list(titles)}), folder / "items.parquet")
    users, items, seconds = map(list, zip(*rows, strict=True))
    times = [START + each for each in seconds]
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), folder / "behaviors.parquet")
    return folder


FIRST: Rows = [("u", "a", 10), ("u", "b", DAY_S + 5), ("v", "c", DAY_S + 6)]
GROWN: Rows = [*FIRST, ("u", "c", 3 * DAY_S), ("v", "a", 20), ("v", "b", DAY_S + 1)]  # with late arrivals


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Two batches: an export, and the same grown, with a title changed."""
    warehouse = Warehouse(tmp_path / "home" / "warehouse.duckdb")
    warehouse.ingest(detect(write(tmp_path / "shop", FIRST)))
    warehouse.ingest(detect(write(tmp_path / "shop", GROWN, titles=("A", "B!", "C"))))
    return warehouse


def contents(warehouse: Warehouse) -> tuple:
    found, users, _ = warehouse.histories()
    histories = {str(user): found[row].tolist() for row, user in enumerate(users)}
    return warehouse.digests(), histories, warehouse.items_frame()["title"].tolist(), warehouse.catalogue()


def test_what_came_in_lies_there_by_day(warehouse: Warehouse) -> None:
    first, second = warehouse.landing.batches()
    assert (first.number, dict(first.days)) == (1, {DAYS[0]: 1, DAYS[1]: 2})
    assert (second.number, dict(second.days)) == (2, {DAYS[0]: 1, DAYS[1]: 1, DAYS[3]: 1}), "what was new in it"
    assert pq.read_table(second.path / "items.parquet").column("title").to_pylist() == ["B!"]
    assert str(warehouse.landing.first_day()) == DAYS[0]
    assert list(warehouse.landing.days()) == [DAYS[0], DAYS[1], DAYS[3]]
    assert warehouse.days() == {DAYS[0]: 2, DAYS[1]: 3, DAYS[3]: 1}
    times = pq.read_table(second.path / "behaviors.parquet").column("timestamp").to_pylist()
    assert [(time - START) // DAY_S for time in times] == [0, 1, 3]


def test_a_refused_batch_does_not_land(warehouse: Warehouse, tmp_path: Path) -> None:
    from model.errors import BadInput

    with pytest.raises(BadInput, match="item_id is in items"):
        warehouse.ingest(detect(write(tmp_path / "poisoned" / "shop", [("u", "nope", 9)])))
    assert len(warehouse.landing.batches()) == 2


def test_the_same_source_lands_once(warehouse: Warehouse, tmp_path: Path) -> None:
    assert warehouse.ingest(detect(tmp_path / "shop")).unchanged
    with warehouse.connect(write=True) as connection:
        connection.execute("DELETE FROM ingests")  # as if killed between landing and commit
    before = contents(warehouse)
    warehouse.ingest(detect(tmp_path / "shop"))
    assert len(warehouse.landing.batches()) == 2
    assert contents(warehouse) == before


def test_days_brought_in_again_double_nothing(warehouse: Warehouse) -> None:
    before = contents(warehouse)
    for first, last in ((DAYS[0], DAYS[0]), (DAYS[1], DAYS[3]), ("", "9999-12-31"), (DAYS[2], DAYS[2])):
        assert warehouse.load(first=first, last=last)["behaviors_new"] == 0
        assert contents(warehouse) == before


def test_a_day_that_was_lost_is_brought_in_again(warehouse: Warehouse) -> None:
    before = contents(warehouse)
    with warehouse.connect(write=True) as connection:
        connection.execute("DELETE FROM behaviors WHERE timestamp >= ?", [START + DAY_S])
    assert warehouse.load(first=DAYS[0], last=DAYS[0])["behaviors_new"] == 0
    assert warehouse.days() == {DAYS[0]: 2}
    assert warehouse.load(first=DAYS[1], last=DAYS[3])["behaviors_new"] == 4
    assert contents(warehouse)[1:] == before[1:]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(DAYS), again=st.sampled_from(DAYS))
def test_any_order_of_days_gives_the_same_histories(
    warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory, order: list[str], again: str
) -> None:
    anew = Warehouse(tmp_path_factory.mktemp("home") / "warehouse.duckdb")
    anew.landing = warehouse.landing
    for day in [*order, again]:
        anew.load(first=day, last=day)
    assert contents(anew)[1:3] == contents(warehouse)[1:3]
    assert anew.days() == warehouse.days()


def test_a_lost_warehouse_is_made_again_as_it_was(warehouse: Warehouse) -> None:
    before = contents(warehouse)
    for lose in (lambda: warehouse.path.unlink(), lambda: warehouse.path.write_bytes(b"torn" * 5000), lambda: None):
        lose()
        assert warehouse.rebuild() == {"items": 3, "users": 2, "behaviors": 6}
        assert contents(warehouse) == before
    assert [path.name for path in warehouse.path.parent.iterdir() if "new" in path.name] == []


def test_what_never_landed_is_not_thrown_away(warehouse: Warehouse) -> None:
    before = contents(warehouse)
    shutil.rmtree(warehouse.landing.batches()[0].path)  # as in a home that is older than its landing zone
    with pytest.raises(Refused, match=r"never landed .* would lose it; move warehouse\.duckdb away"):
        warehouse.rebuild()
    assert contents(warehouse) == before


def test_a_damaged_batch_is_named_and_the_warehouse_stays(warehouse: Warehouse) -> None:
    before = contents(warehouse)
    victim = warehouse.landing.batches()[0].path / "behaviors.parquet"
    victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(Corrupt, match="000001-"):
        warehouse.rebuild()
    assert contents(warehouse) == before


def test_nothing_landed_is_said(tmp_path: Path, warehouse: Warehouse) -> None:
    shutil.rmtree(warehouse.landing.root)
    with pytest.raises(NotReady, match="miss ingest DIR"):
        warehouse.load()
