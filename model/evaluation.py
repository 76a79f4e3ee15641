"""How good a retriever is: full ranking, one held-out target a user, and how sure of a difference one can be (DESIGN 5).

- A user's rank of the target is all that is kept (int32, 1 = first, 0 = not among the items returned); every metric, slice and
  interval follows from it. One target a user: Recall@k is the share of ranks up to k, NDCG@k the mean of 1 / log2(rank + 1).
- Only `max(ks)` items are asked for, fewer where the catalogue or the search's beam is smaller: Recall@200 of a beam of 100 is
  what those 100 hold.
- Intervals are percentile bootstraps over users. Resampling E users with replacement is a multinomial draw over the distinct
  values of the per-user metric, so 2,000 resamples of a million users cost what 2,000 resamples of some 200 values cost.
- Beyond accuracy: coverage, the share of the catalogue that stands in anyone's first ten; novelty, the mean self-information
  in bits of what stands there (Zhou et al. 2010), with add-one smoothing so that an unseen item is finite.
- Not covered: several targets a user, and graded relevance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput
from model.files import read_npz, write_npz
from model.histories import EvaluationSet
from model.retriever import Retriever

__all__ = [
    "BATCH",
    "KS",
    "Evaluation",
    "Ranked",
    "bootstrap_ci",
    "check_evaluable",
    "evaluate",
    "evaluation_of",
    "evaluation_report",
    "format_table",
    "length_slices",
    "level_hits",
    "level_recall",
    "list_length",
    "paired_bootstrap",
    "popularity_slices",
    "rank",
    "slice_rows",
]

KS = (10, 20, 50, 100, 200)
"""Where recall is read."""
FRONT = 10
"""Length of the list that NDCG, coverage and novelty look at."""
LENGTH_EDGES = (1, 50, 100, 200, 500)
"""Shortest history of each length slice."""
BATCH = 1024
"""Users asked for at a time."""
HEAD_MASS = 0.2
"""Head items together hold the first fifth of all behaviors, tail items the last; mid items the rest."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One retriever on one evaluation set of E users."""

    retriever: str
    """Its name."""
    split: str
    """"validation" or "test"."""
    users: NDArray[np.int64]
    """(E,) index of each user in the full histories: what pairs two evaluations."""
    ranks: NDArray[np.int32]
    """(E,) rank of the target, 1 for the first item, 0 where it is not among the `limit` returned."""
    limit: int
    """Items asked for per user."""
    coverage: float
    """Share of the catalogue that stands in some user's first ten."""
    novelty: float
    """Mean self-information of the first ten, bits."""
    seconds: float
    """Wall time inside the retriever."""
    ks: tuple[int, ...] = KS
    """Where `row` reads recall."""

    def __len__(self) -> int:
        return len(self.users)

    def hits(self, k: int) -> Floats:
        """(E,) 1 where the target is among the first k, else 0: the per-user Recall@k."""
        return ((self.ranks > 0) & (self.ranks <= k)).astype(np.float64)

    def gains(self, k: int = FRONT) -> Floats:
        """(E,) per-user NDCG@k: 1 / log2(rank + 1) where the target is among the first k, else 0."""
        return self.hits(k) / np.log2(np.maximum(self.ranks, 1) + 1.0)

    def recall(self, k: int) -> float:
        """Recall@k."""
        return float(self.hits(k).mean())

    def ndcg(self, k: int = FRONT) -> float:
        """NDCG@k."""
        return float(self.gains(k).mean())

    def row(self) -> dict[str, Any]:
        """The row of `evaluation.json`: JSON values only."""
        recalls = {f"recall@{k}": self.recall(k) for k in self.ks}
        return {
            "retriever": self.retriever,
            "users": len(self),
            **recalls,
            f"ndcg@{FRONT}": self.ndcg(),
            f"coverage@{FRONT}": self.coverage,
            f"novelty@{FRONT}": self.novelty,
            "seconds": round(self.seconds, 3),
        }

    def save(self, path: Path) -> None:
        """Write the per-user results and what `row` needs to one .npz."""
        arrays: dict[str, np.ndarray] = {"users": self.users, "ranks": self.ranks, "ks": np.array(self.ks, np.int64)}
        for name in _SCALARS:
            arrays[name] = np.array(getattr(self, name))
        write_npz(path, arrays)

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote; `Corrupt` where it is torn."""
        a = read_npz(path)
        scalars = {name: kind(a[name][()]) for name, kind in _SCALARS.items()}
        return cls(users=a["users"], ranks=a["ranks"], ks=tuple(int(k) for k in a["ks"]), **scalars)


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "retriever": str,
    "split": str,
    "limit": int,
    "coverage": float,
    "novelty": float,
    "seconds": float,
}


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a retriever answered to some users: ranks of their targets, and what it showed. Parts of a set add up."""

    ranks: NDArray[np.int32]
    """(E,) place of each target, 1 the first, 0 where it is not among the items returned."""
    shown: NDArray[np.int64]
    """(N,) how often each item stood in somebody's first ten."""
    seconds: float
    """Spent in the retriever."""

    @staticmethod
    def joined(parts: Sequence[Ranked]) -> Ranked:
        """Those of the whole set, from those of its parts in order."""
        return Ranked(
            ranks=np.concatenate([part.ranks for part in parts]),
            shown=np.sum([part.shown for part in parts], axis=0),
            seconds=sum(part.seconds for part in parts),
        )


