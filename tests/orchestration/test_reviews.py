"""A reviewer's word in MLflow, carried out by Dagster: sensor, run, checks and ledger, all real, over a home with three versions.

What a team would lose: an approval that nothing acts on, and a version in service that somebody slipped past the gate.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from team import Team

from assets.settings import Settings
from assets.stores.artifacts import ArtifactStore
from model.files import MANIFEST
from orchestration.definitions import build
from orchestration.run import instance
from orchestration.sensors import PROMOTION


@pytest.fixture
def team(home: Path, promoted_home: Path) -> Iterator[Team]:
    settings = Settings(home=home)
    bundle = promoted_home.parent / "bundle-3"

    def build_candidate(folder: Path, work: Path) -> dict[str, Any]:
        shutil.copytree(bundle, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        return {}

    candidate, _ = ArtifactStore(settings.artifacts).produce(
        "candidate", code_version="1", config={}, inputs={}, build=build_candidate
    )
    with instance(settings) as found:
        team = Team(settings, found)
        assert team.registry.version("3").digest == candidate.data_version
        yield team


def test_nothing_runs_where_there_is_nothing_to_decide(team: Team) -> None:
    assert isinstance(team.look(), dg.SkipReason)
    assert team.instance.get_runs_count() == 0


def test_an_approval_in_mlflow_is_promoted_by_a_run(team: Team) -> None:
    team.registry.set_tags("3", {"review": "approved", "review_by": "ann", "review_reason": "better on the tail"})
    request = team.look()
    assert isinstance(request, dg.RunRequest)
    assert request.tags["miss/reason"] == "version 3 was approved"
    again = team.look()
    assert isinstance(again, dg.RunRequest)
    assert again.run_key == request.run_key, "the daemon starts one run for one state"
    run_id = team.run(request)
    assert team.tags(run_id)["miss/reason"] == "version 3 was approved"
    assert team.served() == "3"
    assert team.checked().passed
    assert team.checked().metadata["put_back"].value == []
    assert team.registry.aliases() == {"champion": "3", "previous": "1"}
    assert [(row["action"], row["version"], row["actor"]) for row in team.books.ledger()][1:] == [
        ("promote", "3", "ann")
    ]
    assert team.registry.version("3").tags["review"] == "promoted"
    assert isinstance(team.look(), dg.SkipReason)


def test_an_alias_moved_to_what_was_not_judged_is_put_back_and_stands_as_a_failed_check(team: Team) -> None:
    team.registry.set_alias("champion", "2")
    request = team.look()
    team.run(request)
    assert team.served() == "1"
    assert not team.checked().passed
    (told,) = team.checked().metadata["put_back"].value
    assert "version 2 by mlflow: alias champion was moved by hand and put back: there is no verdict" in told
    assert team.books.ledger()[-1]["action"] == "restore"
    assert isinstance(team.look(), dg.SkipReason), "looked at once, the alert stands until the next run of the graph"
    assert not team.checked().passed


def test_what_a_command_put_back_is_told_in_dagster_too(team: Team) -> None:
    team.registry.set_alias("champion", "2")
    team.stores.promotion.reconcile()
    team.run(team.look())
    assert not team.checked().passed


def test_promotion_without_a_reviewer_is_a_setting(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    job = build(team.settings).resolve_job_def(PROMOTION)
    assert job.execute_in_process(instance=team.instance).success
    assert team.served() == "1", "off by default"
    monkeypatch.setenv("MISS_AUTO_PROMOTE", "true")
    assert job.execute_in_process(instance=team.instance).success
    assert team.served() == "3"
    assert team.books.ledger()[-1]["reason"] == "MISS_AUTO_PROMOTE is on"
