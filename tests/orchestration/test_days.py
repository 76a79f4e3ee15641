"""Logs by day, through a real Dagster: what a data engineer would lose if a backfill doubled rows, or a kill lost them.

Everything is read back from Dagster's event log and the warehouse, not from what a function returned.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from terminal import Miss

from assets.settings import Settings
from assets.sources import detect
from assets.stores.resource import Stores
from model.errors import BadInput, NotReady
from orchestration.run import LANDED_ITEMS, instance, report_landed

ROOT = Path(__file__).parents[2]
BEHAVIORS = dg.AssetKey("behaviors")
DAYS = [f"2020-09-{13 + n}" for n in range(4)]
START = 1_599_955_200  # the first of them
PER_DAY = 30


def write(folder: Path, *, days: int = 4) -> Path:
    """An export of three items and 30 behaviors a day."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item_id": ["a", "b", "c"]}), folder / "items.parquet")
    rows = [(f"u{n % 5}", "abc"[n % 3], START + 86_400 * day + n) for day in range(days) for n in range(PER_DAY)]
    names = ("user_id", "item_id", "timestamp")
    pq.write_table(
        pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), folder / "behaviors.parquet"
    )
    return folder


@pytest.fixture
def stores(empty_home: Path, tmp_path: Path) -> Stores:
    """A home with four days of logs, which Dagster does not know of yet."""
    found = Stores(home=str(empty_home))
    found.warehouse.ingest(detect(write(tmp_path / "shop")))
    return found


def materialized(settings: Settings) -> dict[str, Any]:
    """Day -> its newest materialization in the event log."""
    with instance(settings) as found:
        records = found.fetch_materializations(BEHAVIORS, limit=1000).records
        newest: dict[str, Any] = {}
        for record in records:
            newest.setdefault(str(record.partition_key), record.asset_materialization)
        return newest


def test_what_an_ingest_brought_is_told_to_dagster_once(stores: Stores, tmp_path: Path) -> None:
    with instance(stores.settings) as found:
        assert report_landed(found, stores) == [*DAYS, LANDED_ITEMS]
        assert found.get_materialized_partitions(BEHAVIORS) == set(DAYS)
        assert report_landed(found, stores) == []
        stores.warehouse.ingest(detect(write(tmp_path / "shop", days=5)))
        assert report_landed(found, stores) == ["2020-09-17"], (
            "a day, or a catalogue, that nothing was added to is no news"
        )
    assert materialized(stores.settings)["2020-09-17"].metadata["rows"].value == PER_DAY


def test_a_backfill_over_a_range_is_one_run_and_doubles_nothing(miss: Miss, stores: Stores) -> None:
    before = stores.warehouse.digests()
    said = miss("backfill", DAYS[0], DAYS[2])
    assert said.code == 0
    assert "2020-09-13 to 2020-09-15: 3 days, 90 behaviors in the warehouse" in said.out
    told = materialized(stores.settings)
    assert sorted(told) == DAYS[:3]
    assert told[DAYS[0]].metadata["rows_by_day"].value == dict.fromkeys(DAYS[:3], PER_DAY)
    with instance(stores.settings) as found:
        (run,) = found.get_runs()
        assert run.is_success
        assert run.tags["dagster/asset_partition_range_start"] == DAYS[0]
    assert stores.warehouse.digests() == before


def test_a_day_that_was_lost_comes_back_by_its_partition(miss: Miss, stores: Stores) -> None:
    before = stores.warehouse.days()
    with stores.warehouse.connect(write=True) as connection:
        connection.execute("DELETE FROM behaviors WHERE timestamp >= ?", [START + 86_400])
    assert stores.warehouse.days() == {DAYS[0]: PER_DAY}
    assert miss("backfill", DAYS[1]).code == 0
    assert stores.warehouse.days() == {DAYS[0]: PER_DAY, DAYS[1]: PER_DAY}
    assert materialized(stores.settings)[DAYS[1]].metadata["rows_new"].value == PER_DAY
    miss("backfill", DAYS[0], DAYS[3])
    assert stores.warehouse.days() == before


