"""Beam search down the tree, unrolled over its levels: the same module answers in torch and is exported to ONNX.

Shape legend: B users, T behaviors, X excluded items, n nodes of a level scored, b branching.

- It starts at the first level of at least twice the beam (all of it is scored), keeps `beam` nodes a level, and returns
  the best leaves.
- A node all of whose items are excluded is never kept. Each excluded item goes down with the beam: it knows which candidate
  it lies under, and a candidate counts what it has. Work and memory follow the beam and the number of excluded items, not N.
- Histories are padded on the left inside the graph: any T from 1 on is a valid input, also one that is all padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.errors import BadInput
from model.index_tree import IndexTree
from model.node_rows import Rows, checked_precision, narrowed
from model.product_codes import Codes, quantised
from model.scorer import MISS, NodeTables, User

__all__ = ["BeamSearch", "SearchResult", "start_level"]


def start_level(tree: IndexTree, beam: int) -> int:
    """First level with at least 2 x beam nodes; the leaves where no level is as wide."""
    for level in range(tree.depth + 1):
        if tree.level_offsets[level + 1] - tree.level_offsets[level] >= 2 * beam:
            return level
    return tree.depth


def _ways(tree: IndexTree, start: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Per item: (N,) its ancestor among the nodes of level `start`, and (N, H - start) which child to take from there on."""
    nodes, turns = tree.item_leaf, []
    nth = np.zeros(tree.n_nodes, dtype=np.uint8)
    for place, column in enumerate(tree.children.T):
        nth[column[column >= 0]] = place
    for _ in range(tree.depth - start):
        turns.append(nth[nodes])
        nodes = tree.parent[nodes]
    way = np.stack(turns[::-1], axis=1) if turns else np.zeros((len(nodes), 0), np.uint8)
    return (nodes - tree.level_offsets[start]).astype(np.int32), np.ascontiguousarray(way)


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

    def __init__(
        self, model: MISS, tree: IndexTree, *, beam: int, tables: str = "float32", codes: bool = False
    ) -> None:
        """tables: precision of the node tables, `model.node_rows.Precision`. codes: whether MM-GSU searches the
        history by `model.product_codes`."""
        super().__init__()
        if beam < 1:
            raise BadInput(f"beam = {beam} must be at least 1")
        self.model = model.eval()
        self.beam, self.depth, self.n_items, self.branching = beam, tree.depth, tree.n_items, tree.branching
        self.start = start_level(tree, beam)
        self.pad = max(model.config.window, model.config.lifelong.kept)  # what a reading needs at least
        self.offsets = [int(x) for x in tree.level_offsets]
        with torch.no_grad():
            whole = model.tables()
        precision = checked_precision(tables)
        for name, table in (("e", whole.e), ("z", whole.z)):
            values, scale = narrowed(table[:].detach().clone(), precision)
            self.register_buffer(f"table_{name}", values, persistent=False)
            self.register_buffer(f"scale_{name}", scale, persistent=False)
        self.codes = codes
        if codes:
            bytes_, centroids = quantised(tree.z[tree.item_leaf])
            self.register_buffer("code_bytes", torch.from_numpy(bytes_), persistent=False)
            self.register_buffer("centroids", torch.from_numpy(centroids), persistent=False)
        self.register_buffer("bias", whole.bias.detach().clone(), persistent=False)
        first = self.offsets[tree.depth]
        item_start, item_turns = _ways(tree, self.start)
        links = {
            "child_table": tree.children,
            "size": tree.sizes(),
            "leaf_item": tree.leaf_item[first:],
            "item_leaf": tree.item_leaf,
            "item_start": item_start,
            "item_turns": item_turns,
        }
        for name, array in links.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        self.table_e: Tensor
        self.table_z: Tensor
        self.scale_e: Tensor | None
        self.scale_z: Tensor | None
        self.code_bytes: Tensor
        self.centroids: Tensor
        self.bias: Tensor
        self.child_table: Tensor
        self.size: Tensor
        self.leaf_item: Tensor
        self.item_leaf: Tensor
        self.item_start: Tensor
        self.item_turns: Tensor
        self.to(model.node_bias.device)

    @property
    def tables(self) -> NodeTables:
        """The frozen tables."""
        e, z = (self.table_e, self.scale_e), (self.table_z, self.scale_z)
        codes = Codes(self.code_bytes, self.centroids) if self.codes else None
        return NodeTables(Rows(*e), self.bias, Rows(*e, self.item_leaf), Rows(*z), Rows(*z, self.item_leaf), codes)

    def _ways(self, excluded: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Of excluded items (B, X), ascending: the first level's candidate over each, its turns below, and 1 for each item once.

        An item that is named again, and padding, counts 0.
        """
        items = excluded
        again = F.pad(items[:, 1:] == items[:, :-1], (1, 0)) if items.shape[1] else items < 0
        rows = items.clamp(min=0).reshape(-1)
        start = self.item_start.index_select(0, rows).reshape(items.shape).to(torch.int64)
        turns = self.item_turns.index_select(0, rows).reshape(*items.shape, -1).to(torch.int64)
        return start, list(turns.unbind(-1)), ((items >= 0) & ~again).to(torch.float32)

    def read(self, history: Tensor) -> User:
        """What the search knows of B users, whatever is scored with it: history (B, T) int64, oldest first, -1 on the left."""
        padded = F.pad(history, (self.pad, 0), value=-1)
        return self.model.read(padded, self.tables, (self.offsets[self.start], self.offsets[self.start + 1]))

    def search(self, history: Tensor, excluded: Tensor) -> SearchResult:
        """history (B, T) int64 oldest first, -1 on the left; excluded (B, X) int64 in any order, -1 for none."""
        return self._descend(history, torch.sort(excluded, dim=1).values)

    def _descend(self, history: Tensor, excluded: Tensor) -> SearchResult:
        model, tables, user = self.model, self.tables, self.read(history)
        first, end = self.offsets[self.start], self.offsets[self.start + 1]
        # (B, X) candidate over each excluded item; the number of candidates where none is
        slot, turns, once = self._ways(excluded)
        nodes = torch.arange(first, end).expand(history.shape[0], -1)
        beams: list[Tensor] = []
        for level in range(self.start, self.depth + 1):
            n = nodes.shape[1]
            under = torch.zeros(history.shape[0], n + 1).scatter_add(1, slot, once)[:, :n]
            known = nodes.clamp(min=0)
            gone = (nodes < 0) | (under >= self.size[known])
            score = torch.where(gone, -torch.inf, model.score(user, known, tables))
            width = min(self.beam, n)
            best = torch.topk(score, width, dim=1)
            kept = torch.where(best.values == -torch.inf, -1, nodes.gather(1, best.indices))
            if level == self.depth:
                break
            beams.append(kept)
            nodes = torch.where(kept[:, :, None] >= 0, self.child_table[kept.clamp(min=0)], -1).flatten(1)
            rank = torch.arange(width).expand(history.shape[0], -1)
            place = torch.full((history.shape[0], n + 1), width).scatter(1, best.indices, rank).gather(1, slot)
            slot = torch.where(
                place < width, place * self.branching + turns[level - self.start], width * self.branching
            )
        items = torch.where(kept >= 0, self.leaf_item[(kept - self.offsets[self.depth]).clamp(min=0)], -1)
        nothing = torch.full_like(items[:, :1], -1)
        co = nothing if user.co is None else torch.where(user.co.valid, user.co.columns - self.pad, -1)
        mm = nothing if user.mm is None else torch.where(user.mm[0].valid, user.mm[0].columns - self.pad, -1)
        return SearchResult(items, best.values, beams, co, mm)

    def forward(self, history: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The exported signature: items, scores, co_behaviors, mm_behaviors; excluded ascending.

        Whoever asks the graph sorts, a tenth of what it costs in there with 10,000 items.
        """
        result = self._descend(history, excluded)
        return result.items, result.scores, result.co_behaviors, result.mm_behaviors
