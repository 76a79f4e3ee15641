"""Drift by day through a real Dagster, MLflow and ONNX Runtime: a team would lose a shift, or retrain every minute for one.

What is asserted is read from the event log, the home's files and the run's tags, not from what a function returned.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_bundle import BEAM, ITEM_IDS, N_ITEMS, publish

from assets.release.drift import Compare
from assets.settings import Settings
from assets.sources import detect
from assets.stores.resource import Stores
from model.evaluation import Evaluation, evaluate
from model.files import MANIFEST, publish_dir, read_json, write_npz
from model.histories import leave_one_out
from model.onnx_search import OnnxSearch
from orchestration.definitions import build
from orchestration.drift import DRIFT, WATCH_DRIFT, drift_acts
from orchestration.run import EVERYTHING, instance

KEY = dg.AssetKey(DRIFT)
CHECK = dg.AssetCheckKey(KEY, "within_thresholds")
START = date(2020, 9, 1)
SECONDS = (START - date(1970, 1, 1)).days * 86_400
TRAINED, USERS = 14, 40
ORDINARY, BLUE, FEW, NEW, NOBODY = (TRAINED + n for n in range(5))
"""Days after the champion was trained."""
CATEGORIES = ["red" if item % 2 else "blue" for item in range(N_ITEMS)]
NEW_IDS = [f"new-{number:02d}" for number in range(20)]


def day(number: int) -> str:
    return (START + timedelta(days=number)).isoformat()


def behaviors(number: int, items: np.ndarray, *, users: int = USERS) -> list[tuple[str, str, int]]:
    """Six behaviors of each user, one of every fourth; half of the users were there yesterday too."""
    rng = np.random.default_rng(number)
    return [
        (f"user-{number * USERS // 2 + user:04d}", str(item), SECONDS + number * 86_400 + 60 * user + place)
        for user in range(users)
        for place, item in enumerate(rng.choice(items, 6 if (user + number) % 4 else 1, replace=False))
    ]


def export(folder: Path, rows: list[tuple[str, str, int]], *, items: list[str], categories: list[str]) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"item_id": items, "title": items, "categories": categories}), folder / "items.parquet")
    columns = zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True)
    pq.write_table(pa.table(dict(columns)), folder / "behaviors.parquet")
    return folder


def champion(stores: Stores, root: Path, *, evaluated: Callable[[Evaluation], Evaluation] = lambda each: each) -> str:
    """Train on what the warehouse holds (the graph is a tiny one), register, judge and promote it; the version."""
    plain = publish(root / "plain")
    histories, users, _ = stores.warehouse.histories()
    search = OnnxSearch(plain / "retrieval.onnx", n_items=N_ITEMS, beam=BEAM, threads=1)
    found = evaluated(evaluate(search, leave_one_out(histories)[2], ks=(5, 10)))

    def fill(folder: Path) -> dict[str, Any]:
        shutil.copytree(plain, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        write_npz(folder / "items.npz", {"item_id": ITEM_IDS, "title": ITEM_IDS, "categories": np.array(CATEGORIES)})
        write_npz(folder / "histories.npz", {"user_id": users, "offsets": histories.offsets, "items": histories.items})
        found.save(folder / "per_user" / "0.npz")
        return read_json(plain / MANIFEST)["meta"] | {"content": {"description": 0.0, "image": 0.0}}

    publish_dir(root / "bundle", fill)
    with stores.registry.run("training") as run:
        version = stores.registry.register(root / "bundle", run_id=run.run_id)
    digest = stores.registry.version(version).digest
    stores.books.record_verdict(digest, True, {"bundle_digest": digest, "rules": []})
    stores.promotion.promote(version, actor="ann", reason="the first that knows this shop")
    return version


class Home:
    """A home's Dagster instance and stores; `look` is one tick of the sensor, which keeps its cursor as the daemon does."""

    def __init__(self, settings: Settings, found: dg.DagsterInstance) -> None:
        self.settings, self.instance, self.stores = settings, found, Stores(home=str(settings.root))
        self.cursor: str | None = None

    def compare(self, first: int, last: int | None = None) -> dg.DagsterRun:
        job = build(self.settings).resolve_job_def(WATCH_DRIFT)
        span = {"start": day(first), "end": day(first if last is None else last)}
        tags = {f"dagster/asset_partition_range_{name}": each for name, each in span.items()}
        done = job.execute_in_process(instance=self.instance, tags=tags)
        run = self.instance.get_run_by_id(done.run_id)
        assert run is not None
        return run

    def told(self, number: int) -> dict[str, Any]:
        """Metadata of a day's newest materialization in the event log."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(KEY, asset_partitions=[day(number)]), limit=1
        ).records
        assert records
        found = records[0].asset_materialization
        assert found is not None
        return {name: entry.value for name, entry in found.metadata.items()}

    def checked(self) -> tuple[bool, dg.AssetCheckSeverity, Any]:
        (record,) = self.instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=1)
        evaluation = record.evaluation
        assert evaluation is not None
        return evaluation.passed, evaluation.severity, evaluation.metadata["figures"].value

    def look(self) -> list[dg.RunRequest] | str:
        """Requests, or why there are none."""
        context = dg.build_sensor_context(instance=self.instance, resources={"stores": self.stores}, cursor=self.cursor)
        found: Any = drift_acts(context)
        if isinstance(found, dg.SkipReason):
            return str(found.skip_message)
        self.cursor = found.cursor
        return list(found.run_requests or []) or str(found.skip_reason.skip_message)


@pytest.fixture(scope="module")
def shop(promoted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose champion knows fourteen days of a shop, and five days since: an ordinary one, one on which everybody looks at
    blue things, one with few users, one with 20 new items in a third of what is done, and one without behaviors."""
    root = tmp_path_factory.mktemp("shop")
    shutil.copytree(promoted_home, root / "home")
    stores = Stores(home=str(root / "home"))
    rows = [row for number in range(TRAINED) for row in behaviors(number, ITEM_IDS)]
    ids = ITEM_IDS.tolist()
    stores.warehouse.ingest(detect(export(root / "1" / "shop", rows, items=ids, categories=CATEGORIES)))
    champion(stores, root)
    rows += behaviors(ORDINARY, ITEM_IDS)
    rows += behaviors(BLUE, ITEM_IDS[::2])
    rows += behaviors(FEW, ITEM_IDS[::2], users=5)
    rows += behaviors(NEW, np.array([*ids[::2], *NEW_IDS]))
    everything = {"items": [*ids, *NEW_IDS], "categories": [*CATEGORIES, *["green"] * len(NEW_IDS)]}
    stores.warehouse.ingest(detect(export(root / "2" / "shop", rows, **everything)))
    return root / "home"


