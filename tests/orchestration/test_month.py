"""A month of a team's days on MovieLens-1M's own: what lands, what retrains, what is approved, what is stopped, what is taken back.

Everything is real (encoders, training, MLflow, Dagster's runs, ONNX), and everything is asserted from Dagster's event log, MLflow
and the ledger. The tests of this file run in order and carry one home on. The month is August 2000, the catalogue is cut to the
items that had most behaviors in it, and the model is small: about five minutes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from month import DATA, FIRST, OPTIONS, WEEKS, Logs
from team import GATE, Team
from terminal import Miss

from assets.settings import Settings
from assets.sources import detect
from orchestration import inbox
from orchestration.drift import DRIFT, WATCH_DRIFT, drift_acts
from orchestration.run import EVERYTHING, RANGE, instance, report_landed
from orchestration.sensors import daily

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs MovieLens-1M in the neutral layout at {DATA}"),
]
BEHAVIORS = dg.AssetKey("behaviors")
DRIFTED = dg.AssetCheckKey(dg.AssetKey(DRIFT), "within_thresholds")
ENCODERS = ("text_embeddings", "image_embeddings")


@pytest.fixture(scope="module")
def logs() -> Logs:
    return Logs()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, logs: Logs) -> Path:
    """A home with the catalogue and a first week of logs, ingested by hand."""
    from assets.stores.resource import Stores

    root = tmp_path_factory.mktemp("month") / "home"
    folder = logs.catalogue(root.parent / "films", until=WEEKS[0])
    Stores(home=str(root)).warehouse.ingest(detect(folder))
    return root


@pytest.fixture
def team(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    monkeypatch.setenv("MISS_HOME", str(root))
    for name, value in OPTIONS.items():
        monkeypatch.setenv(name, value)
    settings = Settings(home=root)
    with instance(settings) as found:
        yield Team(settings, found)


def night(team: Team) -> str:
    """What the schedule starts at three; the run's id."""
    schedule = daily(team.settings.retrain)
    context = dg.build_schedule_context(instance=team.instance)
    (request,) = schedule.evaluate_tick(context).run_requests or []
    return team.run(request, job=EVERYTHING)


def post(team: Team, name: str, write: Any) -> str:
    """A file put into the inbox and taken in by a run of the sensor; the run's id."""
    folder = team.settings.inbox
    folder.mkdir(exist_ok=True)
    write(folder / f"{name}.tmp")
    os.utime(folder / f"{name}.tmp", (time.time() - 60,) * 2)
    (folder / f"{name}.tmp").rename(folder / f"{name}.parquet")
    (request,) = team.look(inbox.inbox)
    return team.run(request, job=inbox.INBOX)


def states(team: Team) -> dict[str, Any]:
    """Aliases in MLflow, champion in the event log, rows of the ledger."""
    return {"aliases": team.registry.aliases(), "served": team.served(), "ledger": team.rows()}


def test_the_first_night_makes_a_champion(team: Team) -> None:
    report_landed(team.instance, team.stores)
    run_id = night(team)
    assert team.status(run_id) == "SUCCESS"
    assert "trained before" in team.metadata("training_histories", run_id)["protocol"], (
        "by time, not by leaving one out"
    )
    assert states(team) == {
        "aliases": {"champion": "1"},
        "served": "1",
        "ledger": [("bootstrap", "1", "miss")],
    }
    assert team.registry.version("1").tags["trained_by"] == "schedule daily"
    assert team.checked(GATE).passed


def test_a_night_without_news_makes_nothing(team: Team) -> None:
    run_id = night(team)
    assert team.status(run_id) == "SUCCESS"
    made = ("items", "histories", *ENCODERS, "index_tree", "retrieval_model", "retrieval_onnx", "candidate")
    assert {asset: team.metadata(asset, run_id)["reused"] for asset in made} == dict.fromkeys(made, True)
    assert [each.version for each in team.registry.versions()] == ["1"]


def test_a_week_lands_and_is_trained_on_without_encoding_anything(team: Team, logs: Logs) -> None:
    days = logs.days(WEEKS[0], WEEKS[1])
    run_id = post(team, "week-1", lambda path: logs.week(path, WEEKS[0], WEEKS[1]))
    assert team.status(run_id) == "SUCCESS"
    assert set(days) <= team.instance.get_materialized_partitions(BEHAVIORS)
    run_id = night(team)
    assert team.status(run_id) == "SUCCESS", "the gate let it pass"
    assert all(team.metadata(asset, run_id)["reused"] for asset in ENCODERS)
    assert not team.metadata("retrieval_model", run_id)["reused"]
    rules = {rule["name"]: rule for rule in team.checked(GATE).metadata["rules"].value}
    assert rules["recall_30_difference"]["value"] >= 0
    assert rules["recall_30_low95"]["passed"]
    assert states(team)["aliases"] == {"champion": "1", "challenger": "2"}, "it waits for a person"


