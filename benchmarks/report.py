"""What `quality.json` holds: rows, and paired differences with intervals, of all users and of slices of them.

- A row is one retriever, seed and split, with the bootstrap interval of its own NDCG@10 over users.
- A comparison pairs two retrievers user by user, each user's metric averaged over the seeds both have, so that the interval is
  over users (2,000 resamples) and not over seeds; the spread over seeds stands beside the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation import KS, Evaluation, bootstrap_ci, paired_bootstrap

__all__ = ["METRICS", "Result", "comparisons", "gains", "row"]

CELL = ("tree", "lifelong", "esu", "negatives", "multi_modal_score", "transitions", "refit")
"""What the grid says of a row; "-" for baselines."""
METRICS = ["recall@5", *(f"recall@{k}" for k in KS), "ndcg@5", "ndcg@10"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluated retriever."""

    dataset: str
    retriever: str
    seed: int | None
    """None for what has nothing random."""
    evaluation: Evaluation
    train_seconds: float
    cell: dict[str, Any] = field(default_factory=dict)
    """The grid's values; empty for baselines."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the run lays over the default training options, such as a smaller budget; empty for baselines too."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Recall by level, slices, the gap to scoring every item: what was measured besides."""


def row(result: Result) -> dict[str, Any]:
    """The row of `quality.json`: JSON values only."""
    own = result.evaluation.row()
    interval = bootstrap_ci(result.evaluation.gains())
    cell = {name: result.cell.get(name, "-") for name in CELL}
    return {
        "dataset": result.dataset,
        "options": result.options,
        "retriever": result.retriever,
        **cell,
        "seed": result.seed,
        "split": result.evaluation.split,
        "users": own["users"],
        **{metric: round(float(_metric(result.evaluation, metric).mean()), 5) for metric in METRICS},
        "ci95": [round(interval["low95"], 5), round(interval["high95"], 5)],
        "coverage@10": round(own["coverage@10"], 4),
        "novelty@10": round(own["novelty@10"], 3),
        "train_seconds": round(result.train_seconds, 1),
        "evaluate_seconds": own["seconds"],
        **result.extra,
    }


def _metric(evaluation: Evaluation, metric: str) -> NDArray[np.float64]:
    """(E,) recall@k or ndcg@k of each user."""
    name, k = metric.split("@")
    return evaluation.hits(int(k)) if name == "recall" else evaluation.gains(int(k))


def _per_user(results: Sequence[Result], metric: str) -> NDArray[np.float64]:
    """(E,) the metric of each user, averaged over seeds."""
    return np.asarray(np.mean([_metric(r.evaluation, metric) for r in results], axis=0))


def _pairs(results: Sequence[Result], of: str) -> Iterator[tuple[str, list[Result], list[Result]]]:
    """(other retriever, our results, its results) on the same users; of both, the seeds both have, or all where it has none."""
    own = [r for r in results if r.retriever == of]
    for other in dict.fromkeys(r.retriever for r in results if r.retriever != of):
        theirs = [r for r in results if r.retriever == other]
        if not own or not np.array_equal(own[0].evaluation.users, theirs[0].evaluation.users):
            continue
        seeds = {r.seed for r in own} & {r.seed for r in theirs}
        yield other, *(([r for r in part if r.seed in seeds] if seeds else part) for part in (own, theirs))


def _difference(ours: Sequence[Result], theirs: Sequence[Result], metric: str, mask: Any = ...) -> dict[str, Any]:
    a, b = (_per_user(part, metric)[mask] for part in (ours, theirs))
    told = {name: round(value, 5) for name, value in paired_bootstrap(a, b).items()}
    return told | {"relative": round(float(a.mean() / b.mean() - 1), 4) if b.mean() > 0 else None}


def _named(result: Result, of: str, against: str) -> dict[str, Any]:
    part = {"dataset": result.dataset, "split": result.evaluation.split, "options": result.options}
    return part | {"of": of, "against": against}


def comparisons(results: Sequence[Result], of: str) -> list[dict[str, Any]]:
    """`of` against every other retriever at every metric; results of one data set, split and budget."""
    return [
        _named(ours[0], of, other) | {"metric": metric} | _difference(ours, theirs, metric)
        for other, ours, theirs in _pairs(results, of)
        for metric in METRICS
    ]


def gains(results: Sequence[Result], of: str, slices: Mapping[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """`of` against every other retriever within each slice of the evaluated users; results of one data set, split and budget.

    slices: name -> (E,) mask. One entry a retriever, slice and metric (Recall@10, NDCG@10), with the users it holds.
    """
    return [
        _named(ours[0], of, other)
        | {"slice": name, "users": int(mask.sum()), "metric": metric}
        | _difference(ours, theirs, metric, mask)
        for other, ours, theirs in _pairs(results, of)
        for name, mask in slices.items()
        if mask.any()
        for metric in ("recall@10", "ndcg@10")
    ]
