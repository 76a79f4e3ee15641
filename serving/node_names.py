"""The index tree as people read it: names of nodes, what lies under them, the way down to an item. numpy only.

- Names are categories (`model.node_labels`); a leaf is called by its item, a node that no category names by how many items it has.
- Every level's nodes are numbered one after the other, so a node's items and children are found by sorting once, at load.

Not covered: scores; those are the graph's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import Corrupt
from model.files import read_npz

__all__ = ["NodeNames"]

NODES = "nodes.npz"


class NodeNames:
    """M nodes over N items, depth H."""

    def __init__(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        """What `model.node_labels.label_nodes` returned. Raises KeyError where something is missing."""
        self._words, self._label, self._typical = (arrays[name] for name in ("words", "label", "typical"))
        self.parent: NDArray[np.int32] = arrays["parent"]  # type: ignore[assignment]
        self.item_leaf: NDArray[np.int32] = arrays["item_leaf"]  # type: ignore[assignment]
        self._offsets: list[int] = arrays["level_offsets"].tolist()
        self.depth, self.n_nodes = len(self._offsets) - 2, len(self.parent)
        self._item = np.full(self.n_nodes, -1, np.int32)
        self._item[self.item_leaf] = np.arange(len(self.item_leaf))
        self._order = np.argsort(self.parent, kind="stable").astype(
            np.int32
        )  # the root, whose parent is -1, comes first
        self._starts = np.searchsorted(self.parent[self._order], np.arange(self.n_nodes + 1)).astype(np.int32)
        self.sizes = self.counted(np.ones(len(self.item_leaf), np.int32))

    @classmethod
    def load(cls, folder: Path, *, n_items: int) -> NodeNames | None:
        """The bundle's; None where it has none. Raises Corrupt where they are of another catalogue."""
        if not (folder / NODES).exists():
            return None
        try:
            found = cls(read_npz(folder / NODES))
        except (KeyError, IndexError) as error:
            raise Corrupt(f"{folder / NODES} lacks {error}; run `miss materialize` again") from error
        if len(found.item_leaf) != n_items:
            raise Corrupt(
                f"{folder / NODES} is of {len(found.item_leaf)} items, not of {n_items}; run `miss materialize` again"
            )
        return found

    def level(self, node: int) -> int:
        """0 for the root, H for leaves."""
        return int(np.searchsorted(self._offsets, node, side="right")) - 1

    def item(self, node: int) -> int:
        """The item of a leaf; -1 for any other node."""
        return int(self._item[node])

    def children(self, node: int) -> list[int]:
        """The nodes right below, in their order."""
        return sorted(self._order[self._starts[node] : self._starts[node + 1]].tolist())

    def categories(self, node: int) -> list[str]:
        """What sets a node apart, most telling first; empty for a leaf."""
        return [str(self._words[word]) for word in self._label[node] if word >= 0] if node < len(self._label) else []

    def typical(self, node: int) -> list[int]:
        """Up to three items that show what lies under a node; of a leaf its own."""
        if node >= len(self._typical):
            return [self.item(node)]
        return [int(item) for item in self._typical[node] if item >= 0]

    def path(self, item: int) -> list[int]:
        """Nodes from the root down to an item's leaf."""
        nodes = [int(self.item_leaf[item])]
        while (above := int(self.parent[nodes[-1]])) >= 0:
            nodes.append(above)
        return nodes[::-1]

    def counted(self, weights: NDArray[np.integer]) -> NDArray[np.int64]:
        """(M,) sums over the items under each node of weights (N,)."""
        total = np.zeros(self.n_nodes, np.int64)
        total[self.item_leaf] = weights
        for level in range(self.depth, 0, -1):
            rows = slice(self._offsets[level], self._offsets[level + 1])
            np.add.at(total, self.parent[rows], total[rows])
        return total
