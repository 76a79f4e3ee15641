"""A user would lose: an oracle that reads users differently from the search, so a difference says nothing of the walk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import ring_vectors
from retriever_contract import N_ITEMS, RetrieverContract
from test_scorer import ITEMS, VARIANTS, make_model

from model import exhaustive
from model.exhaustive import Exhaustive
from model.index_tree import IndexTree, build_tree
from model.retriever import Retriever
from model.tree_retriever import TreeRetriever


@pytest.fixture(scope="module")
def tree() -> IndexTree:
    return build_tree(ring_vectors(ITEMS))


class TestExhaustiveContract(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        tree = build_tree(ring_vectors(N_ITEMS))
        return Exhaustive(make_model(tree), tree, beam=6)


class TestDensePathContract(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        tree = build_tree(ring_vectors(N_ITEMS))
        return Exhaustive(make_model(tree), tree, beam=6, lifelong=False)


def users(count: int = 30) -> list[np.ndarray]:
    """Histories of 0 to 40 of the 41 items: longer than what the units keep, most of them."""
    rng = np.random.default_rng(2)
    return [rng.permutation(ITEMS)[:n] for n in (0, 1, 40, *rng.integers(2, 39, count - 3))]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_beam_as_wide_as_the_catalogue_finds_the_same(tree: IndexTree, name: str) -> None:
    model = make_model(tree, VARIANTS[name])
    wide, every = TreeRetriever(model, tree, beam=ITEMS), Exhaustive(model, tree, beam=ITEMS)
    for a, b in zip(wide.recommend(users(), 15), every.recommend(users(), 15), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("beam", [2, 6])
def test_what_a_narrow_beam_finds_it_has_scored_the_same(tree: IndexTree, beam: int) -> None:
    """The walk alone is left to differ: same probes, same kept behaviors, same tables."""
    model = make_model(tree)
    items, scores = TreeRetriever(model, tree, beam=beam).recommend(users(), beam)
    every = Exhaustive(model, tree, beam=beam).scores(users())
    found = items >= 0
    exact = np.take_along_axis(every, np.maximum(items, 0), axis=1)
    np.testing.assert_allclose(scores[found], exact[found], atol=1e-5)
    best, _ = Exhaustive(model, tree, beam=beam).recommend(users(), beam)
    assert not np.array_equal(items, best), "an untrained tree misleads a narrow beam, or this test shows nothing"


def test_where_the_search_starts_decides_what_is_read(tree: IndexTree) -> None:
    model = make_model(tree)
    narrow, wide = (Exhaustive(model, tree, beam=beam).scores(users()) for beam in (1, ITEMS))
    long = [len(user) > model.config.lifelong.kept for user in users()]
    assert not np.allclose(narrow[long], wide[long], atol=1e-3)
    np.testing.assert_allclose(narrow[~np.array(long)], wide[~np.array(long)], atol=1e-5)


def test_slices_change_nothing(tree: IndexTree, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = Exhaustive(make_model(tree), tree, beam=6)
    whole = retriever.scores(users())
    monkeypatch.setattr(exhaustive, "SCORED", 100)  # three items at a time
    np.testing.assert_allclose(retriever.scores(users()), whole, atol=1e-5)


def test_dense_path_is_the_product_and_what_is_left_without_the_units(tree: IndexTree) -> None:
    model = make_model(tree)
    found = Exhaustive(model, tree, beam=6, lifelong=False).scores(users())
    short = make_model(tree, VARIANTS["short only"])
    short.load_state_dict({name: model.state_dict()[name] for name in short.state_dict()})
    np.testing.assert_allclose(found, Exhaustive(short, tree, beam=6).scores(users()), atol=1e-5)
    with torch.no_grad():
        tables = model.tables()
        h = model.window(torch.from_numpy(users()[2][None, -model.config.window :].astype(np.int64)), tables)[0, -1]
        by_hand = [float(h @ tables.e[leaf] + tables.bias[leaf]) for leaf in tree.item_leaf]
    np.testing.assert_allclose(found[2], by_hand, atol=1e-5)
    assert not np.allclose(found, Exhaustive(model, tree, beam=6).scores(users()), atol=1e-2)


def test_tables_can_tell_them_apart(tree: IndexTree) -> None:
    model = make_model(tree)
    assert Exhaustive(model, tree, beam=6).name == "MISS (every item)"
    assert Exhaustive(model, tree, beam=6, lifelong=False).name == "dense path (every item)"
