"""A user would lose: every new item, which training leaves at the bottom of every list, or a warm one spoilt by the rescue."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import ring_vectors
from test_scorer import ITEMS, SMALL, VARIANTS, make_model

from model import cold_start
from model.cold_start import content_neighbours, warm_from_content
from model.dense_training import DenseConfig, train_dense
from model.errors import BadInput
from model.exhaustive import Exhaustive
from model.histories import Histories, leave_one_out
from model.index_tree import IndexTree, build_tree
from model.scorer import MISS, ScorerConfig
from model.tree_retriever import TreeRetriever


@pytest.fixture(scope="module")
def tree() -> IndexTree:
    return build_tree(ring_vectors(ITEMS))


def random_tree(items: int = ITEMS, dim: int = 8, seed: int = 4) -> IndexTree:
    return build_tree(np.random.default_rng(seed).normal(size=(items, dim)).astype(np.float32))


def some_counts(cold: list[int], items: int = ITEMS) -> np.ndarray:
    counts = np.random.default_rng(7).integers(1, 50, items)
    counts[cold] = 0
    return counts


def by_hand(model: MISS, tree: IndexTree, counts: np.ndarray, neighbours: int) -> dict[int, np.ndarray]:
    """Embedding and bias, side by side, of every node with a cold item under it: one node and one neighbour at a time."""
    z, paths = tree.z[tree.item_leaf].astype(np.float64), tree.paths()
    rows = torch.cat([model.node_embedding, model.node_bias[:, None]], dim=1).detach().double().numpy()
    warm = np.flatnonzero(counts).tolist()
    cosine = z @ z.T
    told = {}
    for level in range(tree.depth + 1):
        for node in tree.nodes(level).tolist():
            under = np.flatnonzero(paths[:, level] == node).tolist()
            if all(counts[item] for item in under):
                continue
            total, mass = np.zeros(rows.shape[1]), 0.0
            for item in under:
                if counts[item]:
                    total, mass = total + counts[item] * rows[node], mass + counts[item]
                    continue
                best = sorted(warm, key=lambda other, item=item: -cosine[item, other])[:neighbours]
                near = np.array([1 / (1 - cosine[item, other]) for other in best])
                for other, share in zip(best, near / near.sum(), strict=True):
                    total += share * counts[other] * rows[paths[other, level]]
                    mass += share * counts[other]
            told[node] = total / mass
    return told


@pytest.mark.parametrize("cells", [cold_start._CELLS, 50], ids=["at once", "item by item"])
@pytest.mark.parametrize("neighbours", [1, 3, 10, 500])
def test_paths_of_cold_items_are_means_over_their_nearest_warm_items(
    neighbours: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_start, "_CELLS", cells)
    tree = random_tree()
    model, counts = make_model(tree), some_counts([3, 40, 4, 0, 17])
    wanted = by_hand(model, tree, counts, neighbours)
    assert set(tree.item_leaf[[3, 40, 4, 0, 17]].tolist()) < set(wanted)
    warm_from_content(model, tree, counts, neighbours=neighbours)
    for node, row in wanted.items():
        np.testing.assert_allclose(model.node_embedding[node].detach(), row[:-1], atol=1e-5)
        assert model.node_bias[node].item() == pytest.approx(row[-1], abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    items=st.integers(1, 30),
    dim=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    neighbours=st.integers(1, 12),
    data=st.data(),
)
def test_nothing_else_changes_and_no_row_leaves_the_span_of_its_level(
    items: int, dim: int, seed: int, neighbours: int, data: st.DataObject
) -> None:
    """Whatever the contents (in one dimension all are twins or opposites), and whoever is cold as long as somebody is warm."""
    tree = random_tree(items, dim, seed)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=items, max_size=items).filter(any)))
    model = make_model(tree, SMALL, seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    warm_from_content(model, tree, counts, neighbours=neighbours)
    after = model.state_dict()
    cold, paths = counts == 0, tree.paths()
    for name, value in before.items():
        if name not in ("node_embedding", "node_bias"):
            assert torch.equal(after[name], value), name
            continue
        untouched = np.setdiff1d(np.arange(tree.n_nodes), paths[cold])
        assert torch.equal(after[name][untouched], value[untouched]), "to the bit"
        for level in range(tree.depth + 1):
            learnt, own = value[paths[~cold, level]], after[name][paths[cold, level]]
            assert ((own >= learnt.amin(0) - 1e-5) & (own <= learnt.amax(0) + 1e-5)).all(), (name, level)


def test_an_item_with_a_warm_twin_gets_the_twins_row() -> None:
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 16)).astype(np.float32)
    vectors[30] = 3 * vectors[7]  # of the same direction
    tree = build_tree(vectors)
    model = make_model(tree)
    warm_from_content(model, tree, some_counts([30]))
    new, twin = tree.item_leaf[[30, 7]]
    torch.testing.assert_close(model.node_embedding[new], model.node_embedding[twin], atol=1e-3, rtol=0)
    torch.testing.assert_close(model.node_bias[new], model.node_bias[twin], atol=1e-3, rtol=0)
    scores = Exhaustive(model, tree, beam=6, lifelong=False).scores([np.array([1, 2, 3])])
    assert scores[0, 30] == pytest.approx(scores[0, 7], abs=2e-3), "and with its content, its score"


def test_behaviors_decide_between_equally_near_neighbours_and_how_far_a_node_above_moves() -> None:
    tree = build_tree(np.array([[1, 0.1], [1, -0.1], [-1, 0], [1, 0]], np.float32))  # the last lies between two
    leaves, above = tree.item_leaf, tree.parent[tree.item_leaf]
    for counts, share in (([9, 1, 50, 0], 0.9), ([1, 3, 1, 0], 0.25)):
        model = make_model(tree)
        old = model.node_bias.detach().clone()
        warm_from_content(model, tree, np.array(counts), neighbours=2)
        wanted = share * old[leaves[0]] + (1 - share) * old[leaves[1]]
        assert model.node_bias[leaves[3]].item() == pytest.approx(wanted.item(), abs=1e-4)
        beside = int(np.flatnonzero(above[:3] == above[3])[0])
        expected = (counts[0] + counts[1]) / 2
        ancestors = share * old[above[0]] + (1 - share) * old[above[1]]
        mixed = (counts[beside] * old[above[3]] + expected * ancestors) / (counts[beside] + expected)
        assert model.node_bias[above[3]].item() == pytest.approx(mixed.item(), abs=1e-4)


def test_what_training_left_where_nothing_is_warm_does_not_spread(tree: IndexTree) -> None:
    """Nearest to a cold item on the ring are other cold ones, and some nodes have no warm item under them."""
    counts = some_counts(list(range(10, 22)))
    first, second = make_model(tree), make_model(tree)
    warm = np.unique(tree.paths()[counts > 0])
    unlearnt = torch.from_numpy(np.setdiff1d(np.arange(tree.n_nodes), warm))
    assert len(unlearnt) > 12, "leaves and nodes above them"
    with torch.no_grad():
        second.node_embedding[unlearnt] = torch.nan
        second.node_bias[unlearnt] = torch.nan
    for model in (first, second):
        warm_from_content(model, tree, counts)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_closeness_falls_with_distance_and_ties_go_to_the_lower_item() -> None:
    angle = np.deg2rad([0, 10, -10, 20, 90, 40, 5])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    items, closeness = content_neighbours(vectors, np.array([0, 1, 2, 9, 1, 1, 0]), 4)
    assert items.tolist() == [[1, 2, 3, 5], [1, 2, 3, 5]]
    wanted = 1 / (1 - np.cos(np.deg2rad([10, 10, 20, 40])))
    np.testing.assert_allclose(closeness[0], wanted / wanted.sum(), rtol=1e-4)
    assert closeness.sum(1) == pytest.approx(1)


def test_what_cannot_be_done_is_refused_and_leaves_the_model_as_it_was(tree: IndexTree) -> None:
    model, counts = make_model(tree), some_counts([3])
    before = model.node_embedding.clone()
    with pytest.raises(BadInput, match=rf"counts of shape \({ITEMS - 1},\) do not fit a catalogue of {ITEMS}"):
        warm_from_content(model, tree, counts[1:])
    with pytest.raises(BadInput, match=f"all {ITEMS} items are cold"):
        warm_from_content(model, tree, 0 * counts)
    with pytest.raises(BadInput, match="neighbours = 0"):
        warm_from_content(model, tree, counts, neighbours=0)
    with pytest.raises(BadInput, match="does not fit a tree"):
        warm_from_content(model, build_tree(ring_vectors(ITEMS + 1)), some_counts([3], ITEMS + 1))
    warm_from_content(model, tree, some_counts([]))  # nobody is cold
    assert torch.equal(model.node_embedding, before)


# -- a planted catalogue: users of one cluster, one item of each held out -------------------------------------------------

CLUSTERS, EACH, USERS = 6, 10, 240
COLD = np.arange(CLUSTERS) * EACH
"""The first item of each cluster."""
DENSE = ScorerConfig(d=16, heads=2, layers=1, window=10, dropout=0.1, lifelong=VARIANTS["short only"].lifelong)


@pytest.fixture(scope="module")
def planted() -> Callable[[], tuple[MISS, IndexTree, np.ndarray]]:
    """Makes copies of a model trained without behaviors of the cold items, whose content is like their cluster's; and counts."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, 16))
    content = np.repeat(centres, EACH, axis=0) + 0.4 * rng.normal(size=(CLUSTERS * EACH, 16))
    tree = build_tree(content.astype(np.float32))
    walks = [user % CLUSTERS * EACH + 1 + rng.permutation(EACH - 1)[:7] for user in range(USERS)]
    offsets = np.arange(USERS + 1) * 7
    histories = Histories(offsets=offsets, items=np.concatenate(walks).astype(np.int32), n_items=CLUSTERS * EACH)
    train, validation, _ = leave_one_out(histories)
    torch.manual_seed(0)
    trained = MISS(tree, DENSE)
    config = DenseConfig(epochs=6, min_steps=30, min_level_nodes=4, learning_rate=1e-2)
    train_dense(trained, tree, train, validation, config, seed=0, progress=lambda _: None)

    def copy() -> tuple[MISS, IndexTree, np.ndarray]:
        model = MISS(tree, DENSE)
        model.load_state_dict(trained.state_dict())
        return model.eval(), tree, train.counts()

    return copy


def test_a_held_out_item_ranks_above_every_item_of_other_clusters(
    planted: Callable[[], tuple[MISS, IndexTree, np.ndarray]],
) -> None:
    histories = [own * EACH + np.array([2, 5, 3, 8]) for own in range(CLUSTERS)]
    cluster = np.arange(CLUSTERS * EACH) // EACH
    model, tree, counts = planted()

    def above_all_others() -> list[bool]:
        scores = Exhaustive(model, tree, beam=20).scores(histories)
        return [bool(scores[own, COLD[own]] > scores[own, cluster != own].max()) for own in range(CLUSTERS)]

    assert not any(above_all_others()), "training leaves it below, or this test shows nothing"
    assert np.flatnonzero(counts == 0).tolist() == COLD.tolist()
    warm_from_content(model, tree, counts)
    assert all(above_all_others())
    items, _ = TreeRetriever(model, tree, beam=20).recommend(histories, EACH - 4)
    assert (items == COLD[:, None]).any(axis=1).all(), "and the walk finds it among what is left of its cluster"
