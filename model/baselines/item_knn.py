"""Recency item-kNN: what goes with what the user had last, newer behaviors counting exponentially more.

- Similarity is shrunk cosine: c_ij / (sqrt(n_i n_j) + shrink), c_ij the users who had both (Sarwar et al. 2001, with the
  shrinkage of Bell and Koren 2007). Score of j: sum over the history of decay^age * sim_ij, age 0 for the newest.
- Two readings of "together". `window=None`: anywhere in one history, the usual item-kNN. `window=w`: at most w positions
  apart, nearer pairs counting 1/distance. The second is far stronger where order matters, and as cheap; it is its own row.
- Tuned coarsely on MovieLens-1M's validation item, not to its best. Recall@10 by decay .9 .8 .7 .6: .133 .169 .181 .187 (whole
  history, shrink 10); .8 .7 .6: .246 .252 .252 (window 10, shrink 0); 2026-11-22. One default, .7, serves both, though the
  first still gained at .6. The test numbers are guarded by a band in tests/model/test_baselines.py.
- An item's similarities are cut to the `neighbours` highest; rows are made in blocks, so a wide catalogue costs N x neighbours
  and not N x N. Behaviors that weigh less than `NEGLIGIBLE` are skipped.
- Items without a similar item in the history follow in the order of popularity; so an empty history is answered by popularity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from model.baselines._dense import BLOCK_ROWS, DenseRetriever, backfill, gram_blocks, interactions, newest
from model.errors import BadInput
from model.files import read_npz, write_npz
from model.histories import Histories
from model.item_pairs import cooccurrence
from model.ranking import FlatHistories

__all__ = ["NEGLIGIBLE", "ItemKNN", "ItemKNNConfig"]

FILE = "item_knn.npz"
NEGLIGIBLE = 1e-6
"""Weight, relative to the newest behavior's, below which a behavior is not looked at."""


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    """How the neighbours are made and how fast a history fades."""

    window: int | None = None
    """Positions apart at which two behaviors still count as together; None for the whole history."""
    backward: float = 1.0
    """What a pair in the other order counts within the window: 1 for neighbours, less for what follows what."""
    shrink: float = 10.0
    """Added to the cosine's denominator: thin evidence counts less."""
    decay: float = 0.7
    """Weight of a behavior relative to the one after it, in (0, 1]."""
    neighbours: int = 2000
    """Similar items kept per item."""

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise BadInput(f"decay = {self.decay} is out of range: give a number above 0 and at most 1")
        if not self.shrink >= 0 or self.neighbours < 1 or (self.window is not None and self.window < 1):
            raise BadInput(
                f"shrink = {self.shrink}, neighbours = {self.neighbours}, window = {self.window}: give at least 0, 1 and 1"
            )


class ItemKNN(DenseRetriever):
    """Item-kNN over a history that fades."""

    def __init__(self, similarity: Any, fill: NDArray[np.float32], *, decay: float, windowed: bool) -> None:
        """similarity: scipy CSR (N, N) float32, above 0; fill: (N,) negative scores in the order of popularity."""
        self.similarity, self.fill, self.decay, self.windowed = similarity, fill, decay, windowed
        self.n_items = len(fill)
        self.name = "item-kNN (recency, windowed)" if windowed else "item-kNN (recency)"

    @classmethod
    def fit(cls, train: Histories, config: ItemKNNConfig | None = None) -> ItemKNN:
        """Make the neighbours of every item from training histories; seconds on a million behaviors."""
        config = config or ItemKNNConfig()
        if not train.n_items:
            raise BadInput("the catalogue has no items; ingest one with at least one item")
        root = np.sqrt(np.asarray(interactions(train).sum(axis=0), np.float64).ravel())
        blocks = []
        for begin, counts in _cooccurrence_blocks(train, config):
            counts.sort_indices()  # a fixed order of columns fixes the order of every later sum, to the last bit
            rows = begin + np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
            weight = counts.data / (root[rows] * root[counts.indices] + config.shrink)
            weight[counts.indices == rows] = 0  # an item is no neighbour of itself
            blocks.append(_heaviest(counts, weight, config.neighbours))
        similarity = sparse.vstack(blocks, format="csr")
        return cls(similarity, backfill(train.counts()), decay=config.decay, windowed=config.window is not None)

    def scores(self, batch: FlatHistories, n_rows: int) -> NDArray[np.float32]:
        """(n_rows, N): above 0 where a neighbour is in the history, else the place in the order of popularity, below 0."""
        once = newest(batch)
        weight = self.decay ** once.ages.astype(np.float64)
        heavy = weight >= NEGLIGIBLE
        shape = (n_rows, self.n_items)
        profile = sparse.csr_matrix(
            (weight[heavy].astype(np.float32), (once.rows[heavy], once.items[heavy])), shape=shape
        )
        total: NDArray[np.float32] = (profile @ self.similarity).toarray()
        return np.where(total > 0, total, self.fill)

    def save(self, folder: Path) -> None:
        """Write `item_knn.npz` into a folder."""
        csr = self.similarity
        arrays = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "fill": self.fill}
        write_npz(folder / FILE, arrays | {"decay": np.array(self.decay), "windowed": np.array(self.windowed)})

    @classmethod
    def load(cls, folder: Path) -> ItemKNN:
        """Read what `save` wrote; `Corrupt` where it is torn."""
        a = read_npz(folder / FILE)
        n_items = len(a["fill"])
        similarity = sparse.csr_matrix((a["data"], a["indices"], a["indptr"]), shape=(n_items, n_items))
        return cls(similarity, a["fill"], decay=float(a["decay"]), windowed=bool(a["windowed"]))


def _cooccurrence_blocks(train: Histories, config: ItemKNNConfig) -> Iterator[tuple[int, Any]]:
    """(first row, CSR (<= BLOCK_ROWS, N)) of the co-occurrence matrix, in order."""
    if config.window is None:
        yield from gram_blocks(train)
        return
    together = cooccurrence(train, config.window, decay=True, backward=config.backward)
    for begin in range(0, train.n_items, BLOCK_ROWS):
        yield begin, together[begin : begin + BLOCK_ROWS]


def _heaviest(counts: Any, weight: NDArray[np.float64], keep: int) -> Any:
    """CSR of the `keep` highest positive weights of each row of `counts`, ties to the lower column."""
    chosen = weight > 0
    for begin, end in pairwise(counts.indptr):
        if end - begin > keep:
            row = weight[begin:end]
            last = np.partition(row, len(row) - keep)[len(row) - keep]
            chosen[begin:end] &= row >= last
            surplus = int((row >= last).sum()) - keep
            if surplus:
                chosen[begin + np.flatnonzero(row == last)[-surplus:]] = False
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    kept = (weight[chosen].astype(np.float32), (rows[chosen], counts.indices[chosen]))
    return sparse.csr_matrix(kept, shape=counts.shape)
