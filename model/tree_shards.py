"""The index tree of a catalogue that is grown in parts: top levels by a sample, each cluster below them a tree of its own.

Shape legend: N items, S of them a sample, C clusters of a level, d dimensions.

- A sample finds the direction along which each cluster of the top levels is halved, as `model.halving` would. Which items go to
  which side is decided by all of them: a half is what lies above the median of all projections, so that sizes of a level differ by
  at most one, as in the tree that is grown in one piece.
- A projection is each item's own sum, whoever else is in its part: parts may be of any size.
- Below the top levels a cluster is halved by `Halver`, which goes on from the directions it would have drawn by then. With no top
  level it is the whole catalogue, and the order that of `build_tree`.
- What comes out is an order of items. Sizes follow from the number of items alone, so the order is the tree (`tree_from_order`).

Arrays in and out; who reads and writes them, and where, is `assets.compute.growing`.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from model.halving import Halver, direction_of, halve, halved_starts
from model.index_tree import TreeConfig, unit_vectors

__all__ = [
    "cluster_of",
    "cluster_starts",
    "projections",
    "sample_size",
    "subtree_order",
    "top_directions",
    "top_levels",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SAMPLE = 1 << 17
"""Items that find the directions: 32 MB at 64 dimensions."""
SAMPLE_A_CLUSTER = 1 << 10
"""Of which there are this many a cluster at least."""
_ROWS = 1 << 13
"""Items that are projected at once."""


def top_levels(n_items: int, subtree_items: int) -> int:
    """How often a catalogue is halved before no cluster of it has more than `subtree_items`.

    No cluster is of one item before that, so that there are 2 to this power then, none empty.
    """
    levels = 0
    while -(-n_items >> levels) > subtree_items:
        levels += 1
    return levels


def sample_size(n_items: int, levels: int) -> int:
    """S, items that are enough to lay this many levels."""
    return min(n_items, max(SAMPLE, SAMPLE_A_CLUSTER << levels))


def cluster_starts(n_items: int, levels: int) -> Ints:
    """(C + 1,) where the clusters of a level begin, and the last ends."""
    starts: Ints = np.array([0, n_items])
    for _ in range(levels):
        starts = halved_starts(starts)
    return starts


def cluster_of(order: Ints, starts: Ints) -> NDArray[np.int32]:
    """(N,) the cluster that each item is in: cluster c is order[starts[c]:starts[c + 1]]."""
    cluster = np.empty(len(order), dtype=np.int32)
    cluster[order] = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    return cluster


def projections(vectors: Floats, directions: Floats, cluster: NDArray[np.int32], *, first: int = 0) -> Floats:
    """(n,) how far each item lies along the direction of its cluster; the same in whatever part of the catalogue it comes.

    vectors: (n, d) of items first, first + 1, ..., any length. directions: (C, d). cluster: (n,).
    Raises BadInput for vectors that are not finite (naming the first such item).
    """
    along = np.empty(len(vectors), dtype=np.float32)
    for begin in range(0, len(vectors), _ROWS):
        rows = slice(begin, begin + _ROWS)
        unit = unit_vectors(np.asarray(vectors[rows]), first=first + begin)
        along[rows] = np.einsum("nd,nd->n", unit, directions[cluster[rows]])
    return along


def top_directions(sample: Floats, levels: int, config: TreeConfig) -> list[Floats]:
    """For each of the top levels (C, d) the directions along which its clusters are to be halved; C = 1, 2, 4, ...

    sample: (S, d) vectors of items in the drawn order, any length. Raises BadInput for vectors that are not finite.
    """
    unit, rng, found = unit_vectors(sample), np.random.default_rng(config.seed), list[Floats]()
    order, starts = np.arange(len(sample)), cluster_starts(len(sample), 0)
    for _ in range(levels):
        begin: Floats = np.asarray(rng.standard_normal(unit.shape[1], dtype=np.float32))
        directions = [
            direction_of(unit[order[first:end]], begin, power_steps=config.power_steps, max_rounds=config.max_rounds)
            for first, end in itertools.pairwise(starts)
        ]
        found.append(np.stack(directions))
        along = projections(unit, found[-1], cluster_of(order, starts))
        order, starts = halve(order, starts, along[order])
    return found


def subtree_order(vectors: Floats, levels: int, config: TreeConfig) -> Ints:
    """(m,) rows of one cluster's vectors (m, d) in the order of its leaves.

    vectors: of any length, in the order in which the `levels` splits above left them.
    Raises BadInput for vectors that are not finite.
    """
    order, starts = np.arange(len(vectors)), cluster_starts(len(vectors), 0)
    halver = Halver(
        unit_vectors(vectors),
        power_steps=config.power_steps,
        max_rounds=config.max_rounds,
        seed=config.seed,
        first=order,
        above=levels,
    )
    while len(starts) - 1 < len(order):
        order, starts = halver(order, starts)
    return order
