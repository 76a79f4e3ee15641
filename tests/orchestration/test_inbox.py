"""Logs that land in the inbox, through a real Dagster: what a team would lose is a day that nobody took in, or took in twice, or
a poisoned one that half got through. States are read from the event log and the warehouse."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.settings import Settings
from assets.sources import detect
from assets.stores.resource import Stores
from model.errors import BadInput, NotReady
from orchestration.definitions import build
from orchestration.inbox import INBOX, inbox, still_files
from orchestration.run import instance

START = 1_599_955_200  # 2020-09-13
FIRST = [("u", "a", 10), ("v", "b", 20), ("u", "c", 30)]


def log(path: Path, rows: list[tuple[str, str, int]], *, age_s: float = 60) -> Path:
    """A log of behaviors, written some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    users, items, seconds = map(list, zip(*rows, strict=True))
    columns = {"user_id": users, "item_id": items, "timestamp": [START + each for each in seconds]}
    if path.suffix == ".csv":
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.table(columns), path)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


class Home:
    def __init__(self, found: dg.DagsterInstance, settings: Settings) -> None:
        self.instance, self.settings, self.stores = found, settings, Stores(home=str(settings.root))
        self.inbox = settings.inbox

    def look(self) -> list[dg.RunRequest]:
        context = dg.build_sensor_context(instance=self.instance, resources={"stores": self.stores})
        found: Any = inbox(context)
        return [] if isinstance(found, dg.SkipReason) else found

    def run(self, request: dg.RunRequest) -> dg.DagsterRun:
        job = build(self.settings).resolve_job_def(INBOX)
        done = job.execute_in_process(
            run_config=request.run_config, tags=request.tags, instance=self.instance, raise_on_error=False
        )
        run = self.instance.get_run_by_id(done.run_id)
        assert run is not None
        return run

    def why(self, run: dg.DagsterRun) -> str:
        """What the event log says of a failure."""
        events = [each.dagster_event for each in self.instance.all_logs(run.run_id) if each.dagster_event]
        return " ".join(str(each.step_failure_data.error) for each in events if each.is_step_failure)

    def lies(self, folder: str = "") -> list[str]:
        return sorted(path.name for path in (self.inbox / folder).iterdir() if path.is_file())


@pytest.fixture
def home(empty_home: Path, tmp_path: Path) -> Iterator[Home]:
    """A home with a catalogue of three items and three behaviors."""
    settings = Settings(home=empty_home)
    shop = tmp_path / "shop"
    log(shop / "behaviors.parquet", FIRST)
    pq.write_table(pa.table({"item_id": ["a", "b", "c"]}), shop / "items.parquet")
    Stores(home=str(settings.root)).warehouse.ingest(detect(shop))
    with instance(settings) as found:
        yield Home(found, settings)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_log_is_taken_in_once_and_its_days_are_told(home: Home, ending: str) -> None:
    assert home.look() == []
    log(home.inbox / f"2020-09-14.{ending}", [("u", "b", 86_400), ("w", "a", 86_401), ("u", "a", 10)])
    (request,) = home.look()
    assert [each.run_key for each in home.look()] == [request.run_key], "asked again, it is the same run"
    run = home.run(request)
    assert run.is_success
    assert run.tags["miss/reason"] == f"2020-09-14.{ending} landed in the inbox"
    assert home.stores.warehouse.days() == {"2020-09-13": 3, "2020-09-14": 2}, "what was there already is not doubled"
    assert home.instance.get_materialized_partitions(dg.AssetKey("behaviors")) == {"2020-09-13", "2020-09-14"}
    assert (home.lies(), home.lies("done"), home.look()) == ([], [f"2020-09-14.{ending}"], [])
    assert home.stores.warehouse.catalogue()[0] == "shop"


