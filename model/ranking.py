"""Exact top-k over a row of scores for every item, and histories as flat arrays: what the exhaustive retrievers share.

- Ties go to the lower item index, whatever k and whatever the batch: a score and its item are packed into one integer,
  so that a partition by value is also a partition by (score, item) and no stable sort of whole rows is needed.
- Scores of -inf mean "not to be returned"; where fewer than k are left the row ends in item -1 with score -inf.
- Not here: search through an index or a tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FlatHistories", "flatten", "top_k"]

_LOW = np.int64(0xFFFFFFFF)


class FlatHistories(NamedTuple):
    """Behaviors of a batch, one entry each; items outside the catalogue are left out."""

    rows: NDArray[np.int64]
    """(M,) position of the history in the batch."""
    items: NDArray[np.int64]
    """(M,) item index, 0..N-1."""
    ages: NDArray[np.int64]
    """(M,) behaviors of the same history that came later, 0 for the newest."""


def flatten(histories: Sequence[NDArray[np.integer]], n_items: int) -> FlatHistories:
    """Histories, each oldest first, as one flat batch; indices below 0 (padding) or from N on (unknown items) say nothing."""
    lengths = np.fromiter(map(len, histories), dtype=np.int64, count=len(histories))
    total = int(lengths.sum())
    items = np.concatenate([np.asarray(h) for h in histories]).astype(np.int64) if total else np.zeros(0, np.int64)
    ends = np.cumsum(lengths)
    rows = np.repeat(np.arange(len(histories)), lengths)
    ages = np.repeat(ends, lengths) - 1 - np.arange(total)
    known = (items >= 0) & (items < n_items)
    return FlatHistories(rows[known], items[known], ages[known])


def _keys(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """(B, N) integers that sort like (score, -item): the float's bits, made monotonic, above the item's complement."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 turns -0.0, which equals 0.0, into it
    ordered = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    return (ordered << 32) | (_LOW - np.arange(scores.shape[1], dtype=np.int64))


def top_k(
    scores: NDArray[np.float32], k: int, exclude: FlatHistories | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Best k of N items for each of B rows.

    scores: (B, N) float32, -inf for items that must not be returned; 1 <= k <= N. exclude: entries (row, item) not to be
    returned either; `scores` itself is left as it is. Returns items (B, k) int64 and scores (B, k) float32, best first,
    -1 and -inf where nothing is left. Raises ValueError for NaN, which has no place in an order.
    """
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: the retriever that made them is broken")
    scores = np.array(scores, dtype=np.float32)  # a copy: exclusion below must not reach the caller's
    if exclude is not None:
        scores[exclude.rows, exclude.items] = -np.inf
    keys = _keys(scores)
    n_items = scores.shape[1]
    if k < n_items:
        keys = np.partition(keys, n_items - k, axis=1)[:, n_items - k :]
    keys = np.sort(keys, axis=1)[:, ::-1]
    items = _LOW - (keys & _LOW)
    best = np.take_along_axis(scores, items, axis=1)
    return np.where(best == -np.inf, np.int64(-1), items), best
