"""Largest inner products through FAISS HNSW: the approximate index that the tree is measured against.

- The graph is over the L2 distance with one more coordinate, sqrt(max |x|^2 - |x|^2) for an item and 0 for a query, under
  which nearest is largest inner product (Bachrach et al., RecSys 2014, section 3). FAISS's own inner-product graph may lose
  items for good. Found of the 200 best leaves of 1,000 test users by the trained dense path (MovieLens-1M, d = 64 and a
  bias, width 512 / 1024): inner-product graph .909 / .912, this one .9999 / 1. On planted groups neither is ahead by more than .03.
- What the graph finds is scored again by the plain product: L2 distances of long vectors lose digits. Ties among what was found
  go to the lower item.
- How much a row asks the graph for depends on that row alone (k + what it excludes, rounded up to a power of two, doubled
  while too little comes back), so that its answer does not depend on its company in a batch.
- A row that would ask for everything, and a catalogue no larger than the search is wide, are scored item by item: exact, and
  cheaper than walking the whole graph.
- Built and searched on one thread: same vectors, same graph, same answers. FAISS counts its threads for the whole process,
  so the count is put back each time.

Cost: N x (d + 1 + 2 x links) x 4 bytes beside the vectors. Not covered: saving, adding or removing items (build it again);
lengths with a heavy tail (one vector ten times as long as most), where the added coordinate drowns the others: recall falls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput
from model.ranking import flatten
from model.retriever import check_k

__all__ = ["HNSW"]

_CELLS = 2**22
"""Coordinates of candidates gathered at a time: 16 MiB."""


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _checked(rows: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    if rows.ndim != 2:
        raise BadInput(f"{what} have shape {rows.shape}; give one row each")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise BadInput(f"row {row} of the {what} is not finite, which has no inner product; make it again")
    return np.ascontiguousarray(rows, dtype=np.float32)


class HNSW:
    """The k items of largest inner product with a query, approximately (Malkov and Yashunin, TPAMI 2020)."""

    def __init__(
        self, vectors: NDArray[np.float32], *, links: int = 32, ef_construction: int = 200, ef_search: int = 512
    ) -> None:
        """vectors (N, d) float32, N >= 1. links: neighbours a node keeps on the upper layers (twice as many at the bottom).
        ef_construction, ef_search: width of the search when building and when asked. BadInput for NaN and numbers below these.
        """
        if links < 2 or ef_construction < 1 or ef_search < 1:
            raise BadInput(
                f"links = {links}, ef_construction = {ef_construction}, ef_search = {ef_search}: use at least 2, 1 and 1"
            )
        self._vectors = _checked(vectors, "vectors")
        if not len(vectors):
            raise BadInput("an index needs at least one vector, got none")
        self.n_items, self.dim = self._vectors.shape
        self._width = ef_search
        squares = np.einsum("nd,nd->n", self._vectors, self._vectors, dtype=np.float64)
        last = np.sqrt(np.maximum(squares.max() - squares, 0)).astype(np.float32)
        self._index = faiss.IndexHNSWFlat(self.dim + 1, links, faiss.METRIC_L2)
        self._index.hnsw.efConstruction = ef_construction
        with _one_thread():
            self._index.add(np.concatenate([self._vectors, last[:, None]], axis=1))

    def search(
        self, queries: NDArray[np.float32], k: int, exclude: Sequence[NDArray[np.integer]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Best k items for each of B queries (B, d) float32, without those in `exclude` (B arrays; what is no item is ignored).

        Returns items (B, k) int64 and inner products (B, k) float32, best first, no item twice; -1 and -inf where fewer than k
        are left. Raises BadInput for k out of 1..N, queries that do not fit, or NaN.
        """
        check_k(k, self.n_items, "the index has")
        queries = _checked(queries, "queries")
        if queries.shape[1] != self.dim or len(exclude) != len(queries):
            raise BadInput(
                f"queries of shape {queries.shape} and {len(exclude)} exclusions do not fit together or vectors of {self.dim}"
            )
        flat = flatten(exclude, self.n_items)
        gone = np.unique(flat.rows * self.n_items + flat.items)  # row and item as one number
        hidden = np.bincount(gone // self.n_items, minlength=len(queries))
        asked = 2 ** np.ceil(np.log2(k + hidden)).astype(np.int64)
        items = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        pending = np.arange(len(queries))
        while len(pending):
            asked = np.where((asked >= self.n_items) | (self._width >= self.n_items), self.n_items, asked)
            short = [pending[:0]]
            for rows in self._blocks(pending, asked):
                candidates = self._candidates(queries[rows], int(asked[rows[0]]))
                items[rows], scores[rows] = self._best(queries[rows], candidates, k, gone, rows)
                # the graph may not reach enough of the catalogue: then it is asked for more, and for everything in the end
                left = np.minimum(k, self.n_items - hidden[rows])
                short.append(rows[(items[rows] >= 0).sum(axis=1) < left])
            pending = np.concatenate(short)
            asked[pending] *= 2
        return items, scores

    def _blocks(self, pending: NDArray[np.int64], asked: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Rows that ask for equally much, a block of bounded size at a time."""
        for ask in np.unique(asked[pending]).tolist():
            rows = pending[asked[pending] == ask]
            step = max(1, _CELLS // (ask * self.dim))
            for begin in range(0, len(rows), step):
                yield rows[begin : begin + step]

    def _candidates(self, queries: NDArray[np.float32], ask: int) -> NDArray[np.int64]:
        """(B, ask) items near each query, -1 where the graph has found no more; all items where everything is asked for."""
        if ask == self.n_items:
            return np.broadcast_to(np.arange(self.n_items), (len(queries), self.n_items))
        asked = np.concatenate([queries, np.zeros_like(queries[:, :1])], axis=1)
        parameters = faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
            efSearch=max(self._width, ask)
        )
        with _one_thread():
            found: NDArray[np.int64] = self._index.search(asked, ask, params=parameters)[1]
        return found

    def _best(
        self,
        queries: NDArray[np.float32],
        candidates: NDArray[np.int64],
        k: int,
        gone: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best k of candidates (B, m), m >= k, by their inner products; `gone` are pairs row x N + item."""
        if candidates.shape[1] == self.n_items:  # the same sums, without copying the table for each row
            scores = np.einsum("nd,bd->bn", self._vectors, queries)
        else:
            scores = np.einsum("bnd,bd->bn", self._vectors[np.maximum(candidates, 0)], queries)
        lost = (candidates < 0) | np.isin(rows[:, None] * self.n_items + candidates, gone)
        scores = np.where(lost, -np.float32(np.inf), scores)
        order = np.lexsort((candidates, -scores), axis=1)[:, :k]
        best = np.take_along_axis(scores, order, axis=1)
        return np.where(best == -np.inf, np.int64(-1), np.take_along_axis(candidates, order, axis=1)), best
