"""What a reviewer reads: a gain that is none, a change that is not told, or a rule that failed unseen would be approved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from assets.release.model_card import card, changed, gain
from assets.release.verdict import Judged
from assets.stores.registry import TRAINED_BY, ModelVersionInfo
from model.evaluation import Evaluation

USERS = 400
REPORT = {"dataset": "films", "split": "test", "simulated": False}
RULES: list[dict[str, Any]] = [
    {
        "name": "tree_invariants",
        "value": 0.0,
        "bound": 0.0,
        "baseline": None,
        "passed": True,
        "note": "violated | invariants",
    },
    {"name": "recall_50_low95", "value": -0.2, "bound": -0.01, "baseline": 0.5, "passed": True, "note": ""},
]


def evaluated(name: str, share: float) -> Evaluation:
    ranks = (np.arange(USERS) < share * USERS).astype(np.int32)
    users = np.arange(USERS)
    return Evaluation(
        retriever=name, split="test", users=users, ranks=ranks, limit=200, coverage=0.5, novelty=9.0, seconds=1.0
    )


def version(number: str, **tags: str) -> ModelVersionInfo:
    return ModelVersionInfo(
        version=number, digest=number * 64, run_id="r", tags=tags, aliases=(), description="", created_at=0.0
    )


@pytest.fixture
def judged() -> Judged:
    document = {"created_at": "2026-01-02T03:04:05+00:00", "rules": RULES, "passed": True}
    halves = {"first half": np.arange(USERS) < USERS // 2}
    tags = {TRAINED_BY: "ann", "data_version/items": "a" * 64}
    return Judged(
        document=document,
        version=version("8", **tags),
        own=evaluated("MISS", 0.5),
        rivals={"champion, version 7": evaluated("MISS", 0.4), "popularity": evaluated("popularity", 0.1)},
        slices=halves,
        champion=version("7"),
    )


def test_it_says_what_was_judged_against_what_and_until_when(judged: Judged) -> None:
    text = card(judged, REPORT, changes=["dense.epochs: `4` -> `8`"], run_url="http://dagster/runs/1")
    for told in (
        "# Version 8, on films",
        "**It passed the gate** (2 rules) on 2026-01-02T03:04 UTC against champion version 7. Good until 2026-01-09 03:04",
        "trained by ann, [run in Dagster](http://dagster/runs/1)",
        "`review` = `approved`",
        "| champion, version 7 | +0.1000 (+0.07",
        "- dense.epochs: `4` -> `8`",
        "| pass | tree_invariants | 0 | 0 | violated / invariants |",
        "- items: `aaaaaaaaaaaaaaaa`",
    ):
        assert told in text, text
    assert "simulated" not in text


def test_what_failed_is_said_first_and_not_offered_for_approval(judged: Judged) -> None:
    document = judged.document | {"rules": [RULES[0], RULES[1] | {"passed": False}], "passed": False}
    text = card(replace(judged, document=document), REPORT | {"simulated": True}, changes=[], run_url="")
    assert "**The gate failed it** (recall_50_low95)" in text.split("\n\n")[1]
    assert "| **FAIL** | recall_50_low95 | -0.2 | -0.01 |" in text
    assert "It cannot be promoted." in text
    assert "To approve" not in text
    assert "(simulated histories)" in text.splitlines()[0]


def test_a_first_version_has_no_champion_to_change_from(judged: Judged) -> None:
    first = replace(judged, champion=None, rivals={"popularity": judged.rivals["popularity"]})
    text = card(first, REPORT, changes=[], run_url="")
    assert "against the baselines alone" in text
    assert "changed since the champion" not in text


def test_changes_are_what_is_other_new_or_gone() -> None:
    assert changed({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "5", "d": "4"}) == [
        "b: `2` -> `5`",
        "c: `3` -> none",
        "d: none -> `4`",
    ]
    assert changed({"a": "1"}, {"a": "1"}) == []
    long = "x" * 16
    assert changed({"a": long + "1"}, {"a": long + "2"}) == [f"a: `{long}` -> `{long}`"], "told, though cut to the same"


def test_a_gain_is_that_of_the_slice_it_names(judged: Judged) -> None:
    whole = gain(judged, "champion, version 7", "recall@50")
    assert (round(whole["mean_difference"], 4), whole["against"]) == (0.1, "champion, version 7")
    half = gain(judged, "champion, version 7", "recall@50", mask="first half")
    assert (round(half["mean_difference"], 4), half["against"]) == (0.2, "champion, version 7: first half")
    assert half["low95"] > 0
