"""The multi-modal index tree: recursive balanced 2-means, all clusters of a level at once (DESIGN 4).

- No node objects: nodes are numbered level by level (root 0) in flat arrays, so the tree is its own file format and
  goes into an ONNX graph as it is.
- A level is one permuted array of items cut in segments; nothing loops over nodes in Python (`model.halving`).
- Same vectors and seed, same bytes, whatever the thread count.
- All leaves lie on level H. Where a cluster has run out of items to split, its one item goes down a chain of single children.
- Branching 4 or 8 is 2 or 3 binary splits of which only the last is kept.

- What groups the items (vectors, or a bare order of them) and what node vectors are made of (content) may differ.

Not here: which vectors or orders group the items (raw, learnt, categories, random) is `model.tree_sources`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cores import cpu_threads
from model.errors import BadInput
from model.files import read_npz, write_npz
from model.halving import Halver, halved_starts

__all__ = [
    "IndexTree",
    "TreeConfig",
    "build_tree",
    "check_tree",
    "insert_items",
    "node_vectors",
    "tree_from_order",
    "unit_vectors",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_ROWS = 1 << 13
"""Nodes of a chunk of work: 4 MB of sums at 64 dimensions."""
_AT_ONCE = 64
"""New items whose places are looked up at once."""


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """How a tree is grown."""

    branching: int = 2
    """Children a node may have: 2, 4 or 8."""
    power_steps: int = 6
    """Power-iteration steps towards a cluster's principal direction, from which 2-means starts."""
    max_rounds: int = 12
    """Rounds of balanced 2-means a level at most; it stops early when no item changes side."""
    seed: int = 0
    """Seed of the power iteration's first direction."""
    subtree_items: int = 1 << 20
    """Items up to which one task grows the whole tree; of more, a sample lays the top levels (`model.tree_shards`)."""

    def __post_init__(self) -> None:
        if self.branching not in (2, 4, 8):
            raise BadInput(f"branching = {self.branching} is not supported: choose 2, 4 or 8")
        if self.subtree_items < 2:
            raise BadInput(f"subtree_items = {self.subtree_items} leaves nothing to grow: use 2 or more")


