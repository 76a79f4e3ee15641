"""The warehouse: what a team would lose if an ingest doubled, tore or mixed data, or if a lock hung a pipeline."""

import itertools
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from assets.sources import Source, Staged, detect
from assets.sources.demo import DemoSource
from assets.stores import contract
from assets.stores.contract import note_repeats
from assets.stores.ingest import append
from assets.stores.warehouse import Warehouse
from model.errors import BadInput, Corrupt, NotReady, Refused
from model.simulator import SimulatorConfig

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
ROWS = [("u1", "a", 10), ("u1", "b", 20), ("u2", "b", 5), ("u2", "c", 6), ("u2", "a", 7)]
EMPTY = {"items": 0, "users": 0, "behaviors": 0}


def write(folder: Path, *, items: dict | None = None, rows: list[tuple] = ROWS, **columns: list) -> Path:
    """A neutral folder; `rows` are (user, item, timestamp), `columns` further columns of behaviors."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(items or {"item_id": ["c", "a", "b"], "title": ["C", "A", "B"]}), folder / "items.parquet")
    named = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(named | columns), folder / "behaviors.parquet")
    return folder


class RowsSource(Source):
    """A source that is a list of rows; for what needs many small ingests."""

    name, simulated, location, command = "rows", False, "memory", "miss ingest rows"

    def __init__(self, rows: list[tuple[str, str, int]], label: str) -> None:
        self.rows, self.label = rows, label

    def digest(self) -> str:
        return self.label

    def stage(self, connection: duckdb.DuckDBPyConnection) -> Staged:
        connection.execute(
            "CREATE TEMP TABLE staged_items AS SELECT *, 'T' AS title, NULL::VARCHAR AS description, "
            "NULL::VARCHAR AS categories, NULL::VARCHAR AS image FROM (VALUES ('a'), ('b'), ('c')) AS v(item_id)"
        )
        connection.execute(
            "CREATE TEMP TABLE staged_behaviors(user_id VARCHAR, item_id VARCHAR, event VARCHAR, value DOUBLE, "
            "timestamp BIGINT, position INTEGER, file_row BIGINT)"
        )
        connection.executemany(
            "INSERT INTO staged_behaviors VALUES (?, ?, 'view', NULL, ?, NULL, ?)",
            [[*row, place] for place, row in enumerate(self.rows)],
        )
        return Staged(positions_given=False)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "home" / "warehouse.duckdb")


def histories(warehouse: Warehouse) -> dict[str, list[int]]:
    found, users, _ = warehouse.histories()
    return {str(user): found[row].tolist() for row, user in enumerate(users)}


# -- what is there before anything is ------------------------------------------------------------------------------------


def test_an_empty_home_says_how_to_begin(warehouse: Warehouse) -> None:
    assert warehouse.counts() == EMPTY
    for method in (
        warehouse.catalogue,
        warehouse.items_frame,
        warehouse.held_to_contract,
        warehouse.histories,
        warehouse.digests,
    ):
        with pytest.raises(NotReady, match="miss ingest DIR"):
            method()
    assert not warehouse.path.exists()  # asking leaves nothing behind


def test_a_file_that_is_no_warehouse_is_named(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.path.parent.mkdir()
    warehouse.path.write_bytes(b"something else" * 1000)
    with pytest.raises(Corrupt, match=r"warehouse\.duckdb is not a DuckDB file"):
        warehouse.counts()
    warehouse.path.write_bytes(b"")  # killed before the first block was written
    assert warehouse.counts() == EMPTY
    assert warehouse.ingest(detect(write(tmp_path / "shop"))).behaviors_new > 0


# -- ingest ------------------------------------------------------------------------------------------------------------


def test_an_ingest_is_read_back_in_the_catalogues_order(warehouse: Warehouse, tmp_path: Path) -> None:
    report = warehouse.ingest(detect(write(tmp_path / "shop")))
    assert (report.items_new, report.behaviors_new, report.unchanged, report.catalogue) == (3, 5, False, "shop")
    assert report.contract["success"]
    assert "3 new items, 5 new behaviors" in report.sentence()
    assert warehouse.counts() == {"items": 3, "users": 2, "behaviors": 5}
    assert warehouse.catalogue() == ("shop", False)
    assert warehouse.items_frame()["item_id"].tolist() == ["a", "b", "c"]
    assert histories(warehouse) == {"u1": [0, 1], "u2": [1, 2, 0]}
    found, users, _ = warehouse.histories()
    assert (found.items.dtype, found.offsets.dtype, users.dtype.kind, found.n_items) == (np.int32, np.int64, "U", 3)


def test_ingesting_the_same_again_changes_nothing(warehouse: Warehouse, tmp_path: Path) -> None:
    folder = write(tmp_path / "shop")
    first = warehouse.ingest(detect(folder))
    before = warehouse.digests()
    again = warehouse.ingest(detect(folder))
    assert again.unchanged
    assert again.batch_id == first.batch_id
    assert "nothing to do" in again.sentence()
    assert warehouse.digests() == before
    assert warehouse.counts()["behaviors"] == 5


@pytest.mark.parametrize("positions", [True, False])
def test_a_grown_export_adds_only_what_is_new(warehouse: Warehouse, tmp_path: Path, positions: bool) -> None:
    grown = [*ROWS, ("u1", "c", 30), ("u3", "a", 1)]
    places = [0, 1, 0, 1, 2, 2, 0]
    warehouse.ingest(detect(write(tmp_path / "shop", **({"position": places[:5]} if positions else {}))))
    items = {"item_id": ["a", "c", "d"], "title": ["A", "C, changed", "D"]}
    with pytest.raises(BadInput, match='"item_id is unique"'):
        warehouse.ingest(detect(write(tmp_path / "shop", items={k: v * 2 for k, v in items.items()}, rows=grown)))
    report = warehouse.ingest(
        detect(write(tmp_path / "shop", items=items, rows=grown, **({"position": places} if positions else {})))
    )
    assert (report.items_new, report.items_changed, report.behaviors_new, report.behaviors_known) == (1, 1, 2, 5)
    assert warehouse.items_frame()["title"].tolist() == ["A", "B", "C, changed", "D"]
    assert histories(warehouse) == {"u1": [0, 1, 2], "u2": [1, 2, 0], "u3": [0]}
    with warehouse.connect() as connection:
        batches = connection.execute("SELECT batch_id, count(*) FROM behaviors GROUP BY ALL ORDER BY 2").fetchall()
    assert [count for _, count in batches] == [2, 5]
    assert batches[0][0] == report.batch_id


def test_few_repeated_rows_are_dropped_and_counted(warehouse: Warehouse, tmp_path: Path) -> None:
    rows = [("u", "abc"[at % 3], at) for at in range(300)]
    report = warehouse.ingest(detect(write(tmp_path / "shop", rows=[*rows, rows[7]])))
    assert (report.behaviors_new, report.behaviors_repeated) == (300, 1)


def test_given_positions_order_a_history_before_time_does(warehouse: Warehouse, tmp_path: Path) -> None:
    rows = [("u", "a", 10), ("u", "b", 10), ("u", "c", 10)]
    warehouse.ingest(detect(write(tmp_path / "shop", rows=rows, position=[2, 0, 1])))
    assert histories(warehouse) == {"u": [1, 2, 0]}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["u", "v"]), st.sampled_from("abc"), st.integers(0, 6)),
        min_size=1,
        max_size=14,
        unique=True,
    ),
    cuts=st.lists(st.integers(0, 14), max_size=2),
)
@example(rows=[("u", "a", 5), ("u", "b", 6), ("u", "c", 4)], cuts=[2])  # one late arrival just before what is there
def test_histories_follow_time_however_the_rows_arrive(tmp_path_factory, rows: list[tuple], cuts: list[int]) -> None:
    """Late arrivals included: any split of the log into ingests gives histories in the order of time."""
    warehouse = Warehouse(tmp_path_factory.mktemp("home") / "warehouse.duckdb")
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for place, (start, end) in enumerate(itertools.pairwise(bounds)):
        if rows[start:end]:
            source = RowsSource(rows[:end] if place % 2 else rows[start:end], label=f"{place:016d}")
            with warehouse.connect(write=True) as connection:  # as `ingest` does, without a validation each time
                staged = source.stage(connection)
                note_repeats(connection, "staged_behaviors", "file_row")
                append(connection, source, staged, source.digest(), land=lambda: None)
    with warehouse.connect() as connection:
        times = {
            (u, i, t) for u, i, t in connection.execute("SELECT user_id, item_id, timestamp FROM behaviors").fetchall()
        }
        in_order = connection.execute(
            "SELECT user_id, timestamp FROM behaviors ORDER BY user_id, position, timestamp, item_id, event"
        ).fetchall()
    assert times == set(rows)
    assert in_order == sorted(in_order)
    found, users, _ = warehouse.histories()
    assert len(found.items) == len(rows)
    assert users.tolist() == sorted({user for user, _, _ in rows})


def test_digests_tell_content_not_the_way_it_came(tmp_path: Path) -> None:
    def digests(name: str, *exports: list[tuple], items: dict | None = None) -> dict[str, str]:
        warehouse = Warehouse(tmp_path / name / "home" / "warehouse.duckdb")
        for rows in exports:
            position = {"position": [at for _, _, at in rows]}
            warehouse.ingest(detect(write(tmp_path / name / "shop", rows=rows, items=items, **position)))
        return warehouse.digests()

    once = digests("once", ROWS)
    assert digests("reversed", ROWS[::-1]) == once
    assert digests("grown", ROWS[:2], ROWS) == once
    other = digests("other", [*ROWS[:4], ("u2", "a", 8)])
    assert other["items"] == once["items"]
    assert other["behaviors"] != once["behaviors"]
    renamed = digests("renamed", ROWS, items={"item_id": ["a", "b", "c"], "title": ["A", "B", "C!"]})
    assert renamed["items"] != once["items"]
    assert renamed["behaviors"] == once["behaviors"]


def test_odd_ids_survive_to_the_histories(warehouse: Warehouse, tmp_path: Path) -> None:
    odd = ["two words", "naïve 日本 🙂", 'it\'s "quoted", with; comma', "'; DROP TABLE items; --", " edge "]
    rows = [(user, item, place) for user in odd for place, item in enumerate(odd)]
    warehouse.ingest(detect(write(tmp_path / 'it\'s a "shop"', items={"item_id": odd, "title": odd}, rows=rows)))
    found, users, _ = warehouse.histories()
    assert users.tolist() == sorted(odd)
    ids = warehouse.items_frame()["item_id"].to_numpy()
    assert [ids[item] for item in found[0]] == odd


def test_a_moved_folder_is_the_same_catalogue_and_its_pictures_are_found_again(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    folder = write(tmp_path / "here" / "shop", items={"item_id": ["a", "b", "c"], "image": ["a.png", None, None]})
    (folder / "a.png").write_bytes(b"x")
    warehouse.ingest(detect(folder))
    before = warehouse.digests()
    (tmp_path / "here").rename(tmp_path / "there")
    report = warehouse.ingest(detect(tmp_path / "there" / "shop"))
    assert (report.items_changed, report.items_new, report.behaviors_new) == (1, 0, 0)
    assert Path(warehouse.items_frame()["image"][0]).read_bytes() == b"x"
    assert warehouse.digests() == before


@pytest.mark.parametrize("rows", [[("u", "c", 1)], [("u", "c", 1), ("u", "c", 2)], [("u", "c", 1), ("v", "c", 1)]])
def test_one_item_and_one_user_are_a_catalogue(warehouse: Warehouse, tmp_path: Path, rows: list[tuple]) -> None:
    warehouse.ingest(detect(write(tmp_path / "shop", items={"item_id": ["c"], "title": ["C"]}, rows=rows)))
    assert warehouse.counts() == {"items": 1, "users": len({row[0] for row in rows}), "behaviors": len(rows)}
    assert warehouse.histories()[0].n_items == 1


# -- refused, nothing half-loaded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([*ROWS, ("u9", "nope", 3)], {}, '1 of 6 behaviors break "item_id is in items"'),
        ([*ROWS, ("u9", "a", -1)], {}, "not negative"),
        ([*ROWS, ("u9", "a", 10**11)], {}, "not in the future"),
        (ROWS, {"value": [1.0, float("nan"), 2.0, 3.0, 4.0]}, '1 of 5 behaviors break "value is finite"'),
        (ROWS, {"value": [1.0, float("inf"), 2.0, 3.0, 4.0]}, '1 of 5 behaviors break "value is finite"'),
        (ROWS, {"value": [1.0, 9.5, 2.0, 3.0, 4.0], "event": ["rating"] * 5}, "a rating is 0.5 to 5"),
        ([*ROWS, ROWS[0]], {}, "repeat an earlier one"),
    ],
)
def test_a_refused_ingest_leaves_what_was_there(
    warehouse: Warehouse, tmp_path: Path, rows: list[tuple], columns: dict, said: str
) -> None:
    warehouse.ingest(detect(write(tmp_path / "good" / "shop", rows=ROWS[:2])))
    before = warehouse.digests()
    with pytest.raises(BadInput, match=said):
        warehouse.ingest(detect(write(tmp_path / "bad" / "shop", rows=rows, **columns)))
    assert warehouse.digests() == before


def test_a_refused_first_ingest_leaves_an_empty_home(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="item_id is in items"):
        warehouse.ingest(detect(write(tmp_path / "shop", rows=[*ROWS, ("u9", "nope", 3)])))
    assert warehouse.counts() == EMPTY
    with pytest.raises(NotReady, match="miss ingest DIR"):
        warehouse.catalogue()


def test_no_value_is_kept_as_no_value(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.ingest(detect(write(tmp_path / "shop", value=[1.0, None, 2.0, 3.0, None])))
    with warehouse.connect() as connection:
        assert connection.execute("SELECT count(value), count(*) FROM behaviors").fetchall() == [(3, 5)]


def test_a_second_catalogue_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.ingest(detect(write(tmp_path / "shop")))
    with pytest.raises(
        Refused, match=r"'shop' and one home .* 'other shop' .*`MISS_HOME=\.miss-other miss ingest '.*other shop'`"
    ):
        warehouse.ingest(detect(write(tmp_path / "other shop")))
    with pytest.raises(Refused, match=r"`MISS_HOME=\.miss-other miss demo`"):
        warehouse.ingest(DemoSource())
    assert warehouse.catalogue() == ("shop", False)


# -- whole catalogues ----------------------------------------------------------------------------------------------------


def test_the_demo_is_ingested_as_simulated(warehouse: Warehouse) -> None:
    source = DemoSource(SimulatorConfig(users=40, seed=5))
    report = warehouse.ingest(source)
    assert report.simulated
    assert warehouse.catalogue() == (source.name, True)
    assert warehouse.counts()["users"] == 40
    assert warehouse.ingest(source).unchanged
    with pytest.raises(Refused):  # other histories over the same items are never mixed in
        warehouse.ingest(DemoSource(SimulatorConfig(users=41)))


def _data(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"the evaluation data {name} is not beside the project")
    return DATA / name


@pytest.mark.real
@pytest.mark.slow
def test_movielens_1m_is_ingested_whole(warehouse: Warehouse) -> None:
    report = warehouse.ingest(detect(_data("movielens-1m")))
    assert warehouse.counts() == {"items": 3883, "users": 6040, "behaviors": 999_611}
    assert report.images_missing == 0
    found, users, _ = warehouse.histories()
    assert (len(users), len(found.items), found.n_items, found.lengths.max()) == (6040, 999_611, 3883, 2277)
    started = time.perf_counter()
    digests = warehouse.digests()
    assert time.perf_counter() - started < 10
    assert warehouse.ingest(detect(_data("movielens-1m"))).unchanged
    assert warehouse.digests() == digests


@pytest.mark.real
def test_movielens_small_is_ingested_from_grouplens_csv(warehouse: Warehouse) -> None:
    warehouse.ingest(detect(_data("ml-latest-small")))
    assert warehouse.counts() == {"items": 9742, "users": 610, "behaviors": 100_836}
    items = warehouse.items_frame().set_index("item_id")
    assert items.loc["11", "title"] == "American President, The (1995)"
    assert items.loc["11", "categories"] == "Comedy, Drama, Romance"


@pytest.mark.parametrize("table_then", ["items", "behaviors"])
@pytest.mark.parametrize("name", ["items", "behaviors"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    warehouse: Warehouse, tmp_path: Path, name: str, table_then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of two exports would stand under the digest of one."""
    folder, real = write(tmp_path / "shop"), contract.judge

    def exported_again(facts: object, judged: str) -> dict:
        if judged != table_then:
            return real(facts, judged)
        table = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(table.slice(0, 1), folder / f"{name}.parquet")
        return real(facts, judged)

    monkeypatch.setattr(contract, "judge", exported_again)
    with pytest.raises(BadInput, match="was changed while it was read"):
        warehouse.ingest(detect(folder))
    assert warehouse.counts() == EMPTY
    assert not warehouse.landing.batches()
