"""A user would lose: the truth of the table. Who is compared with whom, over which seeds, and how sure that is."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from benchmarks.report import METRICS, Result, comparisons, gains, row
from benchmarks.tables import markdown
from model.evaluation import Evaluation

META = {
    "command": "python -m benchmarks.ablation",
    "commit": "0123456789abcdef",
    "date": "2026-11-22",
    "machine": "any",
}


def result(
    ranks: list[int] | np.ndarray,
    *,
    retriever: str = "MISS",
    seed: int | None = 0,
    dataset: str = "walks",
    split: str = "test",
    users: np.ndarray | None = None,
    **more: Any,
) -> Result:
    evaluation = Evaluation(
        retriever=retriever,
        split=split,
        users=np.arange(len(ranks)) if users is None else users,
        ranks=np.asarray(ranks, np.int32),
        limit=200,
        coverage=0.5,
        novelty=3.25,
        seconds=1.5,
    )
    return Result(dataset=dataset, retriever=retriever, seed=seed, evaluation=evaluation, train_seconds=12.34, **more)


def some_ranks(seed: int, users: int = 300) -> np.ndarray:
    """A quarter of them within the first ten, some found nowhere."""
    ranks = np.random.default_rng(seed).integers(1, 41, users)
    return np.where(ranks > 35, 0, ranks)


def found(results: list[Result], against: str, metric: str) -> dict[str, Any]:
    (one,) = [c for c in comparisons(results, "MISS") if (c["against"], c["metric"]) == (against, metric)]
    return one


def test_a_row_holds_its_metrics_and_an_interval_around_them() -> None:
    told = row(result([1, 2, 11, 0], cell={"tree": "aligned", "esu": "id"}, extra={"levels_searched": 7}))
    assert told["recall@10"] == 0.5
    assert told["recall@20"] == told["recall@200"] == 0.75
    assert told["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3)) / 4, abs=1e-5)
    assert told["ci95"][0] <= told["ndcg@10"] <= told["ci95"][1]
    assert (told["users"], told["seed"], told["split"], told["dataset"]) == (4, 0, "test", "walks")
    assert (told["tree"], told["esu"], told["lifelong"]) == ("aligned", "id", "-"), (
        "a baseline has no place in the grid"
    )
    assert (told["levels_searched"], told["train_seconds"]) == (7, 12.3)
    assert json.loads(json.dumps(told, allow_nan=False)) == told, "JSON values only"


@pytest.mark.parametrize("seed", range(4))
def test_intervals_hold_their_mean_and_shrink_with_users(seed: int) -> None:
    few, many = (row(result(some_ranks(seed, users))) for users in (50, 5000))
    for told in (few, many):
        assert told["ci95"][0] < told["ndcg@10"] < told["ci95"][1]
    assert many["ci95"][1] - many["ci95"][0] < 0.3 * (few["ci95"][1] - few["ci95"][0])
    results = [result(some_ranks(seed)), result(some_ranks(seed + 50), retriever="kNN", seed=None)]
    for told in comparisons(results, "MISS"):
        assert told["low95"] <= told["mean_difference"] <= told["high95"]


def test_a_comparison_averages_each_user_over_the_seeds_both_have() -> None:
    """Known answer: MISS finds user 0 with both shared seeds, user 1 with one; its third seed, which finds nobody, is no part."""
    ours = [result([1, 0, 0, 1], seed=0), result([1, 1, 0, 1], seed=1), result([0, 0, 0, 0], seed=2)]
    theirs = [result([1, 0, 0, 0], retriever="TDM", seed=s) for s in (0, 1)] + [
        result([1, 1, 1, 1], retriever="TDM", seed=7)
    ]
    told = found([*ours, *theirs], "TDM", "recall@10")
    assert told["mean_difference"] == pytest.approx((0 + 0.5 + 0 + 1) / 4)
    assert told["relative"] == pytest.approx(0.625 / 0.25 - 1)
    assert (told["of"], told["against"], told["dataset"], told["split"]) == ("MISS", "TDM", "walks", "test")


def test_what_has_no_seed_is_compared_with_the_mean_over_all_of_them() -> None:
    ours = [result([1, 0], seed=0), result([1, 1], seed=1)]
    told = found([*ours, result([0, 1], retriever="popularity", seed=None)], "popularity", "recall@10")
    assert told["mean_difference"] == pytest.approx((1 - 0.5) / 2)


def test_a_seed_more_does_not_narrow_the_interval_of_the_same_users() -> None:
    """Seeds are no users: ten copies of one run say no more than one."""
    ranks, others = some_ranks(1), some_ranks(2)
    once = [result(ranks), result(others, retriever="kNN")]
    often = [result(r, retriever=n, seed=s) for s in range(10) for n, r in (("MISS", ranks), ("kNN", others))]
    assert found(once, "kNN", "ndcg@10") == found(often, "kNN", "ndcg@10")


def test_a_clear_gain_is_clear_and_equals_are_not_told_apart() -> None:
    ranks = some_ranks(3)
    better = np.where(ranks == 0, 3, ranks)
    told = found([result(better), result(ranks, retriever="kNN")], "kNN", "ndcg@10")
    assert told["low95"] > 0
    told = found([result(ranks), result(ranks, retriever="kNN")], "kNN", "ndcg@10")
    assert (told["mean_difference"], told["low95"], told["high95"], told["relative"]) == (0, 0, 0, 0)
    told = found([result(ranks), result(np.zeros(300, int), retriever="kNN")], "kNN", "ndcg@10")
    assert told["relative"] is None, "nothing found is no base of a ratio"


def test_every_metric_against_every_other_on_the_same_users() -> None:
    results = [
        result([1, 0]),
        result([0, 1], retriever="kNN"),
        result([0, 2], retriever="EASE", seed=None),
        result([1, 1], retriever="other users", users=np.array([5, 6])),
    ]
    told = comparisons(results, "MISS")
    pairs = {(c["dataset"], c["split"], c["against"]) for c in told}
    assert pairs == {("walks", "test", "kNN"), ("walks", "test", "EASE")}
    assert len(told) == len(pairs) * len(METRICS)
    assert {c["metric"] for c in told} == set(METRICS)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert comparisons(results[1:], "MISS") == []


def report(results: list[Result]) -> dict[str, Any]:
    """As several runs of the command leave it: parts are compared within themselves."""
    parts: dict[str, list[Result]] = {}
    for each in results:
        parts.setdefault(json.dumps([each.dataset, each.evaluation.split, each.options]), []).append(each)
    found = [c for part in parts.values() for c in comparisons(part, "MISS")]
    return {"meta": META, "rows": [row(r) for r in results], "comparisons": found}


def line_of(text: str, name: str) -> list[str]:
    (line,) = [each for each in text.splitlines() if each.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_markdown_has_every_retriever_once_with_its_means_and_what_ours_gains() -> None:
    ours = [result([1, 0, 0, 1], seed=0), result([1, 1, 0, 1], seed=1)]
    others = [result([1, 0, 0, 0], retriever="EASE", seed=None), result([0, 0, 0, 0], retriever="kNN", seed=None)]
    text = markdown(report([*ours, *others]))
    assert "## walks, test item" in text
    assert "4 users" in text
    assert "0123456789ab, 2026-11-22" in text
    name, r10, *_, ndcg, seeds, against, seconds = line_of(text, "MISS")
    assert (name, r10, seeds, against, seconds) == ("MISS", "0.6250", "2", "-", "12")
    assert ndcg == f"0.6250 ± {math.sqrt(2) / 8:.4f}", "the mean over seeds, and their spread"
    ease = line_of(text, "EASE")
    assert ease[1] == "0.2500"
    assert ease[-3:-1] == ["1", ease[-2]]
    assert ease[-2].startswith("+0.3750 (+")
    assert line_of(text, "kNN")[-2].startswith("+0.6250 (+")
    widths = {each.count("|") for each in text.splitlines() if each.startswith("|")}
    assert len(widths) == 1, "a table's lines have as many cells as its head"


def test_each_data_set_has_its_own_table_and_its_own_differences() -> None:
    results = [
        result([1, 1]),
        result([0, 1], retriever="kNN"),
        result([0, 0], dataset="shop"),
        result([1, 0], dataset="shop", retriever="kNN"),
    ]
    walks, shop = markdown(report(results)).split("## ")[1:]
    assert line_of(walks, "kNN")[-2].startswith("+0.5000")
    assert line_of(shop, "kNN")[-2].startswith("-0.5000")


def test_a_smaller_budget_is_a_table_of_its_own() -> None:
    small = {"dense": {"epochs": 8}}
    results = [
        result([1, 1]),
        result([1, 0], options=small),
        result([0, 0], retriever="kNN", options=small),
    ]
    whole, less = markdown(report(results)).split("## ")[1:]
    assert "the default options" in whole
    assert "kNN" not in whole
    assert '`{"dense": {"epochs": 8}}`' in less
    assert line_of(less, "MISS")[1] == "0.5000"
    assert line_of(less, "kNN")[-2].startswith("+0.5000")


def with_slices(retriever: str, seed: int | None, short: float, long: float) -> Result:
    extra = {"slices": {"history_length": {"1-49": {"ndcg@10": short}, "50-99": {"ndcg@10": long}}}}
    return result([1], retriever=retriever, seed=seed, extra=extra)


def slice_lines(results: list[Result]) -> list[str]:
    text = markdown(report(results))
    part = text[text.index("| NDCG@10 by history length | 1-49 | 50-99 |") :]
    return [line for line in part.splitlines() if line.startswith("| ")][1:]


def test_slices_are_the_first_seeds_of_each_retriever() -> None:
    results = [
        with_slices("MISS", 0, 0.1, 0.2),
        with_slices("TDM", 0, 0.5, 0.6),
        with_slices("MISS", 1, 0.8, 0.9),
        with_slices("TDM", 1, 0.8, 0.9),
        result([0], retriever="kNN", seed=None),  # without slices
    ]
    assert slice_lines(results) == ["| MISS | 0.1000 | 0.2000 |", "| TDM | 0.5000 | 0.6000 |"]
    assert "target's popularity" not in markdown(report(results))


def test_slices_stand_in_the_order_of_the_table() -> None:
    results = [
        with_slices("MISS", 0, 0.1, 0.2),
        with_slices("TDM", 0, 0.5, 0.6),
        with_slices("MISS", 1, 0.8, 0.9),
    ]
    assert slice_lines(results) == ["| MISS | 0.1000 | 0.2000 |", "| TDM | 0.5000 | 0.6000 |"]


def test_gains_within_a_slice_are_of_its_users_alone() -> None:
    """Known answer: ours finds both long users, theirs one; the short ones tell nothing apart."""
    ours = [result([0, 1, 1, 1], seed=s) for s in (0, 1)]
    theirs = [result([0, 1, 1, 0], retriever="TDM", seed=s) for s in (0, 1)]
    short = np.array([True, True, False, False])
    told = gains([*ours, *theirs], "MISS", {"short": short, "long": ~short, "nobody": short & ~short})
    of = {(each["slice"], each["metric"]): each for each in told}
    assert set(of) == {(name, metric) for name in ("short", "long") for metric in ("recall@10", "ndcg@10")}
    assert of["long", "recall@10"]["mean_difference"] == 0.5
    assert of["long", "recall@10"]["relative"] == 1
    assert of["short", "recall@10"]["mean_difference"] == 0
    assert all(each["users"] == 2 and each["against"] == "TDM" for each in told)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
