"""A user would lose: items lost or doubled by a move, or moved where the scorer likes them less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import make_histories, ring_vectors
from scipy.optimize import linear_sum_assignment
from test_scorer import VARIANTS, make_model

from model.dense_training import DenseConfig, pad_left, train_dense
from model.errors import BadInput
from model.histories import Histories, leave_one_out
from model.index_tree import IndexTree, TreeConfig, build_tree, check_tree, insert_items, node_vectors
from model.reassignment import _fill, _leaves, _level_by_level, _trades, evidence, place_vectors, reassign
from model.scorer import MISS, ScorerConfig

ITEMS = 64
SCORER = ScorerConfig(
    d=16, layers=1, window=20, dropout=0.1, lifelong=replace(VARIANTS["short only"].lifelong, top_k=5, kept=12)
)


def swapped(tree: IndexTree, a: int, b: int) -> IndexTree:
    """The tree with two items in each other's place."""
    item_leaf, leaf_item = tree.item_leaf.copy(), tree.leaf_item.copy()
    item_leaf[[a, b]] = item_leaf[[b, a]]
    leaf_item[item_leaf] = np.arange(tree.n_items)
    z = node_vectors(item_leaf, tree.children, tree.level_offsets, tree.z[tree.item_leaf])
    return replace(tree, item_leaf=item_leaf, leaf_item=leaf_item, z=z)


@pytest.fixture(scope="module")
def ring() -> tuple[IndexTree, Histories]:
    return build_tree(ring_vectors(ITEMS)), make_histories(300, ITEMS, seed=1, shortest=5, longest=20)


def trained(tree: IndexTree, histories: Histories, epochs: int) -> MISS:
    torch.manual_seed(0)
    model = MISS(tree, SCORER)
    train, validation, _ = leave_one_out(histories)
    config = DenseConfig(epochs=epochs, min_steps=20, min_level_nodes=2, learning_rate=1e-2)
    train_dense(model, tree, train, validation, config, seed=0, progress=lambda _: None)
    return model


@pytest.mark.parametrize("moves", [2, 6])
def test_two_items_in_each_others_place_are_found_and_put_back(ring: tuple[IndexTree, Histories], moves: int) -> None:
    """As in JTM: the scorer is trained over the damaged tree, and its evidence repairs the tree."""
    tree, histories = ring
    damaged = swapped(tree, 5, 37)
    found = reassign(damaged, trained(damaged, histories, 1), histories, moves=moves, min_level_nodes=2)
    assert found.moved.tolist() == [5, 37]
    assert found.gain > 0
    assert np.array_equal(found.tree.item_leaf, tree.item_leaf)
    np.testing.assert_allclose(found.tree.z, tree.z, atol=1e-6)
    assert check_tree(found.tree)["passed"]


@pytest.mark.parametrize("levels_step", [1, 2, 3])
def test_level_by_level_puts_them_back_too_and_leaves_the_right_tree_alone(
    ring: tuple[IndexTree, Histories], levels_step: int
) -> None:
    tree, histories = ring
    model = trained(tree, histories, 4)
    found = reassign(swapped(tree, 5, 37), model, histories, levels_step=levels_step, min_level_nodes=2)
    assert np.array_equal(found.tree.item_leaf, tree.item_leaf)
    kept = reassign(tree, model, histories, levels_step=levels_step, min_level_nodes=2)
    assert (len(kept.moved), kept.gain) == (0, 0.0)
    assert kept.tree is tree


def random_case(n: int, branching: int, seed: int, grown: int = 0) -> tuple[IndexTree, MISS, Histories]:
    tree = build_tree(ring_vectors(n), TreeConfig(branching=branching))
    free = int((tree.children[tree.nodes(tree.depth - 1)] < 0).sum()) if tree.depth else 0
    if min(grown, free):
        tree = insert_items(tree, ring_vectors(n)[: min(grown, free)] + 0.01)
    return tree, make_model(tree, VARIANTS["short only"], seed=seed), make_histories(30, tree.n_items, seed=seed)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 70),
    st.sampled_from([2, 4]),
    st.integers(0, 3),
    st.sampled_from([None, 2, 3, 10, 100]),
    st.integers(1, 4),
    st.sampled_from([0, 3]),
)
def test_every_item_keeps_one_leaf_and_what_is_gained_is_what_is_said(
    n: int, branching: int, seed: int, moves: int | None, levels_step: int, grown: int
) -> None:
    tree, model, train = random_case(n, branching, seed, grown)
    found = reassign(tree, model, train, moves=moves, levels_step=levels_step, min_level_nodes=2)
    report = check_tree(found.tree)
    assert report["passed"], report
    assert np.array_equal(found.tree.sizes(), tree.sizes()), "capacity"
    for field in ("parent", "children", "level_offsets"):
        assert getattr(found.tree, field) is getattr(tree, field)
    # the leaf's row follows its item, every other stays
    assert np.array_equal(found.rows[found.tree.item_leaf], tree.item_leaf)
    inner = tree.leaf_item < 0
    assert np.array_equal(found.rows[inner], np.flatnonzero(inner))
    above, before = (t.parent[t.item_leaf] for t in (found.tree, tree))
    assert np.array_equal(found.moved, np.flatnonzero(above != before))
    assert moves is None or len(found.moved) <= moves
    known, places = evidence(model, train), place_vectors(tree, model, min_level_nodes=2)
    gain = float((known * (places[found.tree.item_leaf] - places[tree.item_leaf])).sum())
    np.testing.assert_allclose(found.gain, gain, atol=1e-6)
    assert (found.gain > 0) == bool(len(found.moved))


