"""Retrieve, then rescore: the same model behind a vector index instead of a tree, which is what most teams would build.

- Retrieval is the dense path, h . e_leaf + bias, through HNSW (`model.hnsw`): the bias is one more coordinate of an item, against
  1 in the query. The best `shortlist` that are not excluded are scored in full, lifelong units and all, and the best k returned.
- A user is read exactly as by the tree search of that beam: same probes, same kept behaviors, same frozen tables.
- What it cannot do is find an item that the dense path ranks below the shortlist, whatever the lifelong units would say of it.
- Asked for more than `shortlist` items, it lengthens the shortlist to k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.beam_search import BeamSearch
from model.dense_training import pad_left
from model.errors import BadInput
from model.exhaustive import score_in_slices
from model.histories import length_batches
from model.hnsw import HNSW
from model.index_tree import IndexTree
from model.retriever import Retriever, check_k
from model.scorer import MISS

__all__ = ["RetrieveThenRescore"]


class RetrieveThenRescore(Retriever):
    """Shortlist by the dense path through HNSW, order by the full score."""

    name = "retrieve, then rescore"

    def __init__(
        self, model: MISS, tree: IndexTree, *, beam: int, shortlist: int = 400, links: int = 32, ef_search: int = 512
    ) -> None:
        """beam: of the search it is compared with, which decides where the history is probed. links, ef_search: see `HNSW`."""
        if shortlist < 1:
            raise BadInput(f"shortlist = {shortlist} leaves nothing to score; use at least 1")
        self.search, self.n_items, self.shortlist = BeamSearch(model, tree, beam=beam), tree.n_items, shortlist
        self.leaves = torch.from_numpy(tree.item_leaf)
        tables = self.search.tables
        vectors = torch.cat([tables.e[self.leaves], tables.bias[self.leaves][:, None]], dim=1)  # (N, d + 1)
        self.index = HNSW(vectors.numpy(), links=links, ef_search=ef_search)

    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`."""
        check_k(k, self.n_items)
        items = np.empty((len(histories), k), dtype=np.int64)
        scores = np.empty((len(histories), k), dtype=np.float32)
        for rows in length_batches([len(h) for h in histories]):
            gone = [np.asarray((histories if exclude is None else exclude)[r]) for r in rows]
            history = pad_left([np.asarray(histories[r]) for r in rows])
            found, full = self._scored(history, max(k, min(self.shortlist, self.n_items)), gone)
            order = np.lexsort((found, -full), axis=1)[:, :k]  # equal scores: the lower item
            items[rows], scores[rows] = np.take_along_axis(found, order, 1), np.take_along_axis(full, order, 1)
        return items, scores

    @torch.no_grad()
    def _scored(
        self, history: Tensor, shortlist: int, exclude: Sequence[NDArray[np.integer]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Shortlist (B, n) of items, -1 for none, and their full scores, -inf there."""
        user = self.search.read(history)
        queries = torch.cat([user.h, torch.ones_like(user.h[:, :1])], dim=1).numpy()
        found, _ = self.index.search(queries, shortlist, exclude)
        nodes = self.leaves[torch.from_numpy(np.maximum(found, 0))]
        scores = score_in_slices(self.search, user, nodes).numpy()
        return found, np.where(found >= 0, scores, -np.float32(np.inf))
