"""Drift of the champion's own answers on a day: what it misses, and how much of the catalogue it still shows.

- The question is the evaluation's: the last item of each user of the day, everything before is the history. A target that the
  champion has been trained on is not asked.
- It is held against the champion's evaluation on the same mix of questions. An item that begins a user's day is harder than one
  that goes on with it (item-kNN on MovieLens-1M, June 2000: recall@50 .26 and .49), evaluation users mostly stop in the midst
  of a day, and a day's users mostly begin one. With item-kNN as champion, 153 days from June to October 2000 lose 23 % on average
  against the plain evaluation, and 59 % of them would act; against the same mix they lose 8 %, which is time, and 6 % act.
  Where half of the users get somebody else's answers 90 % of the days act, where all get the most popular items every day
  (2026-11-23; `pytest tests/model/test_drift_movielens.py -s` has July of it, the worst month with 5 of 31).
- Coverage depends on the number of users: it is held against as many of the champion's own users, drawn again and again.
- Loss is relative, and beyond chance as `model.drift` has it; what the evaluation itself does not know for sure is part of that.

Not covered: how the mix of old and new users moves coverage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.drift import DRAWS, QUANTILE, SEED, Figure, Sessions
from model.errors import BadInput
from model.retriever import Retriever

__all__ = ["Questions", "answers", "coverage_figure", "hits_by_kind", "questions", "recall_figure"]

Items = Sequence[NDArray[np.int64]]
LEAST_HISTORY = 2
"""Behaviors before a target, as `model.histories.leave_one_out` has it."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What E users of a day are asked with."""

    seen: Items
    """E histories in the champion's order, oldest first, items it does not know left out."""
    targets: NDArray[np.int64]
    """(E,) item to be found, -1 for one that the champion does not know and cannot find."""
    begins: NDArray[np.bool_]
    """(E,) whether the target is its user's first of the day."""

    def __len__(self) -> int:
        return len(self.targets)


def questions(
    day: Sessions, offsets: NDArray[np.int64], items: NDArray[np.int64], *, known: NDArray[np.int64]
) -> Questions:
    """The last item of each session, where its user had not seen it and the champion was not trained on it.

    day: the day's sessions. offsets (U + 1,), items (B,): all histories, in the champion's order, -1 for unknown items.
    known: (U,) behaviors of each user that the champion was trained on.
    """
    seen, targets, begins = [], [], []
    lengths = np.diff(day.offsets)
    for user, before, length in zip(day.users.tolist(), day.before.tolist(), lengths.tolist(), strict=True):
        place = before + length - 1
        history, target = (
            items[offsets[user] : offsets[user] + place],
            int(items[offsets[user] + place]),
        )
        if place < max(LEAST_HISTORY, int(known[user])) or (target >= 0 and target in history):
            continue
        seen.append(history[history >= 0])
        targets.append(target)
        begins.append(length == 1)
    return Questions(seen=seen, targets=np.array(targets, np.int64), begins=np.array(begins, bool))


def answers(retriever: Retriever, histories: Items, k: int) -> NDArray[np.int64]:
    """(E, k) items the retriever returns for E histories, -1 where there is none."""
    if not len(histories):
        return np.zeros((0, k), np.int64)
    return retriever.recommend(histories, k)[0]


def hits_by_kind(hits: NDArray[np.floating], begins: NDArray[np.bool_]) -> dict[bool, tuple[float, int]]:
    """Whether a target begins its user's day -> (recall, users), of an evaluation; kinds nobody is of are left out."""
    return {
        kind: (float(hits[begins == kind].mean()), int((begins == kind).sum()))
        for kind in (False, True)
        if (begins == kind).any()
    }


def recall_figure(
    found: NDArray[np.int64], asked: Questions, reference: Mapping[bool, tuple[float, int]], *, k: int
) -> Figure:
    """The loss of recall on a day, relative to what the champion's evaluation has for the same mix of questions.

    found: (E, k) answers. reference: as `hits_by_kind`; where a kind is missing the other one stands for it. Raises BadInput for
    no question, or an evaluation that found nothing.
    """
    users = len(asked)
    if not users or not reference or not any(recall > 0 for recall, _ in reference.values()):
        raise BadInput(f"{users} questions against an evaluation of {dict(reference)} tell no loss: both must be there")
    hits = (found == asked.targets[:, None]).any(axis=1) & (asked.targets >= 0)
    rng, expected = np.random.default_rng(SEED), 0.0
    day, evaluation = np.zeros(DRAWS), np.zeros(DRAWS)
    for kind in (False, True):
        n = int((asked.begins == kind).sum())
        recall, size = reference.get(kind) or reference[not kind]
        expected += n * recall
        day += rng.binomial(n, recall, DRAWS)
        evaluation += n * rng.binomial(size, recall, DRAWS) / size
    if expected <= 0:
        raise BadInput("the champion's evaluation found nothing on such questions, so there is nothing to lose")
    losses = 1 - day / np.maximum(evaluation, expected / users)
    return Figure(
        name="live_recall_loss",
        value=1 - float(hits.sum()) / expected,
        reference=0.0,
        noise=float(np.quantile(losses, QUANTILE)),
        users=users,
        note=f"recall@{k} {hits.mean():.3f}; by the champion's evaluation, on such questions, {expected / users:.3f}",
    )


def coverage_figure(
    found: NDArray[np.int64], pool: NDArray[np.int64], *, n_items: int, k: int, share: float = 0.5
) -> Figure:
    """The loss of coverage on a day, relative to as many of the champion's own users.

    found: (E, k) answers of the day, pool: (P, k) answers for users of the champion's training. At most `share` of the pool is
    one draw, and as many of the day's users are looked at, so that draws differ. Raises BadInput where nobody is left.
    """
    users = min(len(found), int(share * len(pool)))
    if users < 1:
        raise BadInput(
            f"coverage of {len(found)} users against {len(pool)} cannot be told: give at least one against two"
        )
    rng = np.random.default_rng(SEED)
    day = _coverage(found[rng.permutation(len(found))[:users]], n_items)
    draws = np.array([_coverage(pool[rng.permutation(len(pool))[:users]], n_items) for _ in range(DRAWS)])
    usual = max(float(draws.mean()), 1 / n_items)
    return Figure(
        name="live_coverage_loss",
        value=1 - day / usual,
        reference=0.0,
        noise=float(np.quantile(1 - draws / usual, QUANTILE)),
        users=users,
        note=f"share of the catalogue in {users} users' first {k}: {day:.3f}; of as many users of its training {usual:.3f}",
    )


def _coverage(found: NDArray[np.int64], n_items: int) -> float:
    return len(np.unique(found[found >= 0])) / n_items
