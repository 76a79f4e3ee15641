"""Items nobody has touched start from content: as if their nearest warm items' behaviors had been theirs.

- A node is E[n] + W z_n and a bias. W z holds a cold item's content already; E and the bias are worse than not learnt: the item was
  an alternative in every softmax and never a target, so training has pushed it down, and the nodes above it as far as
  nothing else lies under them. E and bias are made anew on the item's whole path.
- What a cold item stands for on a level is a mean over its neighbours' ancestors there (leaves on the last), weighted by behaviors
  over squared distance (Shepard 1968: no temperature to choose, a warm twin's row is taken over whole). A leaf becomes that mean;
  a node above it the mean of what it has learnt, weighted by the behaviors under it, and of what its cold items stand for,
  weighted by the behaviors they may expect: those of their neighbours. Far up, where both are one node, nothing changes.
- Behaviors count because popularity lies in E . mean(h) more than in the bias: a plain mean over items is one over the tail.
- MovieLens-1M, a twentieth of the items held out (`benchmarks.cold`; d = 64, 5 epochs, dense path, 2026-11-22): Recall@10 and @200
  of such items in the whole catalogue are 0 and 0 as training left them; with leaves alone made anew .014 and .193 by a plain mean,
  .025 and .210 weighted by behaviors; with their paths too .029 and .359. Every item scored, without a walk: .029 and .395.
  Warm targets pay for the company: .269 and .748 before, .261 and .733 after (1,500 users).
- The bias follows the same mean: of what popularity a new item will have nothing better is known.
- Transitions stay: a cold item follows nothing.

Cost: cold x warm inner products. Not covered: weighing what few behaviors say against content; a warm leaf is left as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from model.errors import BadInput
from model.index_tree import Floats, IndexTree, Ints
from model.ranking import top_k
from model.scorer import MISS

__all__ = ["content_neighbours", "warm_from_content"]

_CELLS = 2**22
"""Similarities at a time: 16 MiB, and 32 MiB of sort keys."""
_TWIN = 1e-6
"""1 - cosine below which two contents are the same up to the rounding of float32."""


def content_neighbours(vectors: Floats, counts: NDArray[np.integer], neighbours: int) -> tuple[Ints, Floats]:
    """The warm items nearest to each of the C cold ones, and how close they are.

    vectors: (N, c) float32 of unit length, one row an item. counts: (N,) behaviors of each item, 0 for cold ones.
    Returns items (C, k) int64 in the order of cold items, most similar first, ties to the lower index, and closeness (C, k)
    float32 in proportion to 1 / (1 - cosine), rows summing to 1; k is `neighbours`, or all warm items where they are fewer.
    Raises BadInput for counts of another catalogue, for fewer than one neighbour, or where no item is warm.
    """
    if counts.shape != (len(vectors),):
        raise BadInput(
            f"counts of shape {counts.shape} do not fit a catalogue of {len(vectors)} items; give one an item"
        )
    if neighbours < 1:
        raise BadInput(f"neighbours = {neighbours} leaves nothing to start from; use at least 1")
    cold, warm = np.flatnonzero(counts <= 0), np.flatnonzero(counts > 0)
    if not len(warm):
        raise BadInput(f"all {len(vectors)} items are cold, nothing is left to start them from; train on some first")
    k = min(neighbours, len(warm))
    items, closeness = np.empty((len(cold), k), np.int64), np.empty((len(cold), k), np.float32)
    step = max(1, _CELLS // len(warm))
    for begin in range(0, len(cold), step):
        part = slice(begin, begin + step)
        nearest, cosine = top_k(vectors[cold[part]] @ vectors[warm].T, k)
        near = 1 / np.maximum(1 - cosine, _TWIN)
        items[part], closeness[part] = warm[nearest], near / near.sum(axis=1, keepdims=True)
    return items, closeness


@torch.no_grad()
def warm_from_content(model: MISS, tree: IndexTree, counts: NDArray[np.integer], *, neighbours: int = 30) -> None:
    """Give the leaves of cold items, and the nodes above them, the embedding and bias that content suggests, in place.

    counts: (N,) behaviors of each item in what the model was trained on; items without any are cold, no cold item is no change.
    neighbours: warm items that each starts from. Nodes with no cold item under them, warm leaves among them, are not touched.
    Whoever holds tables of the model (a search) makes them anew afterwards; a second call finds other rows than training left.
    Raises BadInput as `content_neighbours`, and for a model of another tree.
    """
    if len(model.node_bias) != tree.n_nodes:
        raise BadInput(
            f"a model of {len(model.node_bias)} nodes does not fit a tree of {tree.n_nodes} nodes; train on this tree first"
        )
    items, closeness = content_neighbours(tree.z[tree.item_leaf], counts, neighbours)
    cold, weight = np.flatnonzero(counts <= 0), closeness.astype(np.float64) * counts[items]
    # a row of `weight` sums to the behaviors its item may expect: the mean of its neighbours'
    paths = tree.paths()
    for level in range(tree.depth + 1):
        first, width = int(tree.level_offsets[level]), int(np.diff(tree.level_offsets)[level])
        own, theirs = paths[cold, level] - first, paths[items, level] - first
        entries = weight.ravel(), (np.repeat(own, items.shape[1]), theirs.ravel())
        borrowed = sparse.coo_matrix(entries, shape=(width, width)).tocsr()
        learnt = np.bincount(paths[:, level] - first, weights=counts, minlength=width)
        nodes = np.unique(own)
        for table in (model.node_embedding, model.node_bias):
            rows = table[first : first + width].reshape(width, -1).double().numpy()
            kept = np.where(learnt[nodes, None] > 0, learnt[nodes, None] * rows[nodes], 0)
            total = learnt[nodes] + np.asarray(borrowed[nodes].sum(axis=1)).ravel()
            mean = (kept + borrowed[nodes] @ rows) / total[:, None]
            table[torch.from_numpy(nodes + first)] = (
                torch.from_numpy(mean).reshape(-1, *table.shape[1:]).to(table.dtype)
            )
