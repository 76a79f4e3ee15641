"""What a tree over a file of vectors is grown from, task by task, and the files that one leaves for the next.

    vectors.npy            (N, d) float32, as they were given: every task reads the rows it needs, and no others
    directions-LEVEL.npy   (C, d) float32, of the clusters that are to be halved
    order-LEVEL.npy        (N,) int64 the items, cluster after cluster, after so many splits; at 0 as they were drawn
    cluster-LEVEL.npy      (N,) int32 the cluster of each item then
    along-LEVEL-ITEM.npy   float32, of a shard's items from this one on, how far along its cluster's direction each lies
    grown-CLUSTER.npy      int64, the items of one cluster in the order of its leaves

Parts are whole or absent, in a folder of their own for the vectors and the options: what a killed run has written is not done
again, and what another one wrote is not taken for it.

Not covered: in which order, and how many at a time (`assets.compute.growing`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.compute import Shard
from model.files import opened_npz, read_npz, replacing
from model.halving import drawn_order, halve
from model.index_tree import IndexTree, TreeConfig, build_tree, tree_from_order, unit_vectors
from model.tree_shards import cluster_of, cluster_starts, projections, subtree_order, top_directions

__all__ = ["MEASURED_ITEMS", "NAME", "GrowPart", "GrowWhole", "Join", "Lay", "Plan", "Project", "Split", "Step"]

MEASURED_ITEMS = 30_000
"""Items whose neighbours are looked for among each other; what it takes grows with their square."""
NEIGHBOURS = 10
NAME = "embeddings"
_ROWS = 1 << 14


def _chunks(path: Path) -> Iterator[NDArray[np.float32]]:
    """Rows of the vectors, some at a time."""
    with opened_npz(path, NAME) as (file, head):
        if head.fortran:  # rows are scattered over the file
            yield read_npz(path)[NAME].astype(np.float32)
            return
        row_bytes = head.dtype.itemsize * int(np.prod(head.shape[1:]))
        for begin in range(0, head.shape[0], _ROWS):
            rows = min(_ROWS, head.shape[0] - begin)
            data = np.frombuffer(file.read(rows * row_bytes), dtype=head.dtype)
            yield data.reshape(rows, *head.shape[1:]).astype(np.float32)


def _told(tree: IndexTree, vectors: NDArray[np.float32], seed: int) -> dict[str, Any]:
    """Figures of a tree over vectors (N, d), for the asset's metadata."""
    from model.neighbours import kept_in_subtree, nearest

    n = tree.n_items
    rows = np.arange(n)
    if n > MEASURED_ITEMS:
        rows = np.sort(np.random.default_rng([seed, 2]).choice(n, MEASURED_ITEMS, replace=False))
    neighbours, _ = nearest(vectors[rows], max(min(NEIGHBOURS, n - 1), 1))
    above = [tree.item_leaf[rows]]
    for _ in range(tree.depth):
        above.append(tree.parent[above[-1]])
    kept = [round(float(share), 4) for share in kept_in_subtree(neighbours, np.stack(above[::-1]))]
    figures = {"depth": tree.depth, "nodes": tree.n_nodes, "items": n, "neighbours_kept_by_level": kept}
    return figures | ({"neighbours_among": len(rows)} if len(rows) < n else {})


class GrowWhole:
    """Work on a shard {"tree"}: the file that takes the tree."""

    def __init__(self, vectors: str, config: dict[str, Any]) -> None:
        self._vectors, self._config = read_npz(Path(vectors))[NAME], TreeConfig(**config)

    def __call__(self, shard: Shard) -> Shard:
        tree = build_tree(self._vectors, self._config)
        tree.save(Path(shard["tree"]))
        return _told(tree, self._vectors, self._config.seed)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the tasks are parts of; names and numbers only, so that it can be told to another machine."""

    vectors: str
    """.npz with (N, d) float32 under "embeddings"."""
    folder: str
    """Folder of the parts."""
    config: dict[str, Any]
    """Of `TreeConfig`."""
    n_items: int
    levels: int
    """Splits that the sample lays."""
    sample: int
    """Items of the sample."""

    def part(self, kind: str, *numbers: int) -> Path:
        """Where a part lies."""
        return Path(self.folder) / ("-".join([kind, *map(str, numbers)]) + ".npy")

    def read(self, kind: str, *numbers: int) -> NDArray[Any]:
        """A part; of its bytes those are read that are looked at."""
        array: NDArray[Any] = np.load(self.part(kind, *numbers), mmap_mode="r", allow_pickle=False)
        return array

    def write(self, array: NDArray[Any], kind: str, *numbers: int) -> None:
        """Put a part where it belongs, whole."""
        with replacing(self.part(kind, *numbers)) as file:
            np.save(file, array, allow_pickle=False)


class Planned:
    """Work on the parts of one tree."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.of = Plan(**plan)
        self.config = TreeConfig(**self.of.config)


