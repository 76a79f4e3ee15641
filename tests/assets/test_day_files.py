"""What a cluster would lose: behaviors of a day that were not brought along, or twice, or a file under a reader's hands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_servers import BUCKET, s3
from test_warehouse import RowsSource

from assets.stores import day_files
from assets.stores.day_files import DayFiles, Written
from assets.stores.warehouse import Warehouse
from model.errors import BadInput, Corrupt

DAY = 86_400
ROWS = [(f"u{n % 7}", "abc"[n % 3], 3 * DAY * (n // 9) + n) for n in range(40)]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    found = Warehouse(tmp_path / "warehouse.duckdb")
    found.ingest(RowsSource(ROWS, "11" * 32))
    return found


@pytest.fixture(scope="module")
def bucket_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """URI of a prefix in a bucket of a real S3 server."""
    with s3(tmp_path_factory.mktemp("s3") / "log") as storage, pytest.MonkeyPatch.context() as patch:
        given = storage.environment
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            patch.setenv(name, given[name])
        address = given["MLFLOW_S3_ENDPOINT_URL"].removeprefix("http://")
        yield lambda prefix: f"s3://{BUCKET}/{prefix}?scheme=http&endpoint_override={address}"


def listed(files: DayFiles, written: Written, bucket: int | None = None) -> list[tuple]:
    """(user, item, time) of all behaviors in the files, sorted."""
    system, root = files.place()
    buckets = range(written.buckets) if bucket is None else [bucket]
    names = [name for each in buckets for name in written.of_bucket(each)]
    if not names:
        return []
    table = ds.dataset([f"{root}/{name}" for name in names], filesystem=system, format="parquet").to_table()
    return sorted(zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "timestamp")), strict=True))


def stored(warehouse: Warehouse) -> list[tuple]:
    return sorted(warehouse.rows("SELECT user_id, item_id, timestamp FROM behaviors"))


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_the_files_are_the_behaviors_and_a_user_is_in_one_bucket(
    warehouse: Warehouse, tmp_path: Path, request: pytest.FixtureRequest, where: str
) -> None:
    uri = request.getfixturevalue("bucket_uri")("behaviors/all") if where == "bucket" else str(tmp_path / "it's 100 %")
    files = DayFiles(uri)
    written = warehouse.to_day_files(files)
    assert written == files.written()
    assert written.buckets == 2
    assert listed(files, written) == stored(warehouse)
    users = [{row[0] for row in listed(files, written, bucket)} for bucket in range(2)]
    assert all(users)
    assert not users[0] & users[1]
    for name in written.of_bucket(0):
        assert re.fullmatch(r"day=1970-01-\d\d/bucket=0/[0-9a-f]{16}\.parquet", name)


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_only_what_changed_is_written_again_and_what_a_reader_has_open_stays(
    warehouse: Warehouse, tmp_path: Path, request: pytest.FixtureRequest, where: str
) -> None:
    uri = request.getfixturevalue("bucket_uri")("behaviors/grown") if where == "bucket" else str(tmp_path / "days")
    files = DayFiles(uri)
    first = warehouse.to_day_files(files)
    warehouse.ingest(RowsSource([("u0", "c", 5 * DAY), ("u0", "b", 3 * DAY + 7_000)], "22" * 32))
    second = warehouse.to_day_files(files)
    assert listed(files, second) == stored(warehouse)
    assert len(set(second.files) - set(first.files)) == 2, "a day that is new, and one that grew"
    assert len(second.replaced) == 1
    assert len(listed(files, first)) == len(ROWS), "the older state can still be read"
    third = warehouse.to_day_files(files)
    assert third.files == second.files
    warehouse.ingest(RowsSource([("u1", "c", 9 * DAY)], "33" * 32))
    warehouse.to_day_files(files)
    system, root = files.place()
    assert system.get_file_info(f"{root}/{second.replaced[0]}").size is None, "and goes with the update after next"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.sampled_from(["u1", "ü2", "it's 3"]), st.sampled_from("abc"), st.integers(-DAY, 4 * DAY)),
            min_size=1,
            max_size=8,
            unique=True,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_comes_in_whichever_order_the_files_follow(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, str, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("days")
    warehouse, files = Warehouse(folder / "warehouse.duckdb"), DayFiles(folder / "days")
    for number, rows in enumerate(batches):
        warehouse.ingest(RowsSource([(u, i, abs(t)) for u, i, t in rows], f"{number:02d}" * 32))
        assert listed(files, warehouse.to_day_files(files)) == stored(warehouse)


def test_buckets_grow_with_the_log_and_never_shrink(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = DayFiles(tmp_path / "days")
    assert warehouse.to_day_files(files).buckets == 2
    monkeypatch.setattr(day_files, "BUCKET_ROWS", 6)
    monkeypatch.setattr(day_files, "EXPORT_ROWS", 5)
    grown = warehouse.to_day_files(files)
    assert grown.buckets == 8
    assert listed(files, grown) == stored(warehouse)
    monkeypatch.undo()
    assert warehouse.to_day_files(files).buckets == 8


def test_killed_before_the_manifest_nothing_has_changed(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = DayFiles(tmp_path / "days")
    first = warehouse.to_day_files(files)
    warehouse.ingest(RowsSource([("u0", "c", 3 * DAY + 7_000)], "22" * 32))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DayFiles, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        warehouse.to_day_files(files)
    assert files.written() == first
    assert len(listed(files, first)) == len(ROWS)
    monkeypatch.undo()
    assert listed(files, warehouse.to_day_files(files)) == stored(warehouse)


def test_a_place_that_cannot_be_used_is_named(warehouse: Warehouse, tmp_path: Path) -> None:
    for uri in ("ftp://host/behaviors", "s3:///"):
        with pytest.raises(BadInput, match=f"MISS_DAY_FILES = '{re.escape(uri)}' cannot be used"):
            warehouse.to_day_files(DayFiles(uri))
    (tmp_path / "days").mkdir()
    (tmp_path / "days" / "manifest.json").write_text('{"buckets": 2, "torn')
    with pytest.raises(Corrupt, match="not readable"):
        warehouse.to_day_files(DayFiles(tmp_path / "days"))