def test_a_poisoned_log_is_stopped_by_the_contract_and_moved_aside(home: Home) -> None:
    before = home.stores.warehouse.digests()
    log(home.inbox / "bad.parquet", [("u", "b", 86_400), ("u", "nobody's", 86_401)])
    (request,) = home.look()
    run = home.run(request)
    assert run.is_failure
    assert '1 of 2 behaviors break "item_id is in items"' in home.why(run)
    assert home.stores.warehouse.digests() == before
    assert len(home.stores.warehouse.landing.batches()) == 1
    assert (home.lies(), home.lies("refused"), home.look()) == ([], ["bad.parquet"], [])
    log(home.inbox / "bad.parquet", [("u", "nobody's", 86_409)])
    home.run(home.look()[0])
    assert home.lies("refused") == ["bad-2.parquet", "bad.parquet"], "no refused file is written over another"


def test_a_grown_export_in_the_inbox_brings_items_too(home: Home) -> None:
    shop = home.inbox / "shop"
    log(shop / "behaviors.parquet", [*FIRST, ("v", "d", 40)])
    pq.write_table(pa.table({"item_id": ["a", "b", "c", "d"]}), shop / "items.parquet")
    assert home.look() == [], "a folder is still when its newest file is"
    for path in (shop / "items.parquet", shop):
        os.utime(path, (time.time() - 60,) * 2)
    (request,) = home.look()
    assert home.run(request).is_success
    assert home.stores.warehouse.counts() == {"items": 4, "users": 2, "behaviors": 4}


def test_a_file_that_is_being_written_is_left_alone(home: Home) -> None:
    for name in (".hidden.csv", "growing.csv.tmp", "growing.parquet.part"):
        log(home.inbox / "x.csv", FIRST).rename(home.inbox / name)
    log(home.inbox / "fresh.csv", FIRST, age_s=0)
    assert home.look() == []
    assert [path.name for path, _ in still_files(home.inbox, now=time.time() + 10)] == ["fresh.csv"]


def test_what_was_not_taken_in_is_tried_again_after_an_hour(home: Home) -> None:
    log(home.inbox / "x.csv", [("u", "b", 86_400)])
    (first,) = home.look()
    os.utime(home.inbox / "x.csv", (time.time() - 3700,) * 2)
    (later,) = home.look()
    assert later.run_key != first.run_key
    assert home.run(first).is_success
    assert home.run(later).is_success, "a run that comes second finds nothing to do"
    assert home.stores.warehouse.days()["2020-09-14"] == 1


def test_a_file_outside_the_inbox_is_not_touched(home: Home, tmp_path: Path) -> None:
    outside = log(tmp_path / "outside.csv", [("u", "a", 99)])
    request = dg.RunRequest(run_config={"ops": {"take_in": {"config": {"path": str(outside)}}}})
    run = home.run(request)
    assert run.is_failure
    assert "is not in" in home.why(run)
    assert outside.exists()


def test_a_log_needs_a_catalogue_and_the_columns_of_one(home: Home, tmp_path: Path) -> None:
    other = Stores(home=str(tmp_path / "nothing here"))
    with pytest.raises(NotReady, match="miss ingest DIR"):
        other.warehouse.ingest(detect(log(tmp_path / "log.csv", FIRST)))
    (tmp_path / "odd.csv").write_text("user_id,item\nu,a\n")
    with pytest.raises(BadInput, match="lacks the columns item_id, timestamp"):
        home.stores.warehouse.ingest(detect(tmp_path / "odd.csv"))


def test_the_graph_runs_every_day_and_one_run_at_a_time_writes_the_warehouse(home: Home) -> None:
    definitions = build(Settings(home=home.settings.root, retrain="30 4 * * *"))
    daily = definitions.resolve_schedule_def("daily")
    assert (daily.cron_schedule, daily.job_name, daily.execution_timezone) == ("30 4 * * *", "everything", "UTC")
    context = dg.build_schedule_context(
        instance=home.instance, scheduled_execution_time=datetime(2026, 1, 2, 4, 30, tzinfo=UTC)
    )
    (request,) = daily.evaluate_tick(context).run_requests
    assert request.job_name in (None, "everything")
    assert home.instance.get_concurrency_config().pool_config.default_pool_limit == 1
    assert home.instance.run_monitoring_enabled
    pools = {
        key.to_user_string(): definitions.resolve_asset_graph().get(key).pools for key in [dg.AssetKey("behaviors")]
    }
    assert pools == {"behaviors": {"warehouse"}}
