"""The trained tree as a retriever: beam search in torch behind the contract of `model.retriever`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.beam_search import BeamSearch, SearchResult
from model.dense_training import pad_left
from model.errors import BadInput
from model.histories import length_batches
from model.index_tree import IndexTree
from model.retriever import Retriever, check_k
from model.scorer import MISS

__all__ = ["TreeRetriever"]


class TreeRetriever(Retriever):
    """Walks the tree; answers at most `beam` items a user."""

    name = "MISS (tree)"

    def __init__(self, model: MISS, tree: IndexTree, *, beam: int) -> None:
        self.search = BeamSearch(model, tree, beam=beam)
        self.n_items, self.beam = tree.n_items, beam

    def recommend(
        self,
        histories: Sequence[NDArray[np.integer]],
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`; BadInput also for k beyond the beam, which bounds what a search can find."""
        check_k(k, self.n_items)
        if k > min(self.beam, self.n_items):
            raise BadInput(
                f"k = {k} is beyond the search's beam of {self.beam}; ask for fewer items or train with a wider beam"
            )
        items = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        for rows in length_batches([len(h) for h in histories]):
            gone = None if exclude is None else [exclude[r] for r in rows]
            result = self._search([histories[r] for r in rows], gone)
            items[rows], scores[rows] = result.items[:, :k].numpy(), result.scores[:, :k].numpy()
        return items, scores

    def beams(self, histories: Sequence[NDArray[np.integer]]) -> dict[int, NDArray[np.int64]]:
        """Nodes kept on each level between the first one scored and the leaves: {level: (B, <= beam), -1 for none}."""
        kept: dict[int, NDArray[np.int64]] = {}
        for rows in length_batches([len(h) for h in histories]):
            for offset, nodes in enumerate(self._search([histories[r] for r in rows], None).beams):
                level = kept.setdefault(
                    self.search.start + offset, np.full((len(histories), nodes.shape[1]), -1, dtype=np.int64)
                )
                level[rows] = nodes.numpy()
        return kept

    @torch.no_grad()
    def _search(
        self, histories: Sequence[NDArray[np.integer]], exclude: Sequence[NDArray[np.integer]] | None
    ) -> SearchResult:
        history = pad_left([np.asarray(h) for h in histories])
        return self.search.search(history, history if exclude is None else pad_left([np.asarray(e) for e in exclude]))