class Step(Planned, ABC):
    """Writes a part that is made once, also where a killed run is taken up."""

    def __call__(self, shard: Shard) -> Shard:
        done = self.of.part(*shard["part"])
        if not done.exists():
            self.work(shard["part"][1:], shard)
        return {}

    @abstractmethod
    def work(self, numbers: list[int], shard: Shard) -> None:
        """Write what the shard names last of all."""


class Lay(Step):
    """The vectors where rows can be read, the items as they are drawn, and the directions that a sample finds."""

    def work(self, numbers: list[int], shard: Shard) -> None:
        n, source = self.of.n_items, Path(self.of.vectors)
        with opened_npz(source, NAME) as (_, head):
            header = {"descr": "<f4", "fortran_order": False, "shape": head.shape}
        with replacing(self.of.part("vectors")) as file:
            np.lib.format.write_array_header_1_0(file, header)
            first = 0
            for rows in _chunks(source):
                unit_vectors(rows, first=first)  # what cannot be used is told before anything is grown
                file.write(np.ascontiguousarray(rows, dtype="<f4").data)
                first += len(rows)
        drawn = drawn_order(n, self.config.seed)
        sample = self.of.read("vectors")[drawn[: self.of.sample]]
        for level, directions in enumerate(top_directions(sample, self.of.levels, self.config)):
            self.of.write(directions, "directions", level)
        self.of.write(drawn, "order", 0)


class Project(Step):
    """How far along their clusters' directions the items of a shard {"begin", "end"} lie."""

    def work(self, numbers: list[int], shard: Shard) -> None:
        level, begin = numbers
        rows = slice(begin, shard["end"])
        cluster = np.zeros(rows.stop - rows.start, dtype=np.int32)  # the root's
        if level:
            cluster[:] = self.of.read("cluster", level)[rows]
        directions = np.array(self.of.read("directions", level))
        along = projections(self.of.read("vectors")[rows], directions, cluster, first=begin)
        self.of.write(along, "along", level, begin)


class Split(Step):
    """All items, in halves of their clusters."""

    def work(self, numbers: list[int], shard: Shard) -> None:
        level = numbers[0] - 1
        order = np.array(self.of.read("order", level))
        along = np.concatenate([self.of.read("along", level, begin) for begin in shard["parts"]])
        order, starts = halve(order, cluster_starts(self.of.n_items, level), along[order])
        self.of.write(cluster_of(order, starts), "cluster", level + 1)
        self.of.write(order, "order", level + 1)


class GrowPart(Step):
    """The order of one cluster's items."""

    def work(self, numbers: list[int], shard: Shard) -> None:
        (cluster,) = numbers
        begin, end = cluster_starts(self.of.n_items, self.of.levels)[cluster : cluster + 2]
        items = np.array(self.of.read("order", self.of.levels)[begin:end])
        by_row, stored = np.argsort(items), self.of.read("vectors")
        vectors = np.empty((len(items), stored.shape[1]), dtype=np.float32)
        vectors[by_row] = stored[items[by_row]]  # read forwards
        self.of.write(items[subtree_order(vectors, self.of.levels, self.config)], "grown", cluster)


class Join(Planned):
    """The tree of all orders, in the file that a shard {"tree"} names."""

    def __call__(self, shard: Shard) -> Shard:
        order = np.concatenate([self.of.read("grown", cluster) for cluster in range(1 << self.of.levels)])
        vectors = self.of.read("vectors")
        tree = tree_from_order(order, vectors, self.config)
        tree.save(Path(shard["tree"]))
        return _told(tree, vectors, self.config.seed)
