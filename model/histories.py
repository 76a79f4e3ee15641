"""Users' histories as flat arrays, and the leave-one-out split of DESIGN 5.

- One user is one slice `items[offsets[u]:offsets[u + 1]]`, oldest first: no list of lists, so that a million users are two arrays.
- Items are indices 0..N-1 into the catalogue's order; ids from outside live only at the edges.
- Leave-one-out goes by position: the last item tests, the one before validates, the rest trains. A user needs three
  behaviors to be evaluated; a shorter history trains only. A target that its user had seen before is not evaluated,
  since seen items are excluded from the answer.
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

__all__ = ["EvaluationSet", "Histories", "leave_one_out", "left_padded", "length_batches", "with_targets"]


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
        kept = min(max(users, 0), len(self))
        offsets = self.seen.offsets[: kept + 1]
        seen = Histories(offsets=offsets, items=self.seen.items[: offsets[-1]], n_items=self.seen.n_items)
        return EvaluationSet(split=self.split, users=self.users[:kept], seen=seen, targets=self.targets[:kept])

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


def leave_one_out(histories: Histories) -> tuple[Histories, EvaluationSet, EvaluationSet]:
    """Split into (train, validation, test) by position.

    `train` keeps every user (users of fewer than three behaviors whole), so that train[u] is user u.
    """
    lengths = histories.lengths
    enough = lengths >= 3
    train = histories.drop_last(np.where(enough, 2, 0))

    def held_out(split: str, back: int) -> EvaluationSet:
        users = np.flatnonzero(enough)
        targets = histories.items[histories.offsets[1:][users] - back]
        kept, slices = [], []
        for position, user in enumerate(users):
            before = histories[int(user)][: lengths[user] - back]
            if targets[position] not in before:
                kept.append(position)
                slices.append(before)
        items = np.concatenate(slices).astype(np.int32) if slices else np.zeros(0, np.int32)
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in slices])]).astype(np.int64)
        seen = Histories(offsets=offsets, items=items, n_items=histories.n_items)
        return EvaluationSet(split=split, users=users[kept], seen=seen, targets=targets[kept])

    return train, held_out("validation", 2), held_out("test", 1)