def test_a_reviewer_approves_it_and_a_sensor_promotes_it(team: Team) -> None:
    team.registry.set_tags("2", {"review": "approved", "review_by": "ann", "review_reason": "a week more"})
    run_id = team.run(team.look())
    assert team.status(run_id) == "SUCCESS"
    assert states(team) == {
        "aliases": {"champion": "2", "previous": "1"},
        "served": "2",
        "ledger": [("bootstrap", "1", "miss"), ("promote", "2", "ann")],
    }
    assert team.registry.version("2").tags["review"] == "promoted"


def test_a_poisoned_day_is_stopped_by_the_contract_and_leaves_nothing(team: Team, logs: Logs) -> None:
    before, known = team.stores.warehouse.digests(), team.instance.get_materialized_partitions(BEHAVIORS)
    run_id = post(
        team,
        "poisoned",
        lambda path: logs.week(path, WEEKS[1], WEEKS[2], item="if(position % 9 = 0, 'film-?', item_id)"),
    )
    assert team.status(run_id) == "FAILURE"
    (failure,) = team.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    assert "film-?" in str(failure.event_log_entry.dagster_event.event_specific_data.error), "the rows are named"  # type: ignore[union-attr]
    assert team.stores.warehouse.digests() == before
    assert team.instance.get_materialized_partitions(BEHAVIORS) == known
    assert [path.name for path in (team.settings.inbox / "refused").iterdir()] == ["poisoned.parquet"]


def test_a_bad_model_is_stopped_by_the_gate(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody set a learning rate that learns nothing."""
    bad = json.loads(OPTIONS["MISS_TRAINING"])
    bad["dense"] |= {"learning_rate": 1e-9, "epochs": 1}
    bad["lifelong"] |= {"epochs": 0}
    monkeypatch.setenv("MISS_TRAINING", json.dumps(bad))
    before = states(team)
    run_id = night(team)
    assert team.status(run_id) == "FAILURE"
    assert not team.checked(GATE).passed
    failed = {rule["name"] for rule in team.checked(GATE).metadata["rules"].value if not rule["passed"]}
    assert {"beats_item_knn_recency", "recall_30_difference"} <= failed, (
        "transitions are counted, so popularity it still beats"
    )
    assert team.made("champion", run_id) is None, "what follows the gate was not run"
    newest = team.registry.versions()[-1]
    assert newest.tags["gate"] == "failed"
    team.registry.set_tags(newest.version, {"review": "approved", "review_by": "bob"})
    team.run(team.look())
    assert team.registry.version(newest.version).tags["review"] == "refused"
    after = states(team)
    assert after["served"] == before["served"] == "2"
    assert after["aliases"]["champion"] == "2"
    assert after["ledger"][-1] == ("refuse", newest.version, "bob")


def test_a_drifted_week_acts_and_starts_a_retraining_that_says_why(team: Team, logs: Logs) -> None:
    """The third week's people watch what nobody watched: every film stands for the one as popular from the other end."""
    days = logs.days(WEEKS[1], WEEKS[2])
    run_id = post(team, "week-2", lambda path: logs.week(path, WEEKS[1], WEEKS[2], item=logs.opposite))
    assert team.status(run_id) == "SUCCESS", "the contract has nothing against it"
    begin, end = RANGE
    compared = team.run(dg.RunRequest(tags={begin: days[0], end: days[-1]}), job=WATCH_DRIFT)
    assert team.status(compared) == "SUCCESS"
    levels = {
        str(record.partition_key): record.asset_materialization.metadata["level"].value
        for record in team.instance.fetch_materializations(dg.AssetKey(DRIFT), limit=50).records
        if record.asset_materialization is not None
    }
    assert set(levels) == set(days)
    assert list(levels.values()).count("act") >= 5
    assert not team.checked(DRIFTED).passed
    assert team.checked(DRIFTED).severity == dg.AssetCheckSeverity.ERROR
    (request,) = team.look(drift_acts).run_requests
    assert request.tags["miss/reason"].startswith(f"drift on {days[-1]}: ")
    run_id = team.run(request, job=EVERYTHING)
    assert team.status(run_id) == "SUCCESS", "trained on half of that week, it finds what the champion does not"
    assert team.tags(run_id)["miss/reason"] == request.tags["miss/reason"]
    waits = team.registry.by_alias("challenger")
    assert waits is not None
    team.registry.set_tags(waits.version, {"review": "approved", "review_by": "ann", "review_reason": "drift"})
    assert team.status(team.run(team.look())) == "SUCCESS"
    assert states(team)["aliases"] == {"champion": waits.version, "previous": "2"}
    assert team.rows()[-1] == ("promote", waits.version, "ann")


def test_a_rollback_is_one_command_and_takes_a_moment(team: Team, miss: Miss) -> None:
    began = time.perf_counter()
    said = miss("rollback", "--reason", "complaints")
    assert said.code == 0
    assert time.perf_counter() - began < 5
    assert team.registry.aliases()["champion"] == "2"
    assert team.registry.aliases()["previous"] != "2"
    assert team.rows()[-1][:2] == ("rollback", "2")
    assert miss("doctor").out.count("ledger")
    team.run(dg.RunRequest(), job="promotion")
    assert team.served() == "2", "and Dagster sees it at its next look"
    assert team.checked().passed
    assert FIRST in team.instance.get_materialized_partitions(BEHAVIORS)
