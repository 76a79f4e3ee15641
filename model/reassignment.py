"""Re-assign items to leaves under a trained scorer, as JTM does (Zhu et al., NeurIPS 2019).

- An item's evidence is linear: over sampled training positions whose target it is, the sum of h . e_n + bias_n is (sum of h) . e_n
  + count x bias_n. Within a level the softmax shifts all nodes alike, so differences of these sums are those of its logarithm.
- An item's worth under a place is the sum over the trained levels above the leaves of that path. Leaves do not count: a leaf's
  embedding follows its item. So all that is to be known of a place is one vector, the sum of the embeddings on its path.
- Capacity is kept: the tree's shape never changes, items trade places in it. Two ways:
  `moves=m`: at most m items trade places pairwise, the pairs of largest gain first; every pair gains, and gains add up exactly.
  `moves=None`, JTM's algorithm 2: level by level, `levels_step` at a time, every item goes to its best descendant; of those that
  do not fit, the ones that lose least by the next best go there. Being greedy from the top, it may end below where it began: then
  the tree comes back as it was. MovieLens-1M, dense path trained to convergence: it would have moved 2,962 of 3,416 items and
  lost 7.5 % of the evidence; trades moved 1,360 and gained 1.7 %, where the best of all assignments gains 2.9 %.
- A scorer trained for long learns the tree by heart, misplaced items included, and defends it: re-assign early and often, few
  moves at a time.
- Node vectors z are made anew; node embeddings stay with their nodes, save the leaves' (`Reassignment.rows`).

Cost, N items, d wide: one forward pass over a window a user; then N d x nodes of a step for each step, or N^2 d for each round of
trades (some 10^5 items; more want `moves=None`). Not covered: retraining, which the caller alternates with this; moving a
subtree as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from model.dense_training import windows
from model.errors import BadInput
from model.histories import Histories
from model.index_tree import IndexTree, Ints, node_vectors
from model.scorer import MISS

__all__ = ["Reassignment", "evidence", "place_vectors", "reassign"]

Doubles = NDArray[np.float64]

_CELLS = 2**22
"""Numbers made at a time: 32 MiB."""


@dataclass(frozen=True, kw_only=True)
class Reassignment:
    """A tree of the same shape in which some items have changed places."""

    tree: IndexTree
    """The tree, its node vectors made anew."""
    rows: Ints
    """(M,) row of the old model's node tables that each node takes over: itself, for a leaf its item's old leaf."""
    moved: Ints
    """Items under another parent than before."""
    gain: float
    """What the evidence for the places of all items has risen by; 0 where nothing moved."""


@torch.no_grad()
def evidence(model: MISS, train: Histories, *, positions: int = 64, seed: int = 0, batch_users: int = 256) -> Doubles:
    """(N, d + 1) sum of the short readings h before an item, and their count, over at most `positions` positions of it.

    One random window of each user is read, as in training. A position with nothing before it says nothing.
    """
    model.eval()
    tables = model.tables()
    sums = np.zeros((train.n_items, model.config.d + 1))
    for inputs, targets in windows(train, model.config.window, batch_users, np.random.default_rng(seed)):
        chosen = (targets >= 0) & (inputs >= 0)
        items = targets[chosen]
        order = np.argsort(items, kind="stable")
        rank = np.empty(len(items), dtype=np.int64)
        rank[order] = np.arange(len(items)) - np.searchsorted(items[order], items[order])
        taken = sums[items, -1] + rank < positions
        h = model.window(torch.from_numpy(inputs), tables)[torch.from_numpy(chosen)].double().numpy()
        np.add.at(sums, items[taken], np.concatenate([h, np.ones((len(h), 1))], axis=1)[taken])
    return sums


@torch.no_grad()
def place_vectors(tree: IndexTree, model: MISS, *, min_level_nodes: int = 32) -> Doubles:
    """(M, d + 1) sum of embeddings and biases from the root to each node, over trained levels above the leaves.

    `evidence @ place_vectors.T` is what items are worth under nodes. Trained are levels of at least `min_level_nodes` nodes.
    """
    tables = model.tables()
    sums = np.concatenate([tables.e[:].double().numpy(), tables.bias.double().numpy()[:, None]], axis=1)
    widths = np.diff(tree.level_offsets)
    for level in range(tree.depth + 1):
        nodes = tree.nodes(level)
        if level == tree.depth or widths[level] < min_level_nodes:
            sums[nodes] = 0
        if level:
            sums[nodes] += sums[tree.parent[nodes]]
    return sums


def _trades(known: Doubles, place: Doubles, moves: int) -> tuple[Ints, float]:
    """At most moves // 2 pairs of items that trade places; (N,) whose place each item gets, and what it gains.

    known (N, d + 1) evidence, place (N, d + 1) vector of each item's own place. In each round every item proposes to trade with
    the one it gains most with, and proposals are taken best first while both are free.
    """
    own = np.einsum("nd,nd->n", known, place)
    slack = 1e-9 * max(1.0, float(np.abs(own).max(initial=0)))  # equal places must not seem to differ by a rounding
    takes, total, left = np.arange(len(known)), 0.0, moves // 2
    free = np.ones(len(known), dtype=bool)
    while left:
        rows = np.flatnonzero(free)
        partner, gain = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
        step = max(1, _CELLS // max(len(rows), 1))
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step]
            gains = known[part] @ place[rows].T + place[part] @ known[rows].T - own[part][:, None] - own[rows]
            best = gains.argmax(axis=1)
            partner[begin : begin + step] = rows[best]
            gain[begin : begin + step] = gains[np.arange(len(part)), best]
        before = left
        for at in np.lexsort((rows, -gain)):
            a, b = int(rows[at]), int(partner[at])
            if not left or gain[at] <= slack:
                break
            if free[a] and free[b]:
                takes[a], takes[b], free[a], free[b] = b, a, False, False
                total, left = total + float(gain[at]), left - 1
        if left == before:
            break
    return takes, total


def _descendants(tree: IndexTree, top: int, bottom: int) -> Ints:
    """(nodes of level top, K) nodes of level bottom under each, ascending, -1 where there are fewer."""
    nodes = tree.nodes(bottom)
    above = nodes
    for _ in range(bottom - top):
        above = tree.parent[above]
    order = np.argsort(above, kind="stable")
    group = above[order] - tree.level_offsets[top]
    column = np.arange(len(group)) - np.searchsorted(group, group)
    table = np.full((int(np.diff(tree.level_offsets)[top]), int(column.max()) + 1), -1, dtype=np.int64)
    table[group, column] = nodes[order]
    return table


def _fill(worth: Doubles, group: Ints, here: Ints, room: Ints) -> Ints:
    """(N,) column each item goes to: its best open one; of too many, those stay that would lose most by their next best.

    worth (N, K), group (N,) row of room (G, K) an item belongs to, here (N,) the column it is in now or -1: ties go there.
    The room of a group is exactly its items.
    """
    column, room = np.full(len(worth), -1, dtype=np.int64), room.copy()
    waiting = np.arange(len(worth))
    while len(waiting):
        value = np.where(room[group[waiting]] > 0, worth[waiting], -np.inf)
        line, now = np.arange(len(waiting)), here[waiting]
        best = value.max(axis=1)
        stays = (now >= 0) & (value[line, now] == best)
        choice = np.where(stays, now, value.argmax(axis=1))
        value[line, choice] = -np.inf
        loss = best - value.max(axis=1)  # infinite where no other column is open
        node = group[waiting] * room.shape[1] + choice
        order = np.lexsort((waiting, ~stays, -loss, node))
        rank = np.empty(len(waiting), dtype=np.int64)
        rank[order] = line - np.searchsorted(node[order], node[order])
        fits = rank < room.ravel()[node]
        column[waiting[fits]] = choice[fits]
        room -= np.bincount(node[fits], minlength=room.size).reshape(room.shape)
        waiting = waiting[~fits]
    return column


def _blocks(tree: IndexTree, first: int, levels_step: int) -> Iterator[tuple[int, int]]:
    """Levels from and to which items are assigned at a time: the root to the first trained one, then `levels_step` each."""
    last = tree.depth - 1
    return pairwise([0, *range(first, last, levels_step), last])


def _level_by_level(tree: IndexTree, known: Doubles, places: Doubles, first: int, levels_step: int) -> Ints:
    """JTM's algorithm 2: (N,) parent of a leaf that each item is assigned to."""
    sizes, paths = tree.sizes(), tree.paths()
    node = np.zeros(tree.n_items, dtype=np.int64)
    for top, bottom in _blocks(tree, first, levels_step):
        table = _descendants(tree, top, bottom)  # (G, K)
        group = node - tree.level_offsets[top]
        worth = np.empty((tree.n_items, table.shape[1]))
        step = max(1, _CELLS // (table.shape[1] * places.shape[1]))
        for begin in range(0, tree.n_items, step):
            part = slice(begin, begin + step)
            worth[part] = np.einsum("nd,nkd->nk", known[part], places[table[group[part]]])
        same = table[group] == paths[:, bottom, None]
        here = np.where(same.any(axis=1), same.argmax(axis=1), -1)
        column = _fill(worth, group, here, np.where(table >= 0, sizes[table], 0))
        node = table[group, column]
    return node


def _leaves(tree: IndexTree, parent: Ints) -> Ints:
    """(N,) leaf of each item under the given parents: whoever stays keeps it, the others share the freed ones in order."""
    goes = np.flatnonzero(parent != tree.parent[tree.item_leaf])
    freed = np.sort(tree.item_leaf[goes])
    leaf = tree.item_leaf.copy()
    leaf[goes[np.lexsort((goes, parent[goes]))]] = freed[np.argsort(tree.parent[freed], kind="stable")]
    return leaf


def reassign(
    tree: IndexTree,
    model: MISS,
    train: Histories,
    *,
    moves: int | None = None,
    levels_step: int = 3,
    positions: int = 64,
    min_level_nodes: int = 32,
    seed: int = 0,
) -> Reassignment:
    """Places under which the dense path of `model`, trained over `tree`, scores the targets of `train` higher.

    moves: items that may change places, None for all. levels_step: levels assigned at a time. positions: of an item that are
    heard at most. min_level_nodes: levels of fewer nodes are not trained (`DenseConfig`). A tree with no trained level above
    its leaves comes back as it is. Raises BadInput for numbers out of range, or another catalogue or tree than the model's.
    """
    if (moves is not None and moves < 2) or levels_step < 1 or positions < 1:
        raise BadInput(
            f"moves = {moves}, levels_step = {levels_step}, positions = {positions}: use at least 2 (a pair), 1 and 1"
        )
    if train.n_items != tree.n_items or len(model.node_bias) != tree.n_nodes:
        raise BadInput(
            f"histories of {train.n_items} items and a model of {len(model.node_bias)} nodes do not fit a tree of "
            f"{tree.n_items} items and {tree.n_nodes} nodes; train on this tree first"
        )
    unchanged = Reassignment(tree=tree, rows=np.arange(tree.n_nodes), moved=np.zeros(0, np.int64), gain=0.0)
    widths = np.diff(tree.level_offsets)
    trained = [level for level in range(1, tree.depth) if widths[level] >= min_level_nodes]
    if not trained:
        return unchanged
    known = evidence(model, train, positions=positions, seed=seed)
    places = place_vectors(tree, model, min_level_nodes=min_level_nodes)
    place = places[tree.item_leaf]
    if moves is None:
        leaf = _leaves(tree, _level_by_level(tree, known, places, trained[0], levels_step))
        gain = float(np.einsum("nd,nd->", known, places[leaf] - place))
    else:
        takes, gain = _trades(known, place, moves)
        leaf = tree.item_leaf[takes]
    moved = np.flatnonzero(tree.parent[leaf] != tree.parent[tree.item_leaf])
    if gain <= 0 or not len(moved):
        return unchanged
    leaf_item, rows = tree.leaf_item.copy(), np.arange(tree.n_nodes)
    leaf_item[leaf], rows[leaf] = np.arange(tree.n_items), tree.item_leaf
    z = node_vectors(leaf, tree.children, tree.level_offsets, tree.z[tree.item_leaf])
    return Reassignment(tree=replace(tree, leaf_item=leaf_item, item_leaf=leaf, z=z), rows=rows, moved=moved, gain=gain)
