"""Beam search down the tree, unrolled over its levels: the same module answers in torch and is exported to ONNX.

Shape legend: B users, T behaviors, X excluded items, n nodes of a level scored, b branching.

- It starts at the first level of at least twice the beam (all of it is scored), keeps `beam` nodes a level, and returns
  the best leaves.
- A node all of whose items are excluded is never kept: bottom-up over a flag per leaf, so that items named twice do no harm.
- Histories are padded on the left inside the graph: any T from 1 on is a valid input, also one that is all padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import BadInput
from model.index_tree import IndexTree
from model.scorer import MISS, NodeTables, User

__all__ = ["BeamSearch", "SearchResult", "start_level"]


def start_level(tree: IndexTree, beam: int) -> int:
    """First level with at least 2 x beam nodes; the leaves where no level is as wide."""
    for level in range(tree.depth + 1):
        if tree.level_offsets[level + 1] - tree.level_offsets[level] >= 2 * beam:
            return level
    return tree.depth


@dataclass(frozen=True)
class SearchResult:
    """Answer of one search."""

    items: Tensor
    """(B, k) int64 best first, k = min(beam, N); -1 where no item is left."""
    scores: Tensor
    """(B, k) float32, -inf where the item is -1."""
    beams: list[Tensor]
    """Per level from the start level to the last but one: (B, <= beam) kept nodes, -1 where fewer were left."""
    co_behaviors: Tensor
    """(B, m) columns of the history that Co-GSU kept, most relevant first, -1 for none."""
    mm_behaviors: Tensor
    """(B, m) the same for MM-GSU."""


class BeamSearch(nn.Module):
    """Search with a trained scorer; parameters are frozen into tables at construction."""

    def __init__(self, model: MISS, tree: IndexTree, *, beam: int) -> None:
        super().__init__()
        if beam < 1:
            raise BadInput(f"beam = {beam} must be at least 1")
        self.model = model.eval()
        self.beam, self.depth, self.n_items = beam, tree.depth, tree.n_items
        self.start = start_level(tree, beam)
        self.pad = max(model.config.window, model.config.lifelong.kept)  # what a reading needs at least
        self.offsets = [int(x) for x in tree.level_offsets]
        with torch.no_grad():
            tables = model.tables()
        for name in ("e", "bias", "leaf_e", "leaf_z"):
            self.register_buffer(f"table_{name}", getattr(tables, name).detach().clone(), persistent=False)
        self.register_buffer("child_table", torch.from_numpy(tree.children), persistent=False)
        self.register_buffer("leaf_item", torch.from_numpy(tree.leaf_item), persistent=False)
        self.register_buffer(
            "leaf_column", torch.from_numpy(tree.item_leaf - self.offsets[tree.depth]), persistent=False
        )
        self.child_table: Tensor
        self.leaf_item: Tensor
        self.leaf_column: Tensor
        self.to(model.node_bias.device)

    @property
    def tables(self) -> NodeTables:
        """The frozen tables."""
        return NodeTables(*(getattr(self, f"table_{name}") for name in ("e", "bias", "leaf_e", "leaf_z")))

    def _spent(self, excluded: Tensor) -> dict[int, Tensor]:
        """Per level from the start: (B, nodes + 1) float 1 where all items under a node are excluded, and a last column of 1."""
        width = self.offsets[self.depth + 1] - self.offsets[self.depth]
        column = torch.where(excluded >= 0, self.leaf_column[excluded.clamp(min=0)], width)
        flags = torch.zeros(excluded.shape[0], width + 1, dtype=torch.float32).scatter(1, column, 1.0)
        flags = torch.cat([flags[:, :width], torch.ones_like(flags[:, :1])], dim=1)
        spent = {self.depth: flags}
        for level in range(self.depth - 1, self.start - 1, -1):
            first, end = self.offsets[level], self.offsets[level + 1]
            local = self.child_table[first:end] - end  # (nodes, b) columns of the level below; absent ones below 0
            below = self.offsets[level + 2] - end
            local = torch.where(local < 0, below, local)
            flags = spent[level + 1][:, local.reshape(-1)].reshape(excluded.shape[0], end - first, -1).amin(-1)
            spent[level] = torch.cat([flags, torch.ones_like(flags[:, :1])], dim=1)
        return spent

    def read(self, history: Tensor) -> User:
        """What the search knows of B users, whatever is scored with it: history (B, T) int64, oldest first, -1 on the left."""
        padded = F.pad(history, (self.pad, 0), value=-1)
        return self.model.read(padded, self.tables, (self.offsets[self.start], self.offsets[self.start + 1]))

    def search(self, history: Tensor, excluded: Tensor) -> SearchResult:
        """history (B, T) int64 oldest first, -1 on the left; excluded (B, X) int64, -1 for none."""
        model, tables, user = self.model, self.tables, self.read(history)
        first, end = self.offsets[self.start], self.offsets[self.start + 1]
        spent = self._spent(excluded)
        nodes = torch.arange(first, end).expand(history.shape[0], -1)
        gone = spent[self.start][:, :-1]
        beams: list[Tensor] = []
        for level in range(self.start, self.depth + 1):
            score = torch.where(gone > 0, -torch.inf, model.score(user, nodes.clamp(min=0), tables))
            best = torch.topk(score, min(self.beam, nodes.shape[1]), dim=1)
            kept = torch.where(best.values == -torch.inf, -1, nodes.gather(1, best.indices))
            if level == self.depth:
                break
            beams.append(kept)
            nodes = torch.where(kept[:, :, None] >= 0, self.child_table[kept.clamp(min=0)], -1).flatten(1)
            below, below_end = self.offsets[level + 1], self.offsets[level + 2]
            column = torch.where(nodes >= 0, nodes - below, below_end - below)
            gone = spent[level + 1].gather(1, column)
        items = torch.where(kept >= 0, self.leaf_item[kept.clamp(min=0)], -1)
        nothing = torch.full_like(items[:, :1], -1)
        co = nothing if user.co is None else torch.where(user.co[2], user.co[0] - self.pad, -1)
        mm = nothing if user.mm is None else torch.where(user.mm[3], user.mm[0] - self.pad, -1)
        return SearchResult(items, best.values, beams, co, mm)

    def forward(self, history: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The exported signature: items, scores, co_behaviors, mm_behaviors."""
        result = self.search(history, excluded)
        return result.items, result.scores, result.co_behaviors, result.mm_behaviors
