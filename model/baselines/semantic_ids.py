"""Semantic IDs: every item as a short tuple of codes, alike items sharing the front of it, and the trie of all of them.

- Residual k-means: codes of one level are the centroids nearest to what the levels before left over, one codebook a level for
  the whole catalogue. TIGER (Rajput et al., NeurIPS 2023) trains an RQ-VAE for it; k-means on residuals (as in QARM, arXiv
  2411.11739) needs no training of its own and gives the same kind of ID.
- One more column tells apart items of equal codes: 0, 1, 2... in the order of the catalogue, as in TIGER. So every ID is unique.
- FAISS runs on one thread, and the caller's thread count is restored: with two threads it spends seconds waking them on small
  inputs, and the same seed and data give the same bytes on any machine size.
- No more centroids are asked for than there are distinct rows; levels with nothing left to tell have the one code 0.
- Not covered: balanced codes, and IDs for items that come later (assign them to the nearest centroids).

Shape legend: N items, D codes of an ID (levels + 1), B users, w nodes of a beam, W candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import faiss
import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput

__all__ = ["CodeTrie", "semantic_ids"]

ITERATIONS = 25
"""Rounds of k-means."""
STARTS = 3
"""Beginnings of k-means, of which the best counts."""
SEED_RANGE = 2**31 - 1
"""FAISS keeps seeds in a C int."""


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _distinct(rows: NDArray[np.float32]) -> int:
    """How many different rows; compared by their bytes, 0.0 and -0.0 being one."""
    plain = np.ascontiguousarray(rows + np.float32(0))
    return len(np.unique(plain.view(np.dtype((np.void, plain.itemsize * plain.shape[1])))))


def semantic_ids(c: NDArray[np.float32], *, levels: int = 3, codes: int = 256, seed: int = 0) -> NDArray[np.int64]:
    """(N, levels + 1) int64: codes 0..codes-1 from coarse to fine, then the number among items of equal codes.

    c: (N, dc) float32 multi-modal embeddings. Raises BadInput for no items, NaN or infinity, or numbers out of range.
    """
    if c.ndim != 2 or not c.size:
        raise BadInput(f"embeddings have shape {c.shape}; give one row an item, and at least one item")
    if not np.isfinite(c).all():
        raise BadInput("embeddings hold NaN or infinity, which have no cluster; make the embeddings again")
    if levels < 1 or not 2 <= codes <= 65_536:
        raise BadInput(
            f"levels = {levels}, codes = {codes} are out of range: give at least 1 level and 2 to 65536 codes"
        )
    residual = np.ascontiguousarray(c, dtype=np.float32)
    ids = np.zeros((len(c), levels + 1), dtype=np.int64)
    with _one_thread():
        for level in range(levels):
            k = min(codes, _distinct(residual))
            # a seed a level: with one for all, each level would start from the same rows
            means = faiss.Kmeans(
                c.shape[1],
                k,
                niter=ITERATIONS,
                nredo=STARTS,
                seed=(seed + level) % SEED_RANGE,
                min_points_per_centroid=1,
                init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,  # as fast as random rows, and fewer collisions
            )
            means.train(residual)
            ids[:, level] = means.index.search(residual, 1)[1][:, 0]
            residual = residual - np.asarray(means.centroids)[ids[:, level]]
    ids[:, -1] = _number_in_group(ids[:, :-1])
    return ids


def _number_in_group(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) how many earlier rows equal each row."""
    group = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], group[order])
    number = np.empty(len(keys), dtype=np.int64)
    number[order] = np.arange(len(keys)) - first
    return number


class CodeTrie:
    """All existing IDs as a trie in flat arrays: a level's nodes in the order of their codes, children side by side."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        """ids: (N, D) int64 codes from 0 on, no two rows equal; BadInput otherwise."""
        if ids.ndim != 2 or not ids.size or ids.min() < 0:
            raise BadInput(f"IDs have shape {ids.shape}; give one row of codes from 0 on for each of at least one item")
        order = np.lexsort(ids.T[::-1])
        ranked = ids[order]
        opens = np.ones(ids.shape, dtype=bool)  # whether a row of `ranked` is the first under its node
        opens[1:] = np.logical_or.accumulate(ranked[1:] != ranked[:-1], axis=1)
        if not opens[:, -1].all():
            twin = order[np.flatnonzero(~opens[:, -1])[0]]
            raise BadInput(f"item {twin} has the ID {ids[twin].tolist()} of another item; IDs must be unique")
        self.ids, self.sizes = ids, tuple(int(size) for size in ids.max(axis=0) + 1)
        self.leaf_item: NDArray[np.int64] = order
        """(N,) item of each leaf."""
        self.above = np.empty(ids.shape, dtype=np.int64)
        """(N, D) node of each item on each level."""
        self.above[order] = np.cumsum(opens, axis=0) - 1
        starts = [np.zeros(1, np.int64), *(np.flatnonzero(column) for column in opens.T)]
        self.codes = [ranked[start, level] for level, start in enumerate(starts[1:])]
        """Per level: (nodes,) last code of each node."""
        self.items_under = [np.diff(start, append=len(ids)) for start in starts[1:]]
        """Per level: (nodes,) items below each node."""
        self.first_child = [np.searchsorted(below, np.append(start, len(ids))) for start, below in pairwise(starts)]
        """Per level, the root's first: (nodes of the level above + 1,) where each one's children start."""

    def children(self, level: int, beam: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Nodes on `level` under a beam (B, w) of the level above (the root is node 0 above level 0), -1 for none.

        Returns nodes (B, W) and the beam's column each comes from (B, W); -1 and 0 on the right where a row has fewer.
        """
        first, rows, width = self.first_child[level], *beam.shape
        start = first[np.maximum(beam, 0)]
        counts = np.where(beam >= 0, first[np.maximum(beam, 0) + 1] - start, 0)
        ends = np.cumsum(counts, axis=1)
        totals = ends[:, -1]
        nodes = np.full((rows, max(int(totals.max(initial=0)), 1)), -1, dtype=np.int64)
        source = np.zeros_like(nodes)
        row = np.repeat(np.arange(rows), totals)
        column = np.arange(len(row)) - np.repeat(np.cumsum(totals) - totals, totals)
        each = counts.ravel()
        source[row, column] = np.repeat(np.tile(np.arange(width), rows), each)
        nodes[row, column] = np.repeat((start - (ends - counts)).ravel(), each) + column
        return nodes, source

    def spent(self, rows: NDArray[np.int64], items: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Per level, sorted row * nodes + node of each node all of whose items are among entries (row, item)."""
        once = np.unique(rows * len(self.ids) + items)
        rows, items = np.divmod(once, len(self.ids))
        found = []
        for level, under in enumerate(self.items_under):
            keys, gone = np.unique(rows * len(under) + self.above[items, level], return_counts=True)
            found.append(keys[gone == under[keys % len(under)]])
        return found
