"""Users' histories as flat arrays, and the splits of DESIGN 5: leave-one-out, and before and after a day.

- One user is one slice `items[offsets[u]:offsets[u + 1]]`, oldest first: no list of lists, so that a million users are two arrays.
- Items are indices 0..N-1 into the catalogue's order; ids from outside live only at the edges.
- Leave-one-out goes by position: the last item tests, the one before validates, the rest trains. A user needs three
  behaviors to be evaluated; a shorter history trains only. A target that its user had seen before is not evaluated,
  since seen items are excluded from the answer.
- The temporal split asks for the same last item of a user, but only of those who came in the newest days, and trains on nothing
  of those days, whoever's it is. So a model that left one out has not trained on its targets either, and the two can be
  compared; what it knows of other users' newest days is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput
from model.files import read_npz, write_npz

__all__ = [
    "SPLITS",
    "EvaluationSet",
    "Histories",
    "TemporalConfig",
    "leave_one_out",
    "left_padded",
    "length_batches",
    "split",
    "temporal_split",
    "with_targets",
]


SPLITS = ("leave-one-out", "temporal")
"""The splits that there are."""


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Histories of U users over N items, B behaviors in all."""

    offsets: NDArray[np.int64]
    """(U + 1,) start of each user's slice; offsets[0] = 0, offsets[U] = B."""
    items: NDArray[np.int32]
    """(B,) item index, oldest first within a user."""
    n_items: int
    """N, the size of the catalogue; every entry of `items` is below it."""

    def __post_init__(self) -> None:
        if (
            self.offsets.ndim != 1
            or len(self.offsets) < 1
            or self.offsets[0] != 0
            or self.offsets[-1] != len(self.items)
        ):
            raise BadInput(f"offsets must run from 0 to the {len(self.items)} behaviors")
        if len(self.items) and (self.items.min() < 0 or self.items.max() >= self.n_items):
            raise BadInput(f"histories name item {int(self.items.max())}, the catalogue has {self.n_items} items")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> NDArray[np.int32]:
        """History of one user, oldest first, a view."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) behaviors of each user."""
        return np.diff(self.offsets)

    def counts(self) -> NDArray[np.int64]:
        """(N,) behaviors of each item."""
        return np.bincount(self.items, minlength=self.n_items).astype(np.int64)

    def save(self, path: Path) -> None:
        """Write to one .npz."""
        write_npz(path, {"offsets": self.offsets, "items": self.items, "n_items": np.array(self.n_items)})

    @classmethod
    def load(cls, path: Path) -> Histories:
        """Read what `save` wrote."""
        arrays = read_npz(path)
        return cls(offsets=arrays["offsets"], items=arrays["items"], n_items=int(arrays["n_items"]))

    def drop_last(self, counts: NDArray[np.int64]) -> Histories:
        """Histories without the newest `counts[u]` behaviors of each user u."""
        keep = np.maximum(self.lengths - counts, 0)
        offsets = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
        positions = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths)
        return Histories(
            offsets=offsets, items=self.items[positions < np.repeat(keep, self.lengths)], n_items=self.n_items
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Users with one held-out target each: what the retriever may see, and what it should find."""

    split: str
    """"validation" or "test"."""
    users: NDArray[np.int64]
    """(E,) index of each evaluated user in the full histories."""
    seen: Histories
    """E histories: everything before the target; also the items excluded from the answer."""
    targets: NDArray[np.int32]
    """(E,) item index to be found."""

    def __len__(self) -> int:
        return len(self.users)

    def first(self, users: int) -> EvaluationSet:
        """The first `users` evaluated users."""
        return self.part(0, max(users, 0))

    def part(self, begin: int, end: int) -> EvaluationSet:
        """Evaluated users `begin` to `end`, which may lie beyond the last."""
        begin, end = min(begin, len(self)), min(end, len(self))
        offsets = self.seen.offsets[begin : end + 1]
        items = self.seen.items[offsets[0] : offsets[-1]]
        seen = Histories(offsets=offsets - offsets[0], items=items, n_items=self.seen.n_items)
        return EvaluationSet(split=self.split, users=self.users[begin:end], seen=seen, targets=self.targets[begin:end])

    def save(self, path: Path) -> None:
        """Write to one .npz."""
        arrays: dict[str, NDArray[Any]] = {"offsets": self.seen.offsets, "items": self.seen.items}
        arrays |= {"n_items": np.array(self.seen.n_items), "split": np.array(self.split)}
        write_npz(path, arrays | {"users": self.users, "targets": self.targets})

    @classmethod
    def load(cls, path: Path) -> EvaluationSet:
        """Read what `save` wrote."""
        arrays = read_npz(path)
        seen = Histories(offsets=arrays["offsets"], items=arrays["items"], n_items=int(arrays["n_items"]))
        return cls(split=str(arrays["split"]), users=arrays["users"], seen=seen, targets=arrays["targets"])


def left_padded(histories: Sequence[NDArray[np.integer]], width: int | None = None) -> NDArray[np.int64]:
    """(B, T) int64: the newest `width` items of each history at the right edge, -1 elsewhere; T >= 1.

    `width` is the longest history where None.
    """
    width = width or max((len(h) for h in histories), default=0) or 1
    out = np.full((len(histories), width), -1, dtype=np.int64)
    for row, history in enumerate(histories):
        if len(history):
            newest = history[-width:]
            out[row, width - len(newest) :] = newest
    return out


def length_batches(lengths: Sequence[int], *, users: int = 64, behaviors: int = 32_768) -> Iterator[NDArray[np.int64]]:
    """Row numbers in batches of similar length, so that little of a batch is padding: at most `users` rows a batch, and
    `behaviors` places, padding included, which bounds the memory that long histories take."""
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    begin = 0
    while begin < len(order):
        size = min(users, len(order) - begin)
        while size > 1 and size * lengths[order[begin + size - 1]] > behaviors:
            size //= 2
        yield order[begin : begin + size]
        begin += size


def with_targets(train: Histories, held_out: EvaluationSet) -> Histories:
    """`train`, and of each evaluated user what it was asked with and its target behind that: to train on once nothing is chosen by
    it any more."""
    taken = {int(user): row for row, user in enumerate(held_out.users)}
    slices = [
        train[user] if row is None else np.append(held_out.seen[row], held_out.targets[row])
        for user, row in ((user, taken.get(user)) for user in range(len(train)))
    ]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in slices])]).astype(np.int64)
    items = np.concatenate(slices).astype(np.int32) if slices else np.zeros(0, np.int32)
    return Histories(offsets=offsets, items=items, n_items=train.n_items)


def _last_items(histories: Histories, users: NDArray[np.int64], split: str) -> EvaluationSet:
    """The last item of each of `users` as its target, what came before as seen; those who had seen it before are left out."""
    kept, slices = [], []
    for user in users.tolist():
        before, target = histories[user][:-1], histories[user][-1]
        if target not in before:
            kept.append(user)
            slices.append(before)
    chosen = np.array(kept, dtype=np.int64)
    items = np.concatenate(slices).astype(np.int32) if slices else np.zeros(0, np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in slices])]).astype(np.int64)
    seen = Histories(offsets=offsets, items=items, n_items=histories.n_items)
    return EvaluationSet(
        split=split, users=chosen, seen=seen, targets=histories.items[histories.offsets[1:][chosen] - 1]
    )


def leave_one_out(histories: Histories) -> tuple[Histories, EvaluationSet, EvaluationSet]:
    """Split into (train, validation, test) by position.

    `train` keeps every user (users of fewer than three behaviors whole), so that train[u] is user u.
    """
    enough = histories.lengths >= 3
    users = np.flatnonzero(enough)
    before = histories.drop_last(enough.astype(np.int64))
    train = histories.drop_last(np.where(enough, 2, 0))
    return train, _last_items(before, users, "validation"), _last_items(histories, users, "test")


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """How many of the newest days are held out: days are added until one of the two is reached, at least one day each time."""

    users: int = 1000
    """Users to evaluate, for validation and for the test."""
    share: float = 0.1
    """Share of the behaviors that may be held out at most, each time."""

    def __post_init__(self) -> None:
        if self.users < 1 or not 0 < self.share < 1:
            raise BadInput(
                f"users = {self.users} with share = {self.share} holds nothing out, or everything; give 1 or more and .1, say"
            )


def temporal_split(
    histories: Histories, days: NDArray[np.integer], config: TemporalConfig | None = None
) -> tuple[Histories, EvaluationSet, EvaluationSet, tuple[int, int]]:
    """Split into (train, validation, test, (first day of validation, first day of the test)).

    days: (B,) day of each behavior, in the order of `histories.items`; where it goes back within a user, the order counts.
    `train` keeps every user, also those it holds nothing of, so that train[u] is user u; nothing in it is of the first day of
    validation or later. Raises BadInput where the behaviors are of too few days to split.
    """
    config = config or TemporalConfig()
    if days.shape != histories.items.shape:
        raise BadInput(
            f"{len(days)} days do not fit {len(histories.items)} behaviors; materialize histories and its split again"
        )
    reached = _running_maximum(days.astype(np.int64), histories.offsets)
    test_from = _first_day(histories, reached, config)
    before, days_before = _before(histories, reached, test_from)
    validation_from = _first_day(before, days_before, config)
    train, _ = _before(before, days_before, validation_from)
    if not len(train.items):
        raise BadInput(
            f"the behaviors are of {len(np.unique(days))} days, too few to train before one day and evaluate after it; "
            "use MISS_SPLIT=leave-one-out"
        )
    test = _last_items(histories, _came(histories, reached, test_from), "test")
    validation = _last_items(before, _came(before, days_before, validation_from), "validation")
    return train, validation, test, (validation_from, test_from)


def _running_maximum(days: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(B,) the latest day up to each behavior, within its user."""
    if not len(days):
        return days
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    step = int(days.max() - days.min()) + 1  # a user's days all lie above those of the user before
    shift = days.min() - users * step
    return np.asarray(np.maximum.accumulate(days - shift) + shift, dtype=np.int64)


def _came(histories: Histories, reached: NDArray[np.int64], day: int) -> NDArray[np.int64]:
    """Users of three behaviors or more whose last one is of `day` or later."""
    enough = np.flatnonzero(histories.lengths >= 3)
    return enough[reached[histories.offsets[1:][enough] - 1] >= day]


def _first_day(histories: Histories, reached: NDArray[np.int64], config: TemporalConfig) -> int:
    """The day from which on behaviors are held out."""
    if not len(reached):
        return 0
    distinct, behaviors = np.unique(reached, return_counts=True)
    last = reached[histories.offsets[1:][histories.lengths >= 3] - 1]
    users = np.bincount(np.searchsorted(distinct, last), minlength=len(distinct))
    enough = int(np.searchsorted(np.cumsum(users[::-1]), config.users))
    within = int((np.cumsum(behaviors[::-1]) <= config.share * len(reached)).sum())
    return int(distinct[::-1][min(enough, max(within, 1) - 1)])


def _before(histories: Histories, reached: NDArray[np.int64], day: int) -> tuple[Histories, NDArray[np.int64]]:
    """What came before `day`, and its days."""
    kept = reached < day
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    lengths = np.bincount(users[kept], minlength=len(histories))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    part = Histories(offsets=offsets, items=histories.items[kept], n_items=histories.n_items)
    return part, reached[kept]


def split(
    kind: str, histories: Histories, days: NDArray[np.integer], config: TemporalConfig
) -> tuple[Histories, EvaluationSet, EvaluationSet, str]:
    """(train, validation, test) by one of `SPLITS`, and in words what was held out. Raises as the two do."""
    if kind == "leave-one-out":
        return *leave_one_out(histories), "each user's last item tests, the one before validates"
    train, validation, test, first = temporal_split(histories, days, config)
    validation_from, test_from = (str(np.datetime64(day, "D")) for day in first)
    return train, validation, test, f"trained before {validation_from}, validated before {test_from}, tested from there"
