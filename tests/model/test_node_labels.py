"""A reader of the tree would lose its map: names that are not what lies under a node, faces that are not of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import BadInput
from model.files import read_npz
from model.index_tree import IndexTree, TreeConfig, build_tree
from model.node_labels import NODES, label_nodes, split_categories, write_labels


def planted() -> tuple[IndexTree, list[str]]:
    """Four groups of 16 items in four directions; pairs of groups share a kind, everybody is "any"."""
    rng = np.random.default_rng(0)
    kinds, groups = ("day", "night"), ("sun", "noon", "moon", "stars")
    corner = np.array([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
    of = np.arange(64) % 4
    vectors = corner[of] + 0.02 * rng.standard_normal((64, 2))
    return build_tree(vectors.astype(np.float32)), [f"any, {kinds[g // 2]},{groups[g]}, any" for g in of]


def test_a_planted_tree_is_called_by_what_was_planted() -> None:
    tree, categories = planted()
    told = label_nodes(tree, categories)
    words = told["words"].tolist()
    assert words == sorted({"any", "day", "night", "sun", "noon", "moon", "stars"})
    names = [[words[w] for w in row if w >= 0] for row in told["label"].tolist()]
    assert len(names) == tree.level_offsets[tree.depth], "leaves are called by their item"
    assert names[0] == ["any"], "nothing is more frequent than everywhere, so the most frequent"
    assert sorted(name[0] for name in names[1:3]) == ["day", "night"]
    groups = [set(name) for name in names[3:7]]
    assert sorted(map(sorted, groups)) == [["day", "noon"], ["day", "sun"], ["moon", "night"], ["night", "stars"]]
    assert all(name[0] in ("sun", "noon", "moon", "stars") for name in names[3:7]), (
        "the rarer elsewhere, the more telling"
    )
    paths = tree.paths()
    for item, path in enumerate(paths):
        for node in path[2:-1]:
            assert names[node][0] in split_categories(categories[item])


def test_typical_items_lie_under_their_node_pictured_and_known_ones_first() -> None:
    tree, categories = planted()
    rng = np.random.default_rng(1)
    counts, pictured = rng.integers(0, 100, 64), rng.random(64) < 0.7
    told = label_nodes(tree, categories, counts=counts, pictured=pictured)["typical"]
    under = {node: set(np.flatnonzero((tree.paths() == node).any(axis=1))) for node in range(len(told))}
    for node, items in under.items():
        shown = [item for item in told[node].tolist() if item >= 0]
        assert len(shown) == min(3, len(items)) == len(set(shown))
        assert set(shown) <= items
        known = set(sorted(items, key=lambda i: -counts[i])[: (len(items) + 1) // 2])
        ranked = sorted(
            items, key=lambda i: (not pictured[i], i not in known, -float(tree.z[node] @ tree.z[tree.item_leaf[i]]))
        )
        assert [(pictured[i], i in known) for i in shown] == [(pictured[i], i in known) for i in ranked[: len(shown)]]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 60), branching=st.sampled_from((2, 4)), seed=st.integers(0, 100))
def test_any_tree_gets_a_name_a_node(n: int, branching: int, seed: int) -> None:
    """Counted again, by brute force."""
    rng = np.random.default_rng(seed)
    tree = build_tree(rng.standard_normal((n, 4)).astype(np.float32), TreeConfig(branching=branching))
    categories = [", ".join(rng.choice(["a", "b", "c", "d"], rng.integers(0, 4))) for _ in range(n)]
    told = label_nodes(tree, categories)
    words = told["words"].tolist()
    has = [set(split_categories(text)) for text in categories]
    share = {word: np.mean([word in each for each in has]) for word in words}
    paths = tree.paths()
    for node, row in enumerate(told["label"].tolist()):
        under = [has[i] for i in np.flatnonzero((paths == node).any(axis=1))]
        own = {word: np.mean([word in each for each in under]) for word in words}
        worth = {w: own[w] * np.log(own[w] / share[w]) for w in words if own[w] >= 0.2}
        best = sorted((round(v, 4) for v in worth.values() if v > 1e-6), reverse=True)[:3]
        got = [words[w] for w in row if w >= 0]
        if best:
            np.testing.assert_allclose([worth[w] for w in got], best, atol=1e-3)
        elif any(own.values()):
            assert [own[w] for w in got] == [max(own.values())]
        else:
            assert got == []


def test_a_catalogue_without_categories_and_one_of_another_size(tmp_path: Path) -> None:
    tree, _ = planted()
    write_labels(tmp_path / NODES, tree, [""] * 64)
    told = read_npz(tmp_path / NODES)
    assert (told["label"] == -1).all()
    assert (told["typical"][:, 0] >= 0).all()
    np.testing.assert_array_equal(told["parent"], tree.parent)
    with pytest.raises(BadInput, match="63 categories"):
        label_nodes(tree, ["x"] * 63)
