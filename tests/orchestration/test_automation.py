"""Declarative automation over the real definitions: what a team would lose is sleep, to runs that nobody needed, or to a catalogue
that changed and a tree that did not.

Here assets are told to Dagster without being made; `test_graph` makes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from assets.settings import Settings
from assets.sources import detect
from assets.stores.resource import Stores
from orchestration.automation import FRESH, landed
from orchestration.definitions import build
from orchestration.run import DATA_VERSION, instance, report_landed

LATER = {
    "training_histories",
    "item_pairs",
    "multimodal_embeddings",
    "index_tree",
    "retrieval_model",
    "baselines",
    "evaluation",
    "retrieval_onnx",
    "candidate",
}


def write(folder: Path, *, days: int = 3, description: str = "a lamp of brass", items: int = 5) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [(f"i{n}", f"Item {n}", description if n == 2 else f"no {n}", "things", None) for n in range(items)]
    columns = ["item_id", "title", "description", "categories", "image"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "items.parquet", index=False)
    events = [
        (f"u{u}", f"i{(u + day) % 5}", "view", 1_600_000_000 + day * 86_400 + u, day)
        for u in range(6)
        for day in range(days)
    ]
    columns = ["user_id", "item_id", "event", "timestamp", "position"]
    pd.DataFrame(events, columns=columns).to_parquet(folder / "behaviors.parquet", index=False)
    return folder


class Daemon:
    """The asset daemon over one home: `tick` says what it asks for."""

    def __init__(self, root: Path, found: dg.DagsterInstance) -> None:
        self.settings, self.instance, self.cursor = Settings(home=root), found, None
        self.stores = Stores(home=str(root))

    def tick(self, selection: dg.AssetSelection | None = None) -> set[str]:
        definitions = build(self.settings)
        chosen = selection or dg.AssetSelection.all() - dg.AssetSelection.assets("behaviors")
        found = dg.evaluate_automation_conditions(
            definitions, self.instance, asset_selection=chosen, cursor=self.cursor
        )
        self.cursor: Any = found.cursor
        self.results = found.results
        return {each.key.to_user_string() for each in found.results if not each.true_subset.is_empty}

    def made(self, asset: str, version: str) -> None:
        event = dg.AssetMaterialization(dg.AssetKey(asset), tags={DATA_VERSION: version})
        self.instance.report_runless_asset_event(event)

    def ingest(self, folder: Path) -> list[str]:
        self.stores.warehouse.ingest(detect(folder))
        return report_landed(self.instance, self.stores)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Everything was made once, and the daemon has looked since."""
    root = tmp_path / "home"
    with instance(Settings(home=root)) as found:
        daemon = Daemon(root, found)
        daemon.ingest(write(tmp_path / "shop"))
        for key in build(daemon.settings).resolve_asset_graph().materializable_asset_keys - {dg.AssetKey("behaviors")}:
            daemon.made(key.to_user_string(), "1")
        assert daemon.tick() == set(), "the first look asks for nothing: it knows of no change"
        yield daemon


def test_nothing_new_nothing_runs(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.tick() == set()
    assert daemon.ingest(write(tmp_path / "shop")) == []
    assert daemon.tick() == set()


def test_new_behaviors_retrain_without_encoding(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.ingest(write(tmp_path / "shop", days=4)) == ["2020-09-16"]
    assert daemon.tick() == {"histories", "champion"} | LATER
    assert daemon.tick() == set(), "asked for once"


def test_a_changed_description_encodes_and_the_logs_are_left_alone(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.ingest(write(tmp_path / "shop", description="a lamp of tin")) == ["landed_items"]
    assert daemon.tick(FRESH) == {"items", "text_embeddings", "image_embeddings", "histories", "new_items", "champion"}


def test_a_home_without_a_champion_is_not_asked_for_one(tmp_path: Path) -> None:
    """The first export: content is encoded at once, and the night makes the rest."""
    with instance(Settings(home=tmp_path / "home")) as found:
        daemon = Daemon(tmp_path / "home", found)
        assert daemon.tick(FRESH) == set()
        daemon.ingest(write(tmp_path / "shop"))
        assert daemon.tick(FRESH) == {"items", "text_embeddings", "image_embeddings", "histories", "new_items"}


def test_days_of_this_week_are_compared_and_years_of_old_ones_are_not(daemon: Daemon, tmp_path: Path) -> None:
    yesterday = (int(time.time()) // 86_400 - 1) * 86_400
    rows = [(f"u{n}", "i1", "view", stamp + n, 90 + n) for n in range(3) for stamp in (yesterday, 1_600_300_000)]
    columns = ["user_id", "item_id", "event", "timestamp", "position"]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "late.parquet", index=False)
    daemon.ingest(tmp_path / "late.parquet")
    assert "drift" in daemon.tick(FRESH)
    asked = next(each for each in daemon.results if each.key == dg.AssetKey("drift"))
    days = asked.true_subset.expensively_compute_asset_partitions()
    assert [each.partition_key for each in days] == [datetime.fromtimestamp(yesterday, UTC).strftime("%Y-%m-%d")]


def test_the_same_bytes_again_leave_what_follows_alone(daemon: Daemon) -> None:
    """Data versions, and not runs, say what is stale."""
    daemon.made("item_pairs", "1")
    assert daemon.tick() == set()
    daemon.made("item_pairs", "2")
    assert daemon.tick() == LATER - {"training_histories", "item_pairs", "baselines"} | {"champion"}


def test_what_is_switched_on_is_the_cheap_part(daemon: Daemon) -> None:
    sensors = {
        each.name: each
        for each in build(daemon.settings).sensors or []
        if isinstance(each, dg.AutomationConditionSensorDefinition)
    }
    assert {name: each.default_status.value for name, each in sensors.items()} == {
        "keep_fresh": "RUNNING",
        "retrain_when_stale": "STOPPED",
    }


def test_the_sensor_tells_of_what_an_ingest_brought_and_then_rests(tmp_path: Path) -> None:
    root = tmp_path / "home"
    stores = Stores(home=str(root))
    with instance(Settings(home=root)) as found:

        def look(cursor: str | None) -> tuple[str, str | None]:
            context = dg.build_sensor_context(instance=found, resources={"stores": stores}, cursor=cursor)
            said: Any = landed(context)
            return said.skip_message, context.cursor

        assert look(None)[0] == "nothing was ingested yet"
        stores.warehouse.ingest(detect(write(tmp_path / "shop")))
        said, cursor = look(None)
        assert "2020-09-13" in said
        assert "landed_items" in said
        assert look(cursor)[0] == "nothing has come in"
        assert found.get_materialized_partitions(dg.AssetKey("behaviors")) == {"2020-09-13", "2020-09-14", "2020-09-15"}
