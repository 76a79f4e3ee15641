"""New items in a trained index, without training: leaves that content places, beside everything that was learnt.

- A new item becomes a leaf under the parent whose content is nearest and has a free place; no other item moves, no node changes its
  number, and no old node changes anything: embedding, bias and z stay as trained. So every old item keeps its score for every
  user but for the order of a sum, and the beam above the leaves is the one it was: with new items set aside, old ones are
  answered as before. Where they are not, a parent all of whose old items the user has seen stays in the beam for its new one. (In
  a catalogue so small that a search starts at the leaves, new ones are among the probes that choose what of a history is kept,
  and this holds nearly.)
- A new leaf's embedding and bias are what its nearest warm items have, as in `model.cold_start`; transitions from it, where it
  stands in a history, are those of its nearest. Nothing counted leads to it, which holds it back against what is counted.
- A tree that is full takes no more: `free_places` says how many fit, the others wait for the next training.

Not covered: making room in a full tree, an item that is old and was never touched (training has placed it).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cold_start import content_neighbours
from model.errors import BadInput
from model.index_tree import IndexTree, insert_items
from model.scorer import MISS

__all__ = ["extend", "free_places"]


def free_places(tree: IndexTree) -> int:
    """Leaves that can still be added."""
    return int((tree.children[tree.nodes(tree.depth - 1)] < 0).sum()) if tree.depth else 0


@torch.no_grad()
def extend(
    model: MISS,
    tree: IndexTree,
    vectors: NDArray[np.float32],
    counts: NDArray[np.integer],
    *,
    neighbours: int = 30,
) -> tuple[MISS, IndexTree]:
    """A model and a tree with the n items of `vectors` as items N, N + 1, ...; the given ones are left as they are.

    vectors: (n, dc) aligned content of the new items. counts: (N,) behaviors of the old ones in training; those without any give
    nothing to a new item. Raises BadInput where they do not fit, where nothing is warm, or where the tree has no place.
    """
    if len(model.node_bias) != tree.n_nodes:
        raise BadInput(
            f"a model of {len(model.node_bias)} nodes does not fit a tree of {tree.n_nodes} nodes; train on this tree first"
        )
    grown = insert_items(tree, vectors)
    new = len(vectors)
    content = grown.z[grown.item_leaf]
    # old items without behaviors are cold as well, and come first among them: only the last rows are asked for
    items, closeness = (
        rows[-new:] for rows in content_neighbours(content, np.append(counts, np.zeros(new, np.int64)), neighbours)
    )
    near = closeness * counts[items]
    weight = torch.from_numpy((near / near.sum(axis=1, keepdims=True)).astype(np.float32))  # (n, k)
    leaves = torch.from_numpy(tree.item_leaf[items])
    rows = {
        "node_embedding": (weight[:, :, None] * model.node_embedding[leaves]).sum(1),
        "node_bias": (weight * model.node_bias[leaves]).sum(1),
    }
    with torch.random.fork_rng():
        larger = MISS(grown, model.config)
    state, own = model.state_dict(), larger.state_dict()
    nearest = torch.from_numpy(items[:, 0])
    for name, value in state.items():
        if name in rows:
            own[name] = torch.cat([value, rows[name]])
        elif name.startswith("transitions.") and value.shape[0] == tree.n_items + 1:
            own[name] = _more_rows(value, nearest, pad=tree.n_items)
        elif own[name].shape == value.shape:
            own[name] = value
        else:
            raise BadInput(
                f"{name} of shape {tuple(value.shape)} depends on the tree in a way that an extension does not know; train again"
            )
    larger.load_state_dict(own)
    return larger.eval(), grown


def _more_rows(table: Tensor, nearest: Tensor, *, pad: int) -> Tensor:
    """A table of followers (N + 1, K), the last row being padding's, with the rows of `nearest` (n,) before the last one.

    Ids that are `pad` become the new padding's.
    """
    longer = torch.cat([table[:-1], table[nearest], table[-1:]])
    if longer.dtype.is_floating_point:
        return longer
    return torch.where(longer == pad, torch.full_like(longer, len(longer) - 1), longer)
