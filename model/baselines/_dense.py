"""What the baselines share: they score every item, block by block of users, and take the exact top k.

- A block holds at most `BLOCK_CELLS` scores, so that memory follows the catalogue and not the batch.
- The order of last resort is popularity: a history that tells nothing (empty, or only items never seen in training) is
  answered by it, and so are the items a method has no opinion on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from model.histories import Histories
from model.ranking import FlatHistories, flatten, top_k
from model.retriever import Retriever, check_k

__all__ = ["BLOCK_CELLS", "BLOCK_ROWS", "DenseRetriever", "backfill", "gram_blocks", "interactions", "newest"]

BLOCK_CELLS = 2**24
"""Scores held at a time: 64 MiB in float32, 128 MiB of sort keys beside them."""
BLOCK_ROWS = 1024
"""Rows of an item-to-item matrix made at a time."""


class DenseRetriever(Retriever):
    """A retriever that gives every item a score."""

    @abstractmethod
    def scores(self, batch: FlatHistories, n_rows: int) -> NDArray[np.float32]:
        """(n_rows, N) float32 scores for a flat batch of histories; a row may have no entry in it."""

    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`. Indices outside the catalogue (padding, unknown items) are ignored in both arguments."""
        check_k(k, self.n_items)
        items = np.empty((len(histories), k), dtype=np.int64)
        best = np.empty((len(histories), k), dtype=np.float32)
        step = max(1, BLOCK_CELLS // self.n_items)
        for begin in range(0, len(histories), step):
            block = slice(begin, begin + step)
            flat = flatten(histories[block], self.n_items)
            hidden = flat if exclude is None else flatten(exclude[block], self.n_items)
            n_rows = len(histories[block])
            items[block], best[block] = top_k(self.scores(flat, n_rows), k, hidden)
        return items, best


def backfill(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N,) scores in [-1, 0) that put items in the order of popularity, ties to the lower index; below any positive score."""
    n_items = len(counts)
    rank = np.empty(n_items, dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(n_items)
    return (-(rank + 1) / n_items).astype(np.float32)


def interactions(train: Histories) -> Any:
    """Users x items as scipy CSR (U, N) float32, 1 where the user has the item however often."""
    rows = np.repeat(np.arange(len(train)), train.lengths)
    ones = np.ones(len(train.items), np.float32)
    matrix = sparse.csr_matrix((ones, (rows, train.items)), shape=(len(train), train.n_items))
    matrix.data[:] = 1  # building it has summed repetitions
    return matrix


def gram_blocks(train: Histories) -> Iterator[tuple[int, Any]]:
    """(first row, CSR (<= BLOCK_ROWS, N) float32) of X'X in order: users who had both items; users who had it on the diagonal."""
    has = interactions(train)
    by_item = has.T.tocsr()  # (N, U)
    for begin in range(0, train.n_items, BLOCK_ROWS):
        yield begin, by_item[begin : begin + BLOCK_ROWS] @ has


def newest(batch: FlatHistories) -> FlatHistories:
    """The batch with each item of a history once, at its newest occurrence, ordered by (row, item)."""
    order = np.lexsort((batch.ages, batch.items, batch.rows))
    rows, items, ages = batch.rows[order], batch.items[order], batch.ages[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (items[1:] != items[:-1])
    return FlatHistories(rows[first], items[first], ages[first])