def list_length(n_items: int, beam: int, ks: Sequence[int] = KS) -> int:
    """How many items an evaluation asks for: as many as the largest k wants and the search finds."""
    return min(max(*ks, FRONT), n_items, beam)


def rank(
    retriever: Retriever, evaluation_set: EvaluationSet, *, limit: int, batch: int = BATCH, progress: bool = False
) -> Ranked:
    """Ask for `limit` items for every user of the set, their seen items excluded, and find the target."""
    n_users, n_items = len(evaluation_set), retriever.n_items
    ranks = np.zeros(n_users, dtype=np.int32)
    shown = np.zeros(n_items, dtype=np.int64)
    seconds = 0.0
    for begin in _bar(range(0, n_users, batch), retriever.name, progress):
        rows = range(begin, min(begin + batch, n_users))
        histories = [evaluation_set.seen[row] for row in rows]
        started = time.perf_counter()
        items, _ = retriever.recommend(histories, limit)
        seconds += time.perf_counter() - started
        found = items == evaluation_set.targets[begin : begin + batch, None]
        ranks[begin : begin + batch] = np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0)
        front = items[:, :FRONT]
        shown += np.bincount(front[front >= 0], minlength=n_items)
    return Ranked(ranks=ranks, shown=shown, seconds=seconds)


def evaluation_of(
    name: str,
    evaluation_set: EvaluationSet,
    ranked: Ranked,
    *,
    limit: int,
    ks: Sequence[int] = KS,
    counts: NDArray[np.int64] | None = None,
) -> Evaluation:
    """What `ranked`, of all users of the set, says of the retriever `name`; counts as for `evaluate`."""
    popularity = (evaluation_set.seen.counts() if counts is None else counts) + 1.0
    bits = -np.log2(popularity / popularity.sum())
    return Evaluation(
        retriever=name,
        split=evaluation_set.split,
        users=evaluation_set.users,
        ranks=ranked.ranks,
        limit=limit,
        coverage=float((ranked.shown > 0).mean()),
        novelty=float((bits * ranked.shown).sum() / max(int(ranked.shown.sum()), 1)),
        seconds=ranked.seconds,
        ks=tuple(int(k) for k in ks),
    )


