"""A user would lose: a rival that is not the same model, or that is beaten because its index forgets."""

from __future__ import annotations

import numpy as np
import pytest
from planted import ring_vectors
from retriever_contract import N_ITEMS, RetrieverContract
from test_scorer import VARIANTS, make_model

from model.errors import BadInput
from model.exhaustive import Exhaustive
from model.index_tree import IndexTree, build_tree
from model.rescore import RetrieveThenRescore
from model.retriever import Retriever
from model.scorer import MISS

ITEMS = 300


class TestRescoreContract(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        tree = build_tree(ring_vectors(N_ITEMS))
        return RetrieveThenRescore(make_model(tree), tree, beam=6)


class TestRescoreThroughAGraphContract(RetrieverContract):
    """The same where the index is too large for its search to see all of it."""

    @pytest.fixture
    def retriever(self) -> Retriever:
        tree = build_tree(ring_vectors(N_ITEMS))
        return RetrieveThenRescore(make_model(tree), tree, beam=6, shortlist=N_ITEMS, ef_search=8)


@pytest.fixture(scope="module")
def trained() -> tuple[MISS, IndexTree]:
    tree = build_tree(ring_vectors(ITEMS))
    return make_model(tree), tree


def users() -> list[np.ndarray]:
    """Histories of 0 to 90 of the 300 items."""
    rng = np.random.default_rng(5)
    return [rng.permutation(ITEMS)[:n] for n in (0, 1, 90, *rng.integers(2, 60, 27))]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_shortlist_of_everything_is_exhaustive(name: str, trained: tuple[MISS, IndexTree]) -> None:
    model, tree = make_model(trained[1], VARIANTS[name]), trained[1]
    wide = RetrieveThenRescore(model, tree, beam=6, shortlist=ITEMS).recommend(users(), 50)
    for a, b in zip(wide, Exhaustive(model, tree, beam=6).recommend(users(), 50), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("ef_search", "least"), [(512, 1.0), (48, 0.97)])
def test_it_is_the_dense_paths_shortlist_in_the_order_of_the_full_score(
    trained: tuple[MISS, IndexTree], ef_search: int, least: float
) -> None:
    model, tree = trained
    dense = Exhaustive(model, tree, beam=6, lifelong=False).recommend(users(), 30)[0]
    full = Exhaustive(model, tree, beam=6).scores(users())
    items, scores = RetrieveThenRescore(model, tree, beam=6, shortlist=30, ef_search=ef_search).recommend(users(), 10)
    share = []
    for row, shortlist in enumerate(dense):
        wanted = shortlist[np.argsort(-full[row, shortlist])][:10]
        share.append(np.isin(items[row], wanted).mean())
        np.testing.assert_allclose(scores[row], full[row, items[row]], atol=1e-5)
    assert np.mean(share) >= least
    best = Exhaustive(model, tree, beam=6).recommend(users(), 10)[0]
    assert not np.array_equal(items, best), "a short shortlist loses something, or this test shows nothing"


def test_excluded_items_take_no_place_on_the_shortlist(trained: tuple[MISS, IndexTree]) -> None:
    """A user who has seen all of the dense path's best is still answered in full."""
    model, tree = trained
    dense = Exhaustive(model, tree, beam=6, lifelong=False)
    best = dense.recommend([np.arange(3)], 60, exclude=[np.zeros(0, np.int64)])[0][0]
    short = RetrieveThenRescore(model, tree, beam=6, shortlist=20)
    items, _ = short.recommend([np.arange(3)], 20, exclude=[best])
    left = dense.recommend([np.arange(3)], 20, exclude=[best])[0]
    assert set(items[0].tolist()) == set(left[0].tolist())


def test_an_empty_shortlist_is_refused(trained: tuple[MISS, IndexTree]) -> None:
    with pytest.raises(BadInput, match="shortlist = 0"):
        RetrieveThenRescore(*trained, beam=6, shortlist=0)
