"""A retriever over an older catalogue answering for a newer one: how a champion is judged on today's users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.retriever import Retriever, check_k

__all__ = ["Remapped"]


class Remapped(Retriever):
    """Translates item indices on the way in and out; items the inner retriever does not know are never returned."""

    def __init__(self, inner: Retriever, *, inner_ids: NDArray[np.str_], outer_ids: NDArray[np.str_]) -> None:
        """inner_ids (N',), outer_ids (N,): item ids in the order of either catalogue."""
        self.inner, self.name, self.n_items = inner, inner.name, len(outer_ids)
        self.beam = int(getattr(inner, "beam", inner.n_items))
        inner_of = {str(item): index for index, item in enumerate(inner_ids)}
        outer_of = {str(item): index for index, item in enumerate(outer_ids)}
        self.to_inner = np.array([inner_of.get(str(item), -1) for item in outer_ids], dtype=np.int64)
        # one more place at the end: -1, nothing found, stays -1
        self.to_outer = np.array([*(outer_of.get(str(item), -1) for item in inner_ids), -1], dtype=np.int64)

    def recommend(
        self,
        histories: Sequence[NDArray[np.integer]],
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`. Items that have left the catalogue come back as -1 in their place."""
        check_k(k, self.n_items)
        known = [self._inward(history) for history in histories]
        gone = None if exclude is None else [self._inward(each) for each in exclude]
        asked = min(k, self.inner.n_items)
        found, scores = self.inner.recommend(known, asked, exclude=gone)
        items = np.full((len(histories), k), -1, dtype=np.int64)
        out_scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        items[:, :asked] = self.to_outer[found]
        out_scores[:, :asked] = np.where(items[:, :asked] >= 0, scores, -np.inf)
        return items, out_scores

    def _inward(self, items: NDArray[np.integer]) -> NDArray[np.int64]:
        inner: NDArray[np.int64] = self.to_inner[items] if len(items) else np.zeros(0, np.int64)
        return inner[inner >= 0]