def evaluate(
    retriever: Retriever,
    evaluation_set: EvaluationSet,
    *,
    ks: Sequence[int] = KS,
    batch: int = BATCH,
    counts: NDArray[np.int64] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Rank the catalogue for every user of the set, their seen items excluded, and find the target.

    counts: (N,) training behaviors of each item, for novelty; those of the set's own histories where None.
    progress: show a bar. Raises BadInput for an empty set, a set over another catalogue, or a k below 1.
    """
    check_evaluable(evaluation_set, retriever.n_items, retriever.name)
    if not ks or min(ks) < 1 or batch < 1:
        raise BadInput(f"ks = {tuple(ks)} with batch = {batch} is out of range: give numbers of at least 1")
    limit = list_length(retriever.n_items, int(getattr(retriever, "beam", retriever.n_items)), ks)
    ranked = rank(retriever, evaluation_set, limit=limit, batch=batch, progress=progress)
    return evaluation_of(retriever.name, evaluation_set, ranked, limit=limit, ks=ks, counts=counts)


def check_evaluable(evaluation_set: EvaluationSet, n_items: int, name: str) -> None:
    """Raise BadInput for an empty set, or one over another catalogue than the retriever `name` with its n_items."""
    if not len(evaluation_set):
        raise BadInput(
            "there is nobody to evaluate: a user needs at least three behaviors, the last of them a new item"
        )
    if evaluation_set.seen.n_items != n_items:
        raise BadInput(
            f"{name} knows {n_items} items, the evaluation set {evaluation_set.seen.n_items}; materialize it again"
        )


def _bar(steps: range, name: str, progress: bool) -> Any:
    if not progress:
        return steps
    from tqdm import tqdm

    return tqdm(steps, desc=f"evaluate {name}", unit="batch", leave=False, mininterval=1.0)


def length_slices(evaluation_set: EvaluationSet) -> dict[str, Bools]:
    """Name -> (E,) mask, by behaviors before the target; slices nobody falls into are left out."""
    lengths = evaluation_set.seen.lengths
    highs = (*LENGTH_EDGES[1:], None)
    masks = {"0": lengths == 0}
    for low, high in zip(LENGTH_EDGES, highs, strict=True):
        name = f"{low}+" if high is None else f"{low}-{high - 1}"
        masks[name] = lengths >= low if high is None else (lengths >= low) & (lengths < high)
    return {name: mask for name, mask in masks.items() if mask.any()}


def popularity_slices(targets: NDArray[np.integer], counts: NDArray[np.int64]) -> dict[str, Bools]:
    """Name -> (E,) mask, by the target's popularity in training; slices nobody falls into are left out.

    counts: (N,) training behaviors. Items ordered from the most popular: head items start within the first fifth of all
    behaviors, tail items within the last, mid items between; cold items have none.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.empty(len(counts), dtype=np.float64)
    before[order] = np.cumsum(counts[order]) - counts[order]
    share = before / max(int(counts.sum()), 1)  # of the behaviors, on items more popular than this one
    cold = counts == 0
    head, tail = ~cold & (share < HEAD_MASS), ~cold & (share >= 1 - HEAD_MASS)
    masks = {"head": head, "mid": ~(cold | head | tail), "tail": tail, "cold": cold}
    return {name: mask[targets] for name, mask in masks.items() if mask[targets].any()}


def slice_rows(evaluation: Evaluation, slices: Mapping[str, Bools]) -> list[dict[str, Any]]:
    """One row per slice: {"retriever", "slice", "users", "recall@k"..., "ndcg@10"}. No row for an empty slice."""
    metrics = {f"recall@{k}": evaluation.hits(k) for k in evaluation.ks} | {f"ndcg@{FRONT}": evaluation.gains()}
    return [
        {"retriever": evaluation.retriever, "slice": name, "users": int(mask.sum())}
        | {metric: float(values[mask].mean()) for metric, values in metrics.items()}
        for name, mask in slices.items()
        if mask.any()
    ]


def level_hits(beams: Mapping[int, NDArray[np.integer]], ancestors: NDArray[np.integer]) -> dict[int, Bools]:
    """Level -> (E,) whether the target's ancestor is among the nodes kept there.

    beams: level -> (E, w) node ids, -1 for none. ancestors: (E, H + 1) node on each level on the target's path, that is
    `tree.paths()[targets]`. Batches are joined by concatenating what this returns, level by level.
    """
    return {level: (kept == ancestors[:, level, None]).any(axis=1) for level, kept in sorted(beams.items())}


def level_recall(beams: Mapping[int, NDArray[np.integer]], ancestors: NDArray[np.integer]) -> dict[int, float]:
    """Level -> share of targets whose ancestor the beam kept there; arguments as in `level_hits`. Raises BadInput for no target."""
    if not len(ancestors):
        raise BadInput("there are no targets: level-wise recall needs at least one evaluated user")
    return {level: float(hits.mean()) for level, hits in level_hits(beams, ancestors).items()}


def _resampled_means(values: Floats, resamples: int, seed: int) -> Floats:
    """(resamples,) means of bootstrap samples of `values`."""
    if not len(values) or not np.isfinite(values).all():
        raise BadInput(f"a bootstrap needs finite values of at least one user, and got {len(values)} values")
    if resamples < 1:
        raise BadInput(f"resamples = {resamples} must be at least 1")
    distinct, times = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), times / len(values), size=resamples)
    return np.asarray(draws @ distinct / len(values), dtype=np.float64)


