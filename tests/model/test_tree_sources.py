"""A user would lose: a comparison of groupings in which more than the grouping differs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import ring_vectors

from model.errors import BadInput
from model.index_tree import IndexTree, TreeConfig, build_tree, check_tree, tree_from_order
from model.tree_sources import category_order, category_tree, learnt_tree, random_tree

Source = Callable[[np.ndarray, TreeConfig], IndexTree]
SOURCES: dict[str, Source] = {
    "random": lambda c, config: random_tree(c, config, seed=1),
    "category": lambda c, config: category_tree(c, [["a", "b", "c"][i % 3 :] for i in range(len(c))], config, seed=1),
    "learnt": lambda c, config: learnt_tree(c, np.roll(c, 7, axis=0)[:, :5], config),
    "raw": lambda c, config: build_tree(np.roll(c, 3, axis=0)[:, :5], config, content=c),
}


def same(a: IndexTree, b: IndexTree) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)


@pytest.mark.parametrize("name", SOURCES)
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 120), st.sampled_from([2, 4, 8]))
def test_the_grouping_alone_differs(name: str, n: int, branching: int) -> None:
    """Shape, balance and invariants are those of the content's own tree, and z is the mean of the content."""
    c, config = ring_vectors(n), TreeConfig(branching=branching)
    tree, own = SOURCES[name](c, config), build_tree(c, config)
    report = check_tree(tree)
    assert report["passed"], report
    assert report["imbalance"] <= 1
    for field in ("level_offsets", "parent", "children"):
        np.testing.assert_array_equal(getattr(tree, field), getattr(own, field))
    np.testing.assert_allclose(tree.z[tree.item_leaf], c, atol=1e-6)
    paths = tree.paths()
    for node in range(0, tree.n_nodes, 7):
        mean = c[(paths == node).any(axis=1)].astype(np.float64).sum(axis=0)
        if np.linalg.norm(mean) > 1e-3:  # opposite ends of the ring cancel: no direction to compare
            np.testing.assert_allclose(tree.z[node], mean / np.linalg.norm(mean), atol=1e-4)
    assert same(tree, SOURCES[name](c, config)), "same input, same bytes"


def test_vectors_decide_the_grouping_and_not_the_content() -> None:
    c, other = ring_vectors(64), np.random.default_rng(0).standard_normal((64, 9)).astype(np.float32)
    grouped, plain = learnt_tree(c, other), build_tree(other)
    np.testing.assert_array_equal(grouped.leaf_item, plain.leaf_item)
    assert grouped.z.shape == (127, 16)
    assert same(build_tree(c, content=c), build_tree(c))


def test_an_order_is_the_order_of_the_leaves() -> None:
    order = np.random.default_rng(4).permutation(13)
    tree = tree_from_order(order, ring_vectors(13))
    leaves = tree.leaf_item[tree.nodes(tree.depth)]
    assert leaves.tolist() == order.tolist()
    halves = tree.paths()[order, 1].tolist()
    assert halves == [1] * 7 + [2] * 6


@pytest.mark.parametrize("branching", [2, 4])
def test_categories_stay_together(branching: int) -> None:
    """Eight categories of eight items are the eight subtrees of eight leaves."""
    categories = [[f"group {item % 8}"] for item in range(64)]
    tree = category_tree(ring_vectors(64), categories, TreeConfig(branching=branching), seed=3)
    leaves = tree.leaf_item[tree.nodes(tree.depth)].reshape(8, 8)
    assert all(len(set(row % 8)) == 1 for row in leaves)
    assert [row[0] % 8 for row in leaves] != list(range(8)), "categories stand in random order"
    assert any((np.diff(row) < 0).any() for row in leaves), "and so do their items"
    other = category_tree(ring_vectors(64), categories, TreeConfig(branching=branching), seed=4)
    assert not np.array_equal(tree.leaf_item, other.leaf_item)


def test_an_item_of_several_categories_is_put_in_any_and_one_of_none_among_its_like() -> None:
    categories = [["x", "y"] if item < 40 else [] if item < 50 else ["y"] if item < 60 else ["x"] for item in range(70)]
    order = category_order(categories, seed=0)
    runs = [list(group) for group in np.split(order, np.flatnonzero(np.diff(kind(order))) + 1)]
    assert sorted(order.tolist()) == list(range(70))
    none = [run for run in runs if 40 <= run[0] < 50]
    assert len(none) == 1
    assert len(none[0]) == 10
    place = np.argsort(order)
    towards_x = sum(abs(place[item] - place[60:].mean()) < abs(place[item] - place[50:60].mean()) for item in range(40))
    assert 10 <= towards_x <= 30, "not all in their first category"


def kind(items: np.ndarray) -> np.ndarray:
    return ((items >= 40) & (items < 50)).astype(int)


def test_what_does_not_fit_is_refused() -> None:
    c = ring_vectors(10)
    with pytest.raises(BadInput, match="categories of 9 items do not fit 10"):
        category_tree(c, [["a"]] * 9)
    with pytest.raises(BadInput, match="names 9 of them"):
        tree_from_order(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8]), c)
    with pytest.raises(BadInput, match="11 vectors and 10 contents"):
        learnt_tree(c, ring_vectors(11))
    broken = c.copy()
    broken[3, 0] = np.inf
    with pytest.raises(BadInput, match="item 3"):
        random_tree(broken)
