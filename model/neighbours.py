"""Exact nearest neighbours with FAISS, and what they say about embeddings and trees.

- Inner product over unit vectors, IndexFlatIP: no approximation, so these are oracles and quality measures, not a service.
- One thread below `PARALLEL_MULTIPLIES` multiplications: with its default threads FAISS spends seconds waking them on small inputs.
- An item is never its own neighbour; duplicates of an item are neighbours like any other, ties go to the lower index.
- Not covered: approximate search, and catalogues so large that N^2 d is out of reach (a million items at d = 64 are some
  20 minutes on two cores): sample the queries then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput

__all__ = ["kept_in_subtree", "near_duplicates", "nearest"]

PARALLEL_MULTIPLIES = 2e10
QUERY_CHUNK = 16_384


@contextmanager
def _threads(multiplies: float) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    if multiplies < PARALLEL_MULTIPLIES:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _checked(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    if vectors.ndim != 2:
        raise BadInput(f"vectors have shape {vectors.shape}; give one row an item")
    if not np.isfinite(vectors).all():
        raise BadInput("vectors hold NaN or infinity, which have no neighbours; make the embeddings again")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def nearest(vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k rows with the largest inner product for every row, itself left out, best first.

    vectors (N, d) float32. Returns index (N, k) int64 and similarity (N, k) float32; where fewer than k others exist the
    rest is index -1, similarity -inf. Raises BadInput for k < 1, NaN or infinity.
    """
    if k < 1:
        raise BadInput(f"k = {k} asks for no neighbour; use 1 or more")
    vectors = _checked(vectors)
    size, dim = vectors.shape
    index = np.full((size, k), -1, np.int64)
    similarity = np.full((size, k), -np.inf, np.float32)
    found = min(k, size - 1)
    if found < 1:
        return index, similarity
    flat = faiss.IndexFlatIP(dim)
    with _threads(float(size) * size * dim):
        flat.add(vectors)
        for start in range(0, size, QUERY_CHUNK):
            rows = np.arange(start, min(start + QUERY_CHUNK, size))
            sims, ids = flat.search(vectors[rows], found + 1)
            itself = ids == rows[:, None]
            # Among exact duplicates the row itself may not be in its own answer: then the last one goes.
            drop = np.where(itself.any(axis=1), itself.argmax(axis=1), found)
            keep = np.arange(found + 1)[None, :] != drop[:, None]
            ids, sims = ids[keep].reshape(-1, found), sims[keep].reshape(-1, found)
            order = np.lexsort((ids, -sims), axis=1)
            index[rows, :found] = np.take_along_axis(ids, order, axis=1)
            similarity[rows, :found] = np.take_along_axis(sims, order, axis=1)
    return index, similarity


def kept_in_subtree(neighbours: NDArray[np.int64], ancestors: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of an item's neighbours that a tree keeps under the same node, level by level.

    neighbours (N, k), -1 for none, as `nearest` gives them; ancestors (levels, N): the node above each item at each level.
    Returns (levels,) in 0..1, averaged over neighbour entries; 1.0 where there are none.
    """
    if ancestors.ndim != 2 or ancestors.shape[1] != len(neighbours):
        raise BadInput(
            f"ancestors of shape {ancestors.shape} do not fit {len(neighbours)} items; give one row a level, one column an item"
        )
    row, column = np.nonzero(neighbours >= 0)
    if not len(row):
        return np.ones(len(ancestors))
    other = neighbours[row, column]
    return np.array([float((level[row] == level[other]).mean()) for level in ancestors])


def near_duplicates(
    vectors: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of rows at least `threshold` similar: (first (P,), second (P,), similarity (P,)), first < second, most alike first.

    vectors (N, d) float32 of unit length; 0 < threshold <= 1. Every such pair is found (a range search), so a low threshold
    on a large catalogue returns much: .95 and above is what finds duplicates.
    """
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold = {threshold} is no cosine for duplicates; use one above 0, at most 1")
    vectors = _checked(vectors)
    size, dim = vectors.shape
    first: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    second: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    alike: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
    flat = faiss.IndexFlatIP(dim)
    with _threads(float(size) * size * dim):
        flat.add(vectors)
        for start in range(0, size, QUERY_CHUNK):
            rows = np.arange(start, min(start + QUERY_CHUNK, size))
            # the range is open and sums round: a hair below the threshold, so that equal vectors meet 1.0
            limits, sims, ids = flat.range_search(vectors[rows], float(threshold) - 1e-6)
            source = np.repeat(rows, np.diff(limits).astype(np.int64))
            keep = source < ids
            first.append(source[keep])
            second.append(ids[keep].astype(np.int64))
            alike.append(sims[keep].astype(np.float32))
    a, b, s = np.concatenate(first), np.concatenate(second), np.concatenate(alike)
    order = np.lexsort((b, a, -s))
    return a[order], b[order], s[order]
