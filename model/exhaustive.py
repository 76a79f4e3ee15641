"""Every item scored by the same model: what the walk down the tree loses is the difference to this.

- A user is read by the very search it is compared with (`BeamSearch.read`: the same probes at the level where a search of that beam
  starts, the same kept behaviors, the same frozen tables), so that beam against exhaustive differs by the walk alone.
- Nodes are scored a slice at a time, `SCORED` of them over all users of a batch, so that memory follows neither the catalogue
  nor the batch: one score takes some 10 d floats of features and 5 `kept` of attention on its way.
- With `lifelong=False` it is the dense path alone, one matrix product: what the lifelong units add is the difference to this.

Cost: N scores a user, where a search makes some 2 beam x depth of them. An oracle and a row in tables, not a service.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.beam_search import BeamSearch
from model.dense_training import pad_left
from model.histories import length_batches
from model.index_tree import IndexTree
from model.ranking import flatten, top_k
from model.retriever import Retriever, check_k
from model.scorer import MISS, User

__all__ = ["SCORED", "Exhaustive", "score_in_slices", "short_reading"]

SCORED = 2**15
"""Nodes x users scored at a time: some 250 MiB at d = 64."""


def score_in_slices(search: BeamSearch, user: User, nodes: Tensor) -> Tensor:
    """The full score of nodes (B, n) int64 for each of B users; (B, n)."""
    step = max(1, SCORED // max(len(nodes), 1))
    slices = [nodes[:, begin : begin + step] for begin in range(0, nodes.shape[1], step)]
    return torch.cat([search.model.score(user, part, search.tables) for part in slices], dim=1)


def short_reading(search: BeamSearch, history: Tensor) -> Tensor:
    """h (B, d) of histories (B, T), -1 on the left: all that the dense path knows of a user."""
    width = search.model.config.window
    padded = torch.nn.functional.pad(history, (width, 0), value=-1)
    return search.model.window(padded[:, -width:], search.tables, last=True)[:, 0]


class Exhaustive(Retriever):
    """Scores every leaf."""

    def __init__(self, model: MISS, tree: IndexTree, *, beam: int, lifelong: bool = True) -> None:
        """beam: of the search it is compared with, which decides where the history is probed. lifelong: off, h . e + bias alone."""
        self.name = "MISS (every item)" if lifelong else "dense path (every item)"
        self.search, self.n_items, self.lifelong = BeamSearch(model, tree, beam=beam), tree.n_items, lifelong
        self.leaves = torch.from_numpy(tree.item_leaf)

    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`."""
        check_k(k, self.n_items)
        items = np.empty((len(histories), k), dtype=np.int64)
        best = np.empty((len(histories), k), dtype=np.float32)
        for rows in length_batches([len(h) for h in histories]):
            gone = flatten([(histories if exclude is None else exclude)[r] for r in rows], self.n_items)
            items[rows], best[rows] = top_k(self.scores([histories[r] for r in rows]), k, gone)
        return items, best

    @torch.no_grad()
    def scores(self, histories: Sequence[NDArray[np.integer]]) -> NDArray[np.float32]:
        """(B, N) score of every item for a batch of histories."""
        history = pad_left([np.asarray(h) for h in histories])
        if self.lifelong:
            nodes = self.leaves.expand(len(history), -1)
            return score_in_slices(self.search, self.search.read(history), nodes).numpy()
        tables = self.search.tables
        return torch.addmm(
            tables.bias[self.leaves], short_reading(self.search, history), tables.e[self.leaves].T
        ).numpy()
