"""Other ways to group items into a tree: the rows that say what the multi-modal grouping is worth.

- The grouping alone differs: whatever it is, z of a node stays the normalised mean of the content c of the items under it.
- Random: a balanced tree over a random order. Category: the initial tree of TDM (Zhu et al., KDD 2018, "tree initialization"),
  items side by side by category. Learnt: balanced 2-means over trained item embeddings, TDM's later trees. Raw (unaligned
  vectors) needs no function of its own: `build_tree(raw, config, content=c)`.
- Same input and seed, same bytes, as `model.index_tree` has it.

Not here: moving single items of a tree under a trained scorer, which is `model.reassignment`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.errors import BadInput
from model.index_tree import Floats, IndexTree, Ints, TreeConfig, build_tree, tree_from_order

__all__ = ["category_order", "category_tree", "learnt_tree", "random_tree"]


def random_tree(c: Floats, config: TreeConfig | None = None, *, seed: int = 0) -> IndexTree:
    """Items in a random order, cut in halves. c: (N, dc) content."""
    return tree_from_order(np.random.default_rng(seed).permutation(len(c)), c, config)


def category_order(categories: Sequence[Sequence[str]], *, seed: int) -> Ints:
    """(N,) items by category, categories in random order, items of one in random order.

    categories: the names each item goes by. An item of several is put in one of them at random, as TDM does; those of none
    stand together.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.random(
        len(categories)
    )  # one draw an item, whatever its categories: the others' places do not hang on it
    chosen = np.array(
        [
            sorted(set(names))[int(u * len(set(names)))] if len(names) else ""
            for names, u in zip(categories, drawn, strict=True)
        ],
        dtype=np.str_,
    )
    names, group = np.unique(chosen, return_inverse=True)
    return np.lexsort((rng.random(len(chosen)), rng.permutation(len(names))[group]))


def category_tree(
    c: Floats, categories: Sequence[Sequence[str]], config: TreeConfig | None = None, *, seed: int = 0
) -> IndexTree:
    """TDM's initial tree: `category_order`, cut in halves. c: (N, dc) content; BadInput where categories are of other items."""
    if len(categories) != len(c):
        raise BadInput(f"categories of {len(categories)} items do not fit {len(c)} contents; give one list an item")
    return tree_from_order(category_order(categories, seed=seed), c, config)


def learnt_tree(c: Floats, embeddings: Floats, config: TreeConfig | None = None) -> IndexTree:
    """Balanced 2-means over trained item embeddings (N, d), by direction; c: (N, dc) content."""
    return build_tree(embeddings, config, content=c)
