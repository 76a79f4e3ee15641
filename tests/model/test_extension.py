"""New items in a trained index: what a team would lose if yesterday's items were answered otherwise because of today's, or if
today's could not be found before the next training.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted import make_histories

from model.errors import BadInput
from model.extension import extend, free_places
from model.index_tree import IndexTree, build_tree, check_tree, insert_items
from model.lifelong import LifelongConfig
from model.scorer import MISS, ScorerConfig
from model.transitions import TransitionConfig, followers
from model.tree_retriever import TreeRetriever

ITEMS, DIM, BEAM = 50, 8, 12


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world() -> tuple[MISS, IndexTree, NDArray[np.int64], list[NDArray[np.int32]]]:
    """A model with something in every table, its tree, counts of which some are zero, and histories."""
    rng = np.random.default_rng(0)
    tree = build_tree(unit(rng.standard_normal((ITEMS, DIM))))
    logs = make_histories(80, ITEMS - 5, shortest=3, longest=25)  # the last five items are cold
    counts = np.append(logs.counts(), np.zeros(5, np.int64))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        lifelong = LifelongConfig(kept=16, top_k=8, probes=4, counts=TransitionConfig(followers=12))
        model = MISS(tree, ScorerConfig(d=16, heads=2, layers=1, window=8, hidden=8, dropout=0.0, lifelong=lifelong))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    assert model.transitions is not None
    from model.histories import Histories

    whole = Histories(offsets=logs.offsets, items=logs.items, n_items=ITEMS)
    model.transitions.fill(*followers(whole, lifelong.counts))
    return model.eval(), tree, counts, [logs[user] for user in range(len(logs))]


def new_vectors(tree: IndexTree, near: list[int], *, noise: float = 0.05) -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    return unit(tree.z[tree.item_leaf[near]] + noise * rng.standard_normal((len(near), DIM)))


def test_old_items_are_answered_as_before(world: tuple) -> None:  # type: ignore[type-arg]
    """Same items, same order, same scores to the last digits, once the new ones are set aside."""
    model, tree, counts, histories = world
    larger, grown = extend(model, tree, new_vectors(tree, [1, 7, 20, 33]), counts)
    assert check_tree(grown)["passed"]
    added = np.arange(ITEMS, ITEMS + 4)
    before = TreeRetriever(model, tree, beam=BEAM).recommend(histories, 10)
    after = TreeRetriever(larger, grown, beam=BEAM).recommend(
        histories, 10, exclude=[np.append(h, added) for h in histories]
    )
    assert np.array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() < 1e-5
    mixed, _ = TreeRetriever(larger, grown, beam=BEAM).recommend(histories, 10)
    for row, old in zip(mixed.tolist(), before[0].tolist(), strict=True):
        assert [i for i in row if i in old] == [i for i in old if i in row], "no old item passes another"
    assert np.isin(mixed, added).any()


def test_nothing_that_was_learnt_is_touched(world: tuple) -> None:  # type: ignore[type-arg]
    model, tree, counts, _ = world
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    larger, grown = extend(model, tree, new_vectors(tree, [3, 4]), counts)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items()), "the given model stays"
    assert torch.equal(larger.node_embedding[: tree.n_nodes], model.node_embedding)
    assert torch.equal(larger.node_bias[: tree.n_nodes], model.node_bias)
    assert np.array_equal(grown.z[: tree.n_nodes], tree.z)
    assert np.array_equal(grown.item_leaf[:ITEMS], tree.item_leaf)
    assert np.array_equal(grown.parent[: tree.n_nodes], tree.parent)


def test_a_new_item_stands_where_its_twin_does(world: tuple) -> None:  # type: ignore[type-arg]
    """The same content as a warm item, and no other neighbour: the same embedding and bias, and it is a sibling or near it."""
    model, tree, counts, histories = world
    twin = int(np.argmax(counts))
    larger, grown = extend(model, tree, new_vectors(tree, [twin], noise=0.0), counts, neighbours=1)
    leaf, old = grown.item_leaf[ITEMS], tree.item_leaf[twin]
    assert torch.allclose(larger.node_embedding[leaf], model.node_embedding[old])
    assert torch.allclose(larger.node_bias[leaf], model.node_bias[old])
    history = [np.append(h, ITEMS) for h in histories[:5]]
    items, scores = TreeRetriever(larger, grown, beam=BEAM).recommend(history, 5)
    assert np.isfinite(scores).all(), "it may stand in a history"
    assert (items != ITEMS).all(), "where it is not offered again"
    theirs, same = TreeRetriever(model, tree, beam=BEAM).recommend([np.append(h, twin) for h in histories[:5]], 5)
    kept = [[i for i in row if i not in (twin, ITEMS)][:4] for row in items.tolist()]
    assert kept == [[i for i in row if i not in (twin, ITEMS)][:4] for row in theirs.tolist()], "read as its twin is"
    assert same.shape == scores.shape


def test_an_extension_is_extended_again_and_what_does_not_fit_is_told(world: tuple) -> None:  # type: ignore[type-arg]
    model, tree, counts, histories = world
    room = free_places(tree)
    assert room == 2**tree.depth - ITEMS
    first = extend(model, tree, new_vectors(tree, [5, 6]), counts)
    second, grown = extend(*first, new_vectors(tree, [8]), np.append(counts, [0, 0]))
    assert (grown.n_items, free_places(grown)) == (ITEMS + 3, room - 3)
    items, _ = TreeRetriever(second, grown, beam=BEAM).recommend(
        histories, 10, exclude=[np.append(h, [50, 51, 52]) for h in histories]
    )
    assert np.array_equal(items, TreeRetriever(model, tree, beam=BEAM).recommend(histories, 10)[0])
    with pytest.raises(BadInput, match=f"{room} free leaves"):
        insert_items(tree, new_vectors(tree, [0] * (room + 1)))
    with pytest.raises(BadInput, match="does not fit"):
        extend(model, grown, new_vectors(tree, [0]), counts)


def test_a_parameter_that_depends_on_the_tree_unforeseen_stops_it(world: tuple) -> None:  # type: ignore[type-arg]
    model, tree, counts, _ = world
    other = MISS(tree, model.config)
    other.register_buffer("per_item", torch.zeros(tree.n_items, 2))
    with pytest.raises((BadInput, KeyError)):
        extend(other, tree, new_vectors(tree, [0]), counts)