@pytest.mark.slow
def test_dagsters_own_command_backfills_the_same_partitions(stores: Stores) -> None:
    with stores.warehouse.connect(write=True) as connection:
        connection.execute("DELETE FROM behaviors")
    with instance(stores.settings):
        pass  # writes the instance's dagster.yaml
    environment = os.environ | {"DAGSTER_HOME": str(stores.settings.root / "dagster")}
    command = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "--select",
        "behaviors",
        "-m",
        "orchestration.definitions",
    ]
    command += ["--partition-range", f"{DAYS[1]}...{DAYS[2]}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert stores.warehouse.days() == dict.fromkeys(DAYS[1:3], PER_DAY)
    assert sorted(materialized(stores.settings)) == DAYS[1:3]


@pytest.mark.slow
def test_a_killed_backfill_leaves_nothing_half_done_and_is_finished_by_the_next(stores: Stores, tmp_path: Path) -> None:
    with stores.warehouse.connect(write=True) as connection:
        connection.execute("DELETE FROM behaviors")
    marker = tmp_path / "reached"
    script = f"""
import time
from pathlib import Path
from assets.stores import warehouse
real = warehouse.append_new
def hang(*args, **kwargs):
    real(*args, **kwargs)
    Path({str(marker)!r}).touch()
    time.sleep(300)
warehouse.append_new = hang
from orchestration import cli
cli.main(["backfill", {DAYS[0]!r}, {DAYS[3]!r}])
"""
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, start_new_session=True) as victim:
        deadline = time.monotonic() + 120
        while not marker.exists():
            assert victim.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(victim.pid, signal.SIGKILL)
    assert stores.warehouse.days() == {}, "a transaction that was not committed is none"
    assert materialized(stores.settings) == {}
    # the victim still holds its place in the pool `warehouse`
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "orchestration.cli", "backfill", DAYS[0], DAYS[3]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert stores.warehouse.days() == dict.fromkeys(DAYS, PER_DAY)
    assert sorted(materialized(stores.settings)) == DAYS
    with instance(stores.settings) as found:
        statuses = [run.status for run in found.get_runs()]  # the newest first
        assert statuses == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE], (
            "the killed run is told to have failed"
        )


@pytest.mark.slow
def test_twenty_materializations_at_once_wait_for_each_other(stores: Stores, tmp_path: Path) -> None:
    """Twenty processes want DuckDB's one writer and Dagster's pool at the same moment: all end well, none meets a lock."""
    stores.warehouse.ingest(detect(write(tmp_path / "shop", days=20)))
    days = sorted(stores.warehouse.days())
    with stores.warehouse.connect(write=True) as connection:
        connection.execute("DELETE FROM behaviors")
    script = f"""
import os, sys
import dagster
from orchestration import cli, definitions
def one(day):
    said = os.open(os.path.join({str(tmp_path)!r}, day), os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 1), os.dup2(said, 2)
    try:
        cli.main(["backfill", day, day])
    except SystemExit as done:
        os._exit(done.code or 0)
    os._exit(0)
children = []
for day in {days!r}:
    child = os.fork()
    children.append(child) if child else one(day)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, check=False, timeout=500)
    told = {day: (tmp_path / day).read_text() for day in days}
    assert done.returncode == 0, told
    assert not [text for text in told.values() if "lock" in text.lower() or "Traceback" in text], told
    assert stores.warehouse.days() == dict.fromkeys(days, PER_DAY)
    assert sorted(materialized(stores.settings)) == days
    with instance(stores.settings) as found:
        assert [run.status for run in found.get_runs()] == [dg.DagsterRunStatus.SUCCESS] * 20
        assert found.event_log_storage.get_concurrency_info("warehouse").active_slot_count == 0


def test_a_lost_warehouse_is_made_again(miss: Miss, stores: Stores) -> None:
    before = stores.warehouse.digests()
    stores.warehouse.path.unlink()
    assert miss("rebuild").out == "made again: 3 items, 5 users, 120 behaviors\n"
    assert stores.warehouse.digests() == before


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (["yesterday"], "'yesterday' is no day"),
        ([DAYS[2], DAYS[0]], "2020-09-15 to 2020-09-13"),
        (["2020-09-12"], "2020-09-13, the first that landed"),
        (["2020-09-13", "2999-01-01"], "today"),
    ],
)
def test_days_that_cannot_be_are_told(miss: Miss, stores: Stores, days: list[str], told: str) -> None:
    said = miss("backfill", *days)
    assert said.code == BadInput.exit_code
    assert told in said.sentence()


def test_nothing_landed_is_told(miss: Miss, empty_home: Path) -> None:
    for command in (["backfill", DAYS[0]], ["rebuild"]):
        said = miss(*command)
        assert said.code == NotReady.exit_code
        assert "miss ingest DIR" in said.sentence()
