"""A user would lose: the certainty that no bundle goes live on a figure that is missing, broken or worse."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import BadInput, Corrupt
from model.evaluation import Evaluation
from model.gate import GateConfig, Measured, Rule, Verdict, judge

USERS = 200
NAN, INF = math.nan, math.inf
NO_NUMBERS = [None, NAN, INF, -INF, "fast", True, [], np.bool_(True)]
FAST = GateConfig(resamples=100)


def evaluated(name: str, share: float, *, users: np.ndarray | None = None, split: str = "test") -> Evaluation:
    """The target is first for the first `share` of users, and not found for the others."""
    ids = np.arange(USERS) if users is None else users
    ranks = (np.arange(len(ids)) < share * len(ids)).astype(np.int32)
    return Evaluation(
        retriever=name, split=split, users=ids, ranks=ranks, limit=200, coverage=0.5, novelty=9.0, seconds=1.0
    )


def figures(share: float = 0.5, **changes: Any) -> Measured:
    """Of a sound bundle, but for the changes."""
    good = {"evaluation": evaluated("MISS (ONNX)", share), "latency_ms": 20.0, "bundle_bytes": 10_000_000}
    return Measured(**(good | changes))


def arguments() -> dict[str, Any]:
    """Under which a bundle passes."""
    return {
        "candidate": figures(),
        "tree": {"passed": True, "violations": {"leaves": 0, "parents": 0}},
        "parity": {"max_abs_score_error": 1e-6, "topk_equal_share": 1.0, "histories": 1000},
        "baselines": [evaluated("popularity", 0.1), evaluated("item-kNN (recency)", 0.4), evaluated("EASE", 0.9)],
        "champion_digest": "c" * 64,
        "champion": figures(),
    }


def verdict(**changes: Any) -> Verdict:
    given_ = arguments() | changes
    return judge("b" * 64, given_.pop("candidate"), created_at="2026-01-02T03:04:05+00:00", config=FAST, **given_)


def failed(**changes: Any) -> set[str]:
    found = verdict(**changes)
    assert found.passed == (not found.failed)
    return {rule.name for rule in found.failed}


def note(found: Verdict, name: str) -> str:
    return next(rule.note for rule in found.rules if rule.name == name)


QUALITY = {"beats_popularity", "beats_item_knn_recency", "recall_50_difference", "recall_50_low95"}
VERSUS = {"recall_50_difference", "recall_50_low95", "p95_latency_vs_champion_ms", "bundle_vs_champion_bytes"}
RULES = QUALITY | VERSUS | {"tree_invariants", "onnx_score_error", "onnx_topk_equal", "onnx_histories"}
RULES |= {"p95_latency_ms", "bundle_bytes"}


def test_the_champion_itself_passes_and_every_rule_was_applied() -> None:
    found = verdict()
    assert found.passed, [rule.sentence() for rule in found.failed]
    assert {rule.name for rule in found.rules} == RULES
    assert all(rule.value is not None and rule.bound is not None for rule in found.rules)


def test_a_first_bundle_needs_no_champion() -> None:
    found = verdict(champion=None, champion_digest=None)
    assert found.passed
    assert {rule.name for rule in found.rules} == RULES - VERSUS


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1e-9])
@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("max_abs_score_error", "onnx_score_error"),
        ("topk_equal_share", "onnx_topk_equal"),
        ("histories", "onnx_histories"),
    ],
)
def test_parity_that_is_no_figure_fails(key: str, rule: str, value: Any) -> None:
    assert failed(parity=arguments()["parity"] | {key: value}) == {rule}


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1.0])
def test_costs_that_are_no_figure_fail(value: Any) -> None:
    assert failed(candidate=figures(latency_ms=value)) == {"p95_latency_ms", "p95_latency_vs_champion_ms"}
    assert failed(candidate=figures(bundle_bytes=value)) == {"bundle_bytes", "bundle_vs_champion_bytes"}
    assert failed(champion=figures(latency_ms=value)) == {"p95_latency_vs_champion_ms"}
    assert failed(champion=figures(bundle_bytes=value)) == {"bundle_vs_champion_bytes"}


@pytest.mark.parametrize("value", [*NO_NUMBERS[:-2], [], -1, 1])
def test_a_violation_or_an_uncounted_one_fails(value: Any) -> None:
    assert failed(tree={"passed": True, "violations": {"leaves": 0, "parents": value}}) == {"tree_invariants"}


@pytest.mark.parametrize(
    "report", [None, {}, {"passed": True}, {"passed": True, "violations": {}}, {"passed": True, "violations": 0}]
)
def test_an_empty_report_fails(report: Any) -> None:
    assert failed(tree=report) == {"tree_invariants"}


@pytest.mark.parametrize("passed", [False, None, 1, "yes"])
def test_a_tree_whose_report_does_not_say_passed_fails(passed: Any) -> None:
    assert failed(tree={"passed": passed, "violations": {"leaves": 0}}) == {"tree_invariants"}


def test_no_parity_report_fails_all_its_rules() -> None:
    for report in (None, {}):
        assert failed(parity=report) == {"onnx_score_error", "onnx_topk_equal", "onnx_histories"}


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"max_abs_score_error": 1.01e-4}, {"onnx_score_error"}),
        ({"max_abs_score_error": 1e-4}, set()),
        ({"topk_equal_share": 0.9989}, {"onnx_topk_equal"}),
        ({"topk_equal_share": 1.01}, {"onnx_topk_equal"}),
        ({"topk_equal_share": 0.999}, set()),
        ({"histories": USERS - 1}, {"onnx_histories"}),
        ({"histories": USERS}, set()),
    ],
)
def test_bounds_of_parity(changes: dict[str, float], rules: set[str]) -> None:
    assert failed(parity=arguments()["parity"] | changes) == rules


@pytest.mark.parametrize(
    ("latency", "size", "rules"),
    [
        (24.0, 11_000_000, set()),  # 1.1 x 20 ms and 2 ms of slack
        (24.1, 10_000_000, {"p95_latency_vs_champion_ms"}),
        (20.0, 11_000_001, {"bundle_vs_champion_bytes"}),
        (
            251.0,
            2**31 + 1,
            {"p95_latency_ms", "bundle_bytes", "p95_latency_vs_champion_ms", "bundle_vs_champion_bytes"},
        ),
    ],
)
def test_bounds_of_costs(latency: float, size: int, rules: set[str]) -> None:
    assert failed(candidate=figures(latency_ms=latency, bundle_bytes=size)) == rules


def test_a_slow_champion_does_not_lift_the_absolute_bounds() -> None:
    heavy = figures(latency_ms=400.0, bundle_bytes=2**32)
    assert failed(candidate=heavy, champion=heavy) == {"p95_latency_ms", "bundle_bytes"}


def test_quality_must_beat_the_baselines_and_not_fall_behind_the_champion() -> None:
    assert failed(candidate=figures(0.4), champion=figures(0.4)) == {"beats_item_knn_recency"}, "equal is not better"
    assert failed(candidate=figures(0.45)) == {"recall_50_difference", "recall_50_low95"}
    assert failed(candidate=figures(0.6)) == set()
    assert failed(candidate=figures(0.05)) == QUALITY


def test_a_difference_nobody_can_be_sure_of_fails_at_its_lower_end() -> None:
    mine, theirs = evaluated("a", 0.5), evaluated("b", 0.5)
    mixed = replace(mine, ranks=np.roll(mine.ranks, USERS // 2))  # as many found, of other users
    assert failed(candidate=figures(evaluation=mixed), champion=figures(evaluation=theirs)) == {"recall_50_low95"}


def test_no_slice_of_users_pays_for_the_others() -> None:
    found = np.arange(USERS) % 2 == 0  # by the champion: every second user
    halves = {"short histories": np.arange(USERS) < USERS // 2, "long histories": np.arange(USERS) >= USERS // 2}

    def of(hits: np.ndarray) -> Measured:
        return figures(evaluation=replace(evaluated("a", 0.5), ranks=hits.astype(np.int32)))

    lost = found.copy()
    lost[:8] = False  # 4 of the 50 found among short histories
    lost[USERS // 2 :] = True
    champion = of(found)
    assert failed(candidate=of(lost), champion=champion) == set()
    assert failed(candidate=of(lost), champion=champion, slices=halves) == {"recall_50_of_short_histories"}
    lost[:4] = found[:4]  # 2 of them: within the five per cent
    assert failed(candidate=of(lost), champion=champion, slices=halves) == set()
    few = {"a few": np.arange(USERS) < 99}
    assert "recall_50_of_a_few" not in {rule.name for rule in verdict(slices=few).rules}, "99 users tell too little"
    assert failed(slices={"others": np.ones(USERS + 50, bool)}) == {"recall_50_of_others"}
    assert failed(slices=halves, champion=None) == VERSUS | {f"recall_50_of_{n.replace(' ', '_')}" for n in halves}


@pytest.mark.parametrize(
    "other",
    [
        evaluated("a", 0.5, users=np.arange(1, USERS + 1)),
        evaluated("a", 0.5, users=np.arange(USERS - 1)),
        evaluated("a", 0.5, users=np.arange(USERS)[::-1]),
        evaluated("a", 0.5, split="validation"),
    ],
)
def test_other_users_than_the_champions_fail_with_a_note(other: Evaluation) -> None:
    found = verdict(champion=figures(evaluation=other))
    assert {rule.name for rule in found.failed} == {"recall_50_difference", "recall_50_low95"}
    assert "other users" in note(found, "recall_50_difference")
    rivals = [replace(other, retriever="popularity"), evaluated("item-kNN (recency)", 0.1)]
    assert failed(baselines=rivals) == {"beats_popularity"}


def test_a_champion_that_was_not_measured_fails_its_rules() -> None:
    assert failed(champion=None) == VERSUS
    found = verdict(champion=figures(evaluation=None))
    assert {rule.name for rule in found.failed} == {"recall_50_difference", "recall_50_low95"}
    assert note(found, "recall_50_low95") == "not evaluated"
    assert failed(champion_digest=None, champion=figures(0.9)) == {"recall_50_difference", "recall_50_low95"}


def test_a_candidate_or_baseline_that_was_not_evaluated_fails() -> None:
    nobody = evaluated("a", 0.5, users=np.zeros(0, np.int64))
    for missing in (None, nobody):
        assert failed(candidate=figures(evaluation=missing)) == QUALITY
    assert failed(baselines=[]) == {"beats_popularity", "beats_item_knn_recency"}
    assert failed(baselines=[evaluated("popularity", 0.1), evaluated("EASE", 0.1)]) == {"beats_item_knn_recency"}


def test_rules_made_elsewhere_count() -> None:
    bad = Rule(name="fresh_process", value=None, bound=None, baseline=None, passed=False, note="timed out")
    assert failed(extra=[bad]) == {"fresh_process"}
    with pytest.raises(ValueError, match="share a name"):
        verdict(extra=[replace(bad, name="bundle_bytes")])
    assert bad.sentence() == "fresh_process: nothing measured against a bound of nothing measured (timed out)"


@pytest.mark.parametrize(
    "changes", [{"value": None}, {"bound": None}, {"value": NAN}, {"bound": INF}, {"baseline": NAN}]
)
def test_a_rule_cannot_pass_on_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rule r"):
        Rule(**({"name": "r", "value": 1.0, "bound": 1.0, "baseline": None, "passed": True} | changes))


def test_a_verdict_without_rules_has_not_passed_and_none_goes_without_a_digest() -> None:
    assert not Verdict(bundle_digest="b", created_at="t", champion_digest=None, rules=()).passed
    with pytest.raises(BadInput, match="needs the digest"):
        judge("", figures(), created_at="t", tree=None, parity=None, baselines=[])
    with pytest.raises(BadInput, match="needs the digest"):
        verdict(champion_digest="")


ANY = st.one_of(st.floats(-1e300, 1e300), st.sampled_from(NO_NUMBERS), st.integers(-2, 2**34))


@settings(deadline=None, max_examples=150)
@given(
    places=st.sets(st.integers(0, 7), max_size=4),
    values=st.lists(ANY, min_size=8, max_size=8),
    share=st.sampled_from([0.05, 0.45, 0.5, 0.6]),
)
def test_a_verdict_with_a_failed_rule_never_passes(places: set[int], values: list[Any], share: float) -> None:
    a = arguments()
    latency, size = (values[i] if i in places else good for i, good in ((0, 20.0), (1, 10**7)))
    a["candidate"] = figures(share, latency_ms=latency, bundle_bytes=size)
    latency, size = (values[i] if i in places else good for i, good in ((2, 20.0), (3, 10**7)))
    a["champion"] = figures(latency_ms=latency, bundle_bytes=size)
    for place, key in ((4, "max_abs_score_error"), (5, "topk_equal_share"), (6, "histories")):
        if place in places:
            a["parity"][key] = values[place]
    if 7 in places:
        a["tree"]["violations"]["leaves"] = values[7]
    found = verdict(**a)
    assert found.passed == all(rule.passed for rule in found.rules) == (not found.failed)
    for rule in found.rules:
        if rule.passed:
            assert rule.value is not None
            assert rule.bound is not None
            assert math.isfinite(rule.value)
            assert math.isfinite(rule.bound)
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Verdict.from_json(stored) == found
    if found.failed:
        with pytest.raises(Corrupt):
            Verdict.from_json(stored | {"passed": True})


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_verdict_survives_json_and_does_not_survive_tampering(share: float) -> None:
    found = verdict(candidate=figures(share))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Verdict.from_json(document) == found
    for claim in (not document["passed"], None, "true", int(document["passed"])):
        with pytest.raises(Corrupt, match="run the gate again"):
            Verdict.from_json(document | {"passed": claim})
    for rule in range(len(found.rules)):
        changed = copy.deepcopy(document)
        changed["rules"][rule]["passed"] = not changed["rules"][rule]["passed"]
        if share == 0.5:  # one rule fails, the document still says passed
            with pytest.raises(Corrupt):
                Verdict.from_json(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"rules": []},
        {"rules": None},
        {"rules": [{}]},
        {"bundle_digest": 3},
        {"champion_digest": 3},
        {"created_at": None},
    ],
)
def test_a_document_of_another_shape_is_corrupt(change: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        Verdict.from_json(verdict().to_json() | change)
    for key in change:
        with pytest.raises(Corrupt):
            Verdict.from_json({k: v for k, v in verdict().to_json().items() if k != key})
    for document in (None, [], "passed", {}):
        with pytest.raises(Corrupt):
            Verdict.from_json(document)


@pytest.mark.parametrize("figure", ["value", "bound"])
@pytest.mark.parametrize("value", [NAN, INF, None, True, "0.5", 10**400])
def test_a_stored_figure_that_is_no_number_is_corrupt(figure: str, value: Any) -> None:
    document = verdict().to_json()
    document["rules"][0][figure] = value
    with pytest.raises(Corrupt):
        Verdict.from_json(document)