@pytest.fixture
def home(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    shutil.copytree(shop, tmp_path / "home")
    monkeypatch.setenv("MISS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "home")
    with instance(settings) as found:
        yield Home(settings, found)


def test_a_range_of_days_is_one_run_with_figures_of_each_day(home: Home) -> None:
    assert home.compare(ORDINARY, NOBODY).is_success
    assert home.instance.get_runs_count() == 1
    levels = {number: home.told(number)["level"] for number in range(ORDINARY, NOBODY + 1)}
    # the catalogue is compared as it is now, with twenty items that the champion does not know
    assert levels == {ORDINARY: "act", BLUE: "act", FEW: "act", NEW: "act", NOBODY: "nothing to compare"}
    acting = {number: set(home.told(number)["acting"]) for number in (ORDINARY, BLUE, FEW, NEW)}
    catalogue = {"catalogue_unknown_items", "catalogue_categories"}
    assert acting[ORDINARY] == acting[FEW] == catalogue
    assert acting[BLUE] >= catalogue | {"categories"}
    assert acting[NEW] >= catalogue | {"unknown_items", "categories"}
    told = home.told(NEW)
    assert told["catalogue_unknown_items"] == pytest.approx(20 / 80)
    assert told["unknown_items"] == pytest.approx(0.4, abs=0.1)
    assert (told["users"], told["behaviors"]) == (USERS, 190)
    assert told["champion_digest"] == home.stores.registry.by_alias("champion").digest
    assert told["figures"].splitlines()[0].startswith("| figure | value |")
    assert "| unknown_items |" in told["figures"]
    for name in ("bins_plot", "days_plot"):
        assert told[name].startswith("![")
        assert "data:image/png;base64," in told[name]
    document = json.loads((home.settings.root / "drift" / f"{day(NEW)}.json").read_text())
    assert document["champion"]["digest"] == told["champion_digest"]
    assert {each["name"]: each["value"] for each in document["figures"]}["unknown_items"] == told["unknown_items"]
    assert {"live_recall_loss", "live_coverage_loss"} <= {each["name"] for each in document["figures"]}
    assert home.told(NOBODY)["reason"] == f"no behavior came on {day(NOBODY)}"


def test_the_reference_is_what_the_champion_was_trained_on(home: Home) -> None:
    """By brute force from the rows: no behavior that came later, and test items that begin their user's day told from others."""
    rows = [row for number in range(TRAINED) for row in behaviors(number, ITEM_IDS)]
    compare = Compare(home.stores, log=str)
    assert compare.reference.totals["history_lengths"].sum() == len(rows) == TRAINED * 190
    begins = []
    for user in {row[0] for row in rows}:
        own = sorted((second, item) for name, item, second in rows if name == user)
        if len(own) >= 3 and own[-1][1] not in {item for _, item in own[:-1]}:
            begins.append(own[-1][0] // 86_400 != own[-2][0] // 86_400)
    assert {kind: users for kind, (_, users) in compare._evaluated.items()} == {
        True: sum(begins),
        False: len(begins) - sum(begins),
    }
    assert sum(begins) > 5


def test_the_check_passes_warns_or_fails_as_the_figures_say(home: Home) -> None:
    with home.stores.warehouse.connect(write=True) as connection:
        connection.execute("DELETE FROM behaviors WHERE item_id LIKE 'new-%'")
        connection.execute("DELETE FROM items WHERE item_id LIKE 'new-%'")
    home.compare(ORDINARY)
    told = home.told(ORDINARY)
    assert told["level"] == "ok"
    assert told["catalogue_description"] == told["catalogue_image"] == 0
    assert {"live_recall_loss", "live_coverage_loss"} <= set(told)
    assert home.checked() == (True, dg.AssetCheckSeverity.WARN, {})
    home.compare(FEW)
    assert home.told(FEW)["level"] == "too few"
    assert home.checked()[0]
    home.compare(BLUE)
    told = home.told(BLUE)["reason"]
    assert told.startswith(f"drift on {day(BLUE)}: ")
    assert f"categories {home.told(BLUE)['categories']:.2f} >= 0.2" in told
    passed, severity, figures = home.checked()
    assert (passed, severity, figures["categories"]) == (False, dg.AssetCheckSeverity.ERROR, "act")
    with home.stores.warehouse.connect(write=True) as connection:  # two of sixty items have another category
        connection.execute("UPDATE items SET categories = 'grey' WHERE item_id IN ('item-00', 'item-01')")
    home.compare(ORDINARY)
    assert home.told(ORDINARY)["level"] == "warn"
    assert home.checked() == (False, dg.AssetCheckSeverity.WARN, {"catalogue_categories": "warn"})
    with home.stores.warehouse.connect(write=True) as connection:
        connection.execute("UPDATE items SET categories = 'red' WHERE item_id = 'item-01'")
        connection.execute("UPDATE items SET description = 'told' WHERE item_id < 'item-30'")
    home.compare(TRAINED - 1)
    told = home.told(TRAINED - 1)
    assert told["acting"] == ["catalogue_description"]
    assert "live_recall_loss" not in told, "what it was trained on is no question"
    home.compare(NOBODY)
    assert home.checked() == (True, dg.AssetCheckSeverity.WARN, {})


def test_a_day_that_acts_starts_one_run_with_the_reason_and_no_more(home: Home) -> None:
    assert home.look() == "no day was compared since the last look"
    home.compare(ORDINARY, NEW)
    (request,) = home.look()
    assert request.tags["miss/reason"].startswith(f"drift on {day(NEW)}: ")
    assert "unknown_items 0." in request.tags["miss/reason"]
    assert "catalogue_unknown_items 0.25 >= 0.2" in request.tags["miss/reason"]
    assert home.look() == "no day was compared since the last look"
    home.compare(NEW)
    (again,) = home.look()
    assert again.run_key == request.run_key, "the daemon starts one run for one key: one champion, one reason"
    home.compare(BLUE)
    (other,) = home.look()
    assert other.run_key != request.run_key, "another reason"
    home.compare(NOBODY)
    assert home.look() == f"of 1 days compared since the last look, up to {day(NOBODY)}, none acts"


def test_what_was_compared_with_a_champion_that_is_none_any_more_starts_nothing(home: Home) -> None:
    home.compare(NEW)
    home.stores.promotion.rollback(actor="ann", reason="no good")
    told = home.look()
    assert isinstance(told, str)
    assert "champion no more" in told


def test_answers_that_got_worse_than_the_evaluation_promised_act(home: Home, tmp_path: Path) -> None:
    with home.stores.warehouse.connect(
        write=True
    ) as connection:  # back to what was there when the champion was trained
        connection.execute("DELETE FROM behaviors WHERE timestamp >= ?", [SECONDS + ORDINARY * 86_400])
        connection.execute("DELETE FROM items WHERE item_id LIKE 'new-%'")
    found = champion(
        home.stores, tmp_path / "vain", evaluated=lambda each: replace(each, ranks=np.ones_like(each.ranks))
    )
    home.stores.warehouse.load(first=day(ORDINARY), last=day(ORDINARY))
    home.compare(ORDINARY)
    told = home.told(ORDINARY)
    assert told["champion_version"] == found
    assert "live_recall_loss" in told["acting"]
    assert told["live_recall_loss"] > 0.5


def test_a_home_without_champion_or_with_another_ones_is_told_and_does_not_fail(
    empty_home: Path, tmp_path: Path, promoted_home: Path
) -> None:
    rows = behaviors(0, ITEM_IDS)
    shop = export(tmp_path / "shop", rows, items=ITEM_IDS.tolist(), categories=CATEGORIES)
    for path, why in ((empty_home, "there is no champion yet"), (tmp_path / "other", "no behavior that champion")):
        if why.startswith("no"):
            shutil.copytree(promoted_home, path)
        settings = Settings(home=path)
        Stores(home=str(settings.root)).warehouse.ingest(detect(shop))
        with instance(settings) as found:
            home = Home(settings, found)
            assert home.compare(0).is_success
            told = home.told(0)
            assert told["level"] == "nothing to compare"
            assert told["reason"].startswith(why)
            assert home.checked()[0]
            assert home.look() == f"of 1 days compared since the last look, up to {day(0)}, none acts"


def test_drift_stands_beside_the_graph_and_not_in_it(home: Home) -> None:
    definitions = build(home.settings)
    everything = definitions.resolve_job_def(EVERYTHING).asset_layer.selected_asset_keys
    assert KEY not in everything
    node = definitions.resolve_asset_graph().get(KEY)
    assert node.parent_keys == {dg.AssetKey("behaviors")}
    assert node.partitions_def == definitions.resolve_asset_graph().get(dg.AssetKey("behaviors")).partitions_def
    sensor = next(each for each in definitions.sensors or [] if each.name == "drift_acts")
    assert (sensor.job_name, sensor.default_status) == (EVERYTHING, dg.DefaultSensorStatus.RUNNING)