def paired_bootstrap(
    a: NDArray[np.floating], b: NDArray[np.floating], *, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """How much better a is than b on the same users: {"mean_difference", "low95", "high95"}, percentile bootstrap.

    a, b: (E,) a metric of each user, in the same order. Raises BadInput for unequal lengths, no user, or values not finite.
    """
    if len(a) != len(b):
        raise BadInput(f"a paired comparison needs the same users, and got {len(a)} against {len(b)}")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = np.percentile(_resampled_means(difference, resamples, seed), [2.5, 97.5])
    return {"mean_difference": float(difference.mean()), "low95": float(low), "high95": float(high)}


def bootstrap_ci(per_user: NDArray[np.floating], *, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """Mean of a per-user metric with its 95 % percentile bootstrap: {"mean", "low95", "high95"}. Raises as `paired_bootstrap`."""
    values = np.asarray(per_user, np.float64)
    low, high = np.percentile(_resampled_means(values, resamples, seed), [2.5, 97.5])
    return {"mean": float(values.mean()), "low95": float(low), "high95": float(high)}


def evaluation_report(dataset: str, evaluations: Sequence[Evaluation], *, simulated: bool) -> dict[str, Any]:
    """`evaluation.json`: {"dataset", "simulated", "split", "rows"}. Raises BadInput where splits or users differ."""
    if not evaluations:
        raise BadInput("a report needs at least one evaluation")
    first = evaluations[0]
    for other in evaluations[1:]:
        if other.split != first.split or not np.array_equal(other.users, first.users):
            raise BadInput(
                f"{other.retriever} was evaluated on other users than {first.retriever}; evaluate both again"
            )
    return {
        "dataset": dataset,
        "simulated": simulated,
        "split": first.split,
        "rows": [evaluation.row() for evaluation in evaluations],
    }


def format_table(report: Mapping[str, Any]) -> str:
    """`evaluation.json` as an aligned Markdown table under a title that says where histories are simulated."""
    rows = report["rows"]
    metrics = [key for key in (rows[0] if rows else {}) if key not in ("retriever", "users", "seconds")]
    header = ["retriever", *metrics, "seconds"]
    cells = [
        [row["retriever"], *(_cell(m, row.get(m)) for m in metrics), _cell("seconds", row["seconds"])] for row in rows
    ]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]

    def line(values: Sequence[str]) -> str:
        aligned = [values[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(values[1:], widths[1:], strict=True))]
        return "| " + " | ".join(aligned) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    users = f", {rows[0]['users']:,} users" if rows else ""
    note = " (simulated histories)" if report["simulated"] else ""
    title = f"{report['dataset']}{note}: {report['split']} item{users}, full ranking, seen items excluded"
    return "\n".join([title, "", line(header), rule, *map(line, cells)])


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    if metric == "seconds":
        return f"{value:.1f}"
    return f"{value:.2f}" if metric.startswith("novelty") else f"{value:.4f}"