def test_evidence_is_the_sum_of_what_the_model_says_before_each_item() -> None:
    """The oracle: position by position, node by node, scored by the model itself."""
    tree, model, _ = random_case(16, 2, 0)
    train = Histories(offsets=np.array([0, 4, 7]), items=np.array([3, 9, 3, 1, 9, 3, 9], np.int32), n_items=16)
    worth = evidence(model, train) @ place_vectors(tree, model, min_level_nodes=2).T
    expected, count = np.zeros((16, tree.n_nodes)), np.zeros(16)
    tables = model.tables()
    with torch.no_grad():
        for user in range(2):
            row = train[user].astype(np.int64)
            for at in range(1, len(row)):
                h = model.window(pad_left([row[:at]], model.config.window), tables)[0, -1]
                own = (tables.e @ h + tables.bias).numpy().astype(np.float64)
                count[row[at]] += 1
                for node in range(1, tree.level_offsets[tree.depth]):
                    path = [node]
                    while tree.parent[path[-1]] > 0:
                        path.append(int(tree.parent[path[-1]]))
                    expected[row[at], node] += own[path].sum()
    np.testing.assert_allclose(
        worth[:, : tree.level_offsets[tree.depth]], expected[:, : -len(tree.item_leaf)], atol=1e-4
    )
    assert count.tolist() == evidence(model, train)[:, -1].tolist()
    assert evidence(model, train, positions=1)[:, -1].max() == 1


def test_only_trained_levels_speak() -> None:
    tree, model, train = random_case(40, 2, 1)
    places = place_vectors(tree, model, min_level_nodes=8)
    assert not places[: tree.level_offsets[3]].any(), "levels of 1, 2 and 4 nodes"
    below = tree.nodes(tree.depth)
    assert np.array_equal(places[below], places[tree.parent[below]]), "a leaf's embedding goes with its item"
    assert reassign(tree, model, train, moves=10).gain > 0, "a level of 32 nodes is left to speak"
    small = random_case(20, 2, 1)
    assert reassign(*small, moves=10).tree is small[0]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_one_trade_is_the_best_of_all_trades(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, place = rng.standard_normal((n, 3)), rng.standard_normal((n, 3))
    takes, gain = _trades(known, place, 3)
    worth = known @ place.T
    own = worth.diagonal()
    gains = worth + worth.T - own[:, None] - own
    np.testing.assert_allclose(gain, max(0.0, gains.max()), atol=1e-9)
    a, b = np.unravel_index(gains.argmax(), gains.shape)
    assert np.flatnonzero(takes != np.arange(n)).tolist() == (sorted([a, b]) if gains.max() > 1e-9 else [])


def test_trades_again_and_again_come_near_the_best_assignment() -> None:
    rng = np.random.default_rng(0)
    known, place = rng.standard_normal((60, 5)), rng.standard_normal((60, 5))
    worth, start = known @ place.T, float(np.einsum("nd,nd->", known, place))
    best = worth[linear_sum_assignment(-worth)].sum() - start
    gained, gain = 0.0, 1.0
    for _ in range(100):
        if gain <= 0:
            break
        takes, gain = _trades(known, place, 8)
        place, gained = place[takes], gained + gain
    assert gain == 0
    assert 0.9 * best < gained <= best + 1e-6


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 1000))
def test_halves_are_filled_at_the_best_there_is(sizes: list[int], seed: int) -> None:
    """With two columns a group, keeping those that would lose most is optimal: compared with the assignment problem's solution."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    room = np.array([[(size + 1) // 2, size // 2] for size in sizes])
    worth = rng.standard_normal((len(group), 2))
    column = _fill(worth, group, np.full(len(group), -1), room)
    for g, (left, right) in enumerate(room):
        rows = np.flatnonzero(group == g)
        assert np.bincount(column[rows], minlength=2).tolist() == [left, right]
        slots = np.repeat([0, 1], [left, right])
        best = worth[rows][:, slots][linear_sum_assignment(-worth[rows][:, slots])].sum()
        np.testing.assert_allclose(worth[rows, column[rows]].sum(), best, atol=1e-9)


def test_without_evidence_nobody_moves() -> None:
    tree = build_tree(ring_vectors(50), TreeConfig(branching=4))
    places = np.random.default_rng(0).standard_normal((tree.n_nodes, 3))
    leaf = _leaves(tree, _level_by_level(tree, np.zeros((50, 3)), places, 1, 1))
    assert np.array_equal(leaf, tree.item_leaf)


def test_what_does_not_fit_is_refused() -> None:
    tree, model, train = random_case(20, 2, 0)
    with pytest.raises(BadInput, match="moves = 1"):
        reassign(tree, model, train, moves=1)
    with pytest.raises(BadInput, match="histories of 19 items"):
        reassign(tree, model, make_histories(3, 19))
    with pytest.raises(BadInput, match="train on this tree"):
        reassign(build_tree(ring_vectors(20), TreeConfig(branching=4)), model, train)