@dataclass(frozen=True, kw_only=True)
class IndexTree:
    """A tree of M nodes over N items, depth H, branching b, vectors of dc dimensions."""

    level_offsets: Ints
    """(H + 2,) first node of each level; level h is nodes level_offsets[h]..level_offsets[h + 1] - 1."""
    parent: Ints
    """(M,) parent node, -1 for the root."""
    children: Ints
    """(M, b) child nodes, -1 where there is none; filled from the left."""
    leaf_item: Ints
    """(M,) item of a leaf, -1 for inner nodes."""
    item_leaf: Ints
    """(N,) leaf node of each item."""
    z: Floats
    """(M, dc) normalised mean of the unit vectors of the items under each node; a leaf's is its item's own."""

    @property
    def depth(self) -> int:
        """H, the level of the leaves."""
        return len(self.level_offsets) - 2

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.item_leaf)

    @property
    def n_nodes(self) -> int:
        """M."""
        return len(self.parent)

    @property
    def branching(self) -> int:
        """b."""
        return int(self.children.shape[1])

    @property
    def level(self) -> Ints:
        """(M,) level of each node."""
        return np.repeat(np.arange(self.depth + 1), np.diff(self.level_offsets))

    def nodes(self, level: int) -> Ints:
        """Node ids of a level."""
        return np.arange(self.level_offsets[level], self.level_offsets[level + 1])

    def paths(self) -> Ints:
        """(N, H + 1) node on each level above (and at) each item's leaf; column 0 is the root."""
        columns = [self.item_leaf]
        for _ in range(self.depth):
            columns.append(self.parent[columns[-1]])
        return np.stack(columns[::-1], axis=1)

    def sizes(self) -> Ints:
        """(M,) items under each node."""
        return np.bincount(self.paths().ravel(), minlength=self.n_nodes)

    def save(self, path: Path) -> None:
        """Write the arrays to one .npz."""
        write_npz(path, {name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def load(cls, path: Path) -> IndexTree:
        """Read a tree back; `Corrupt` where the file is torn."""
        arrays = read_npz(path)
        return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
    unit[norms[:, 0] < 1e-12, 0] = 1.0  # opposite vectors cancel: any direction will do, none will not
    return unit


def _cut(order: Ints, starts: Ints) -> tuple[Ints, Ints]:
    """Every segment in two halves as it lies, without a look at the items."""
    return order, halved_starts(starts)


def _levels(
    order: Ints, branching: int, halve: Callable[[Ints, Ints], tuple[Ints, Ints]]
) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Yield (order, starts, parent segment of each segment) for levels 1, 2, ... until every segment is one item."""
    splits = branching.bit_length() - 1
    starts = np.array([0, len(order)])
    while len(starts) - 1 < len(order):
        above = starts
        for _ in range(splits):
            order, starts = halve(order, starts)
        yield order, starts, np.searchsorted(above, starts[:-1], side="right") - 1


def node_vectors(item_leaf: Ints, children: Ints, level_offsets: Ints, vectors: Floats) -> Floats:
    """(M, dc) normalised sums of the items' unit vectors (N, dc), bottom up; two levels of sums are in memory at a time.

    children (M, b): see `IndexTree`.
    """
    z = np.empty((len(children), vectors.shape[1]), dtype=np.float32)
    last = int(level_offsets[-2])
    below: NDArray[np.floating] = np.empty((len(children) - last, vectors.shape[1]), dtype=np.float32)
    below[item_leaf - last] = vectors

    def leaves(begin: int) -> None:
        rows = slice(begin, begin + _ROWS)
        z[last:][rows] = _unit(below[rows])

    def inner(begin: int) -> None:
        rows = slice(begin, begin + _ROWS)
        first, *others = (children[nodes][rows] - nodes.stop).T  # an absent child is below 0, and never the first
        total = below[first].astype(np.float64)
        for slot in others:
            there = slot >= 0
            if there.all():
                total += below[slot]
            else:
                total[there] += below[slot[there]]
        sums[rows] = total
        z[nodes][rows] = _unit(total.astype(np.float32))

    with ThreadPoolExecutor(cpu_threads()) as pool:
        list(pool.map(leaves, range(0, len(below), _ROWS)))
        for level in range(len(level_offsets) - 3, -1, -1):
            nodes = slice(int(level_offsets[level]), int(level_offsets[level + 1]))
            sums = np.empty((nodes.stop - nodes.start, vectors.shape[1]), dtype=np.float64)
            list(pool.map(inner, range(0, len(sums), _ROWS)))
            below = sums
    return z


def _child_table(parent: Ints, branching: int) -> Ints:
    """(M, b) children of each node in ascending order, -1 where none."""
    children = np.full((len(parent), branching), -1, dtype=np.int64)
    nodes = np.argsort(parent[1:], kind="stable") + 1
    parents = parent[nodes]
    slot = np.arange(len(nodes)) - np.searchsorted(parents, parents, side="left")
    children[parents, slot] = nodes
    return children


def unit_vectors(vectors: Floats, *, first: int = 0) -> Floats:
    """(N, d) float32 unit vectors of the rows of `vectors` (N, d), each as it would be alone.

    first: the item of row 0, where these are a part. Raises BadInput for no rows, or rows that are not finite (naming the first).
    """
    if vectors.ndim != 2 or not len(vectors):
        raise BadInput(f"a tree needs at least one item vector, got an array of shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise BadInput(f"the vector of item {first + row} is not finite; encode it again before the tree is built")
    return _unit(vectors.astype(np.float32))


def _grown(levels: Iterator[tuple[Ints, Ints, Ints]], branching: int, unit: Floats) -> IndexTree:
    """The tree of what `_levels` yields, over items of unit content vectors (N, dc)."""
    parents, offsets, leaves = [np.array([-1])], [0, 1], np.arange(len(unit))
    for order, starts, above in levels:
        leaves = order
        parents.append(above + offsets[-2])
        offsets.append(offsets[-1] + len(starts) - 1)
    parent, level_offsets = np.concatenate(parents), np.array(offsets)
    leaf_item = np.full(len(parent), -1)
    leaf_item[level_offsets[-2] :] = leaves
    item_leaf = np.empty(len(unit), dtype=np.int64)
    item_leaf[leaves] = np.arange(level_offsets[-2], level_offsets[-1])
    children = _child_table(parent, branching)
    return IndexTree(
        level_offsets=level_offsets,
        parent=parent,
        children=children,
        leaf_item=leaf_item,
        item_leaf=item_leaf,
        z=node_vectors(item_leaf, children, level_offsets, unit),
    )


def build_tree(vectors: Floats, config: TreeConfig | None = None, *, content: Floats | None = None) -> IndexTree:
    """Grow a balanced tree over the rows of `vectors` (N, d) float32; they are normalised to unit length first.

    content: (N, dc) what the node vectors z are the means of; `vectors` themselves where None.
    Raises BadInput for no items, or vectors that are not finite (naming the first such row).
    """
    config, unit = config or TreeConfig(), unit_vectors(vectors)
    meaning = unit if content is None else unit_vectors(content)
    if len(meaning) != len(unit):
        raise BadInput(
            f"{len(unit)} vectors and {len(meaning)} contents are not of one catalogue; give one row an item"
        )
    return _grown(_halved(unit, config), config.branching, meaning)


def _halved(unit: Floats, config: TreeConfig) -> Iterator[tuple[Ints, Ints, Ints]]:
    halver = Halver(unit, power_steps=config.power_steps, max_rounds=config.max_rounds, seed=config.seed)
    yield from _levels(halver.first, config.branching, halver)  # and its copy of the vectors goes with it


def tree_from_order(order: Ints, content: Floats, config: TreeConfig | None = None) -> IndexTree:
    """The balanced tree over items in a given order, cut in halves again and again; of `config` only the branching counts.

    order: (N,) every item once. content: (N, dc) what the node vectors are the means of.
    Raises BadInput where `order` is not one of the N items, or contents are not finite.
    """
    config, unit = config or TreeConfig(), unit_vectors(content)
    if not np.array_equal(np.sort(order), np.arange(len(unit))):
        raise BadInput(f"the order must name each of {len(unit)} items once, it names {len(np.unique(order))} of them")
    return _grown(_levels(np.asarray(order, dtype=np.int64), config.branching, _cut), config.branching, unit)


def insert_items(tree: IndexTree, vectors: Floats) -> IndexTree:
    """Attach new items (rows of `vectors`, (n, dc)) as items N, N + 1, ... without moving any other item.

    Each goes, in turn, under the parent of leaves with a free child slot whose z is nearest. New leaves take node numbers
    M, M + 1, ...: every old node keeps its number and its z, so that a model over the tree answers as before; the next tree grown
    of all items has the new ones in its means.
    Raises BadInput where the tree has fewer free slots than new items (the way out is a rebuild), or for vectors not finite.
    """
    if not np.isfinite(vectors).all():
        raise BadInput("a new item's vector is not finite; encode it again before it is inserted")
    if tree.depth == 0:
        raise BadInput("a tree of one item has no free leaf; rebuild it with the new items")
    unit = _unit(vectors.astype(np.float32))
    candidates = tree.nodes(tree.depth - 1)
    room = (tree.children[candidates] < 0).sum(axis=1)
    candidates, room = candidates[room > 0], room[room > 0]
    if room.sum() < len(unit):
        raise BadInput(
            f"{len(unit)} new items, but the tree has {int(room.sum())} free leaves; rebuild it with the new items"
        )
    parents = np.empty(len(unit), dtype=np.int64)
    places = np.ascontiguousarray(tree.z[candidates].T)
    for begin in range(0, len(unit), _AT_ONCE):
        similarity = unit[begin : begin + _AT_ONCE] @ places
        similarity[:, room == 0] = -np.inf
        for row, near in enumerate(similarity):
            best = int(near.argmax())
            room[best] -= 1
            if not room[best]:
                similarity[row:, best] = -np.inf
            parents[begin + row] = candidates[best]
    parent = np.concatenate([tree.parent, parents])
    offsets = tree.level_offsets.copy()
    offsets[-1] += len(unit)
    leaf_item = np.concatenate([tree.leaf_item, np.arange(tree.n_items, tree.n_items + len(unit))])
    item_leaf = np.concatenate([tree.item_leaf, np.arange(tree.n_nodes, tree.n_nodes + len(unit))])
    children = _child_table(parent, tree.branching)
    return IndexTree(
        level_offsets=offsets,
        parent=parent,
        children=children,
        leaf_item=leaf_item,
        item_leaf=item_leaf,
        z=np.concatenate([tree.z, unit]),
    )


def check_tree(tree: IndexTree) -> dict[str, Any]:
    """Check the invariants the gate relies on; `{"passed": bool, "violations": {name: count}, ...figures}`.

    Counted: items without exactly one leaf, leaves off the last level, links that disagree between `parent` and
    `children`, parents not one level up, node vectors not of unit length, and sizes of one level differing by more than one
    (allowed only after `insert_items`, so reported as the figure `imbalance` and not as a violation).
    """
    nodes = np.arange(tree.n_nodes)
    level = tree.level
    leaves = np.flatnonzero(tree.leaf_item >= 0)
    owners = np.bincount(tree.leaf_item[leaves], minlength=tree.n_items)
    child, slot_parent = tree.children.ravel(), np.repeat(nodes, tree.branching)
    linked = child >= 0
    norms = np.linalg.norm(tree.z, axis=1)
    violations = {
        "items_without_one_leaf": int(
            (owners != 1).sum() + (tree.leaf_item[tree.item_leaf] != np.arange(tree.n_items)).sum()
        ),
        "leaves_off_last_level": int(
            (level[leaves] != tree.depth).sum() + (tree.leaf_item[tree.nodes(tree.depth)] < 0).sum()
        ),
        "links_that_disagree": int(
            (tree.parent[child[linked]] != slot_parent[linked]).sum() + abs(linked.sum() - (len(nodes) - 1))
        ),
        "parents_not_one_level_up": int((level[tree.parent[1:]] != level[1:] - 1).sum()) + int(tree.parent[0] != -1),
        "vectors_not_unit": int((~(np.abs(norms - 1) < 1e-3)).sum()),
    }
    passed = not any(violations.values())
    sizes = tree.sizes() if passed else np.zeros(tree.n_nodes, np.int64)  # paths of a broken tree lead nowhere
    spread = max(int(np.ptp(sizes[tree.nodes(h)])) for h in range(tree.depth + 1))
    return {
        "passed": passed,
        "violations": violations,
        "items": tree.n_items,
        "nodes": tree.n_nodes,
        "depth": tree.depth,
        "imbalance": spread,
    }
