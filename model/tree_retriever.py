"""The trained tree as a retriever: beam search in torch behind the contract of `model.retriever`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.beam_search import BeamSearch
from model.dense_training import pad_left
from model.errors import BadInput
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
        items, scores, _ = self.recommend_with_beams(histories, k, exclude=exclude)
        return items, scores

    @torch.no_grad()
    def recommend_with_beams(
        self,
        histories: Sequence[NDArray[np.integer]],
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], dict[int, NDArray[np.int64]]]:
        """Also the nodes kept on each level, {level: (B, <= beam) node ids, -1 for none}."""
        check_k(k, self.n_items)
        if k > min(self.beam, self.n_items):
            raise BadInput(f"k = {k} is beyond the search's beam of {self.beam}; ask for fewer items or train with a wider beam")
        history = pad_left([np.asarray(h) for h in histories])
        excluded = history if exclude is None else pad_left([np.asarray(e) for e in exclude])
        result = self.search.search(history, excluded)
        beams = {self.search.start + i: kept.numpy() for i, kept in enumerate(result.beams)}
        return result.items[:, :k].numpy(), result.scores[:, :k].numpy(), beams
