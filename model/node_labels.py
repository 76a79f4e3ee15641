"""What to call a node of the tree: the categories that set it apart, and the items that show it.

- A node is called by the categories whose contribution to the Kullback-Leibler divergence of its items from the catalogue's is
  largest, share x log(lift): frequent under the node and more so than elsewhere. Where nothing is, by its most frequent one.
- Its typical items are those nearest to its content z among the half of its items with most behaviors, pictured ones before
  others: what stands for a group should be in its middle and be known.
- Words are stored once and named by number, so that a tree of two million nodes needs no text of its own.
- Counted level by level with sparse sums; nothing loops over nodes.

Not covered: names that no category gives (a language model could write them), languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from model.errors import BadInput
from model.files import write_npz
from model.index_tree import IndexTree

__all__ = ["NODES", "label_nodes", "split_categories", "write_labels"]

NODES = "nodes.npz"
LABELS, TYPICAL = 3, 3
"""Categories and items a node is told by, at most."""
LEAST_SHARE = 0.2
"""Share of a node's items that must have a category for the node to be called by it."""


def split_categories(text: str) -> list[str]:
    """The categories of one item, once each, in the source's order; they come as one text, separated by commas."""
    return list(dict.fromkeys(part for each in text.split(",") if (part := each.strip())))


def label_nodes(
    tree: IndexTree,
    categories: Sequence[str],
    *,
    counts: NDArray[np.integer] | None = None,
    pictured: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Names for the I nodes above the leaves, whose numbers are 0..I - 1.

    categories: N texts. counts: (N,) behaviors; pictured: (N,) whether an item has a picture.
    Returns words (W,) text; label (I, 3) int32 into words, most telling first, -1 for none; typical (I, 3) int32 items, -1 for
    none; and of the tree, for those who only show it, parent (M,) int32, item_leaf (N,) int32, level_offsets (H + 2,) int64.
    Raises BadInput where the lengths are not the tree's.
    """
    n, inner = tree.n_items, int(tree.level_offsets[tree.depth])
    counts = np.zeros(n, np.int64) if counts is None else counts
    pictured = np.ones(n, bool) if pictured is None else pictured
    if not len(categories) == len(counts) == len(pictured) == n:
        raise BadInput(
            f"{len(categories)} categories, {len(counts)} counts and {len(pictured)} pictures are not one for each of the "
            f"tree's {n} items; label the tree of this catalogue"
        )
    words, has = _memberships(categories)
    label, typical = np.full((inner, LABELS), -1, np.int32), np.full((inner, TYPICAL), -1, np.int32)
    node = tree.item_leaf
    everywhere = np.asarray(has.sum(axis=0)).ravel() / max(n, 1)
    for level in range(tree.depth - 1, -1, -1):
        node = tree.parent[node]
        first, end = int(tree.level_offsets[level]), int(tree.level_offsets[level + 1])
        under = sparse.csr_matrix((np.ones(n, np.float32), (node - first, np.arange(n))), shape=(end - first, n))
        label[first:end] = _telling(under @ has, np.asarray(under.sum(axis=1)).ravel(), everywhere)
        typical[first:end] = _central(tree, node, first, end, counts, pictured)
    return {
        "words": words,
        "label": label,
        "typical": typical,
        "parent": tree.parent.astype(np.int32),
        "item_leaf": tree.item_leaf.astype(np.int32),
        "level_offsets": tree.level_offsets,
    }


def write_labels(
    path: Path,
    tree: IndexTree,
    categories: Sequence[str],
    *,
    counts: NDArray[np.integer] | None = None,
    pictured: NDArray[np.bool_] | None = None,
) -> None:
    """Write what `label_nodes` returns."""
    write_npz(path, label_nodes(tree, categories, counts=counts, pictured=pictured))


def _memberships(categories: Sequence[str]) -> tuple[NDArray[np.str_], sparse.csr_matrix]:
    """Words (W,) in the order of the alphabet, and (N, W) 1 where an item has one."""
    parts = [split_categories(text) for text in categories]
    known = sorted({word for each in parts for word in each})
    number = {word: place for place, word in enumerate(known)}
    columns = np.array([number[word] for each in parts for word in each], dtype=np.int64)
    rows = np.repeat(np.arange(len(parts)), [len(each) for each in parts])
    has = sparse.csr_matrix(
        (np.ones(len(columns), np.float32), (rows, columns)), shape=(len(parts), max(len(known), 1))
    )
    return np.array(known, dtype=np.str_), has


def _telling(
    found: sparse.csr_matrix, sizes: NDArray[np.floating], everywhere: NDArray[np.floating]
) -> NDArray[np.int32]:
    """(n, 3) words of n nodes, from how many of their items (n, W) have each, of `sizes` (n,) items."""
    found = found.tocoo()
    share = found.data / sizes[found.row]
    worth = share * np.log(share / everywhere[found.col])
    worth = np.where((worth > 1e-6) & (share >= LEAST_SHARE), worth, share - 2)  # what is no rarer elsewhere comes last
    order = np.lexsort((found.col, -worth, found.row))
    row, column, worth = found.row[order], found.col[order], worth[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = (rank < LABELS) & ((worth > 0) | (rank == 0))
    told = np.full((len(sizes), LABELS), -1, np.int32)
    told[row[kept], rank[kept]] = column[kept]
    return told


def _central(
    tree: IndexTree,
    node: NDArray[np.int64],
    first: int,
    end: int,
    counts: NDArray[np.integer],
    pictured: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """(end - first, 3) items nearest to the middle of each node of a level; `node` (N,) is every item's."""
    order = np.lexsort((-counts, node))
    sizes = np.bincount(node - first, minlength=end - first)
    rank = np.arange(len(node)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    known = np.zeros(len(node), bool)
    known[order] = rank < np.repeat((sizes + 1) // 2, sizes)
    near = np.einsum("ij,ij->i", tree.z[node], tree.z[tree.item_leaf])
    order = np.lexsort((-near, ~known, ~pictured, node))
    told = np.full((end - first, TYPICAL), -1, np.int32)
    kept = rank < TYPICAL
    told[node[order][kept] - first, rank[kept]] = order[kept]
    return told
