"""A user would lose: a fair comparison with a champion that was trained on yesterday's catalogue."""

from __future__ import annotations

import numpy as np
import pytest
from planted import ring_vectors
from retriever_contract import N_ITEMS, RetrieverContract, histories, ring_train
from test_scorer import make_model

from model.baselines import ItemKNN, Popularity
from model.errors import BadInput
from model.index_tree import build_tree
from model.remapped import Remapped
from model.retriever import Retriever
from model.tree_retriever import TreeRetriever

IDS = np.array([f"i{index:03d}" for index in range(N_ITEMS)])
EMPTY = np.zeros(0, np.int64)


class TestRemappedContract(RetrieverContract):
    """Over the same items in another order."""

    @pytest.fixture
    def retriever(self) -> Retriever:
        order = np.random.default_rng(0).permutation(N_ITEMS)
        return Remapped(ItemKNN.fit(ring_train()), inner_ids=IDS, outer_ids=IDS[order])


def test_over_equal_catalogues_the_answers_are_the_inner_ones() -> None:
    inner = ItemKNN.fit(ring_train())
    outer = Remapped(inner, inner_ids=IDS, outer_ids=IDS)
    assert (outer.name, outer.n_items, outer.beam) == (inner.name, N_ITEMS, N_ITEMS)
    for gone in (None, [np.array([1, 2])] * 64):
        for mine, theirs in zip(
            outer.recommend(histories(), 12, exclude=gone), inner.recommend(histories(), 12, exclude=gone), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_in_another_order_the_answers_name_the_same_items() -> None:
    inner = ItemKNN.fit(ring_train())
    order = np.random.default_rng(1).permutation(N_ITEMS)
    outer = Remapped(inner, inner_ids=IDS, outer_ids=IDS[order])
    place = np.argsort(order)
    mine, my_scores = outer.recommend([place[h] for h in histories()], 10)
    theirs, scores = inner.recommend(histories(), 10)
    found = theirs >= 0
    np.testing.assert_array_equal(mine >= 0, found)
    np.testing.assert_array_equal(IDS[order][mine[found]], IDS[theirs[found]])
    np.testing.assert_array_equal(my_scores, scores)


def test_new_items_are_never_returned_and_say_nothing() -> None:
    inner = ItemKNN.fit(ring_train())
    newer = np.sort(np.concatenate([IDS, ["a-new", "i005x", "z-new"]]))
    outer = Remapped(inner, inner_ids=IDS, outer_ids=newer)
    old = np.searchsorted(newer, IDS)
    new = np.setdiff1d(np.arange(len(newer)), old)
    items, scores = outer.recommend([EMPTY, np.array([*new, old[4]]), new], len(newer))
    assert not np.isin(items, new).any()
    assert np.isneginf(scores[items < 0]).all()
    assert (items >= 0).sum(axis=1).tolist() == [N_ITEMS, N_ITEMS - 1, N_ITEMS]
    np.testing.assert_array_equal(items[0], items[2])
    np.testing.assert_array_equal(items[1][:N_ITEMS], [*old[inner.recommend([np.array([4])], N_ITEMS - 1)[0][0]], -1])


def test_removed_items_are_not_returned_and_others_keep_their_place() -> None:
    counts = np.arange(N_ITEMS, 0, -1)  # item 0 is the most popular
    outer = Remapped(Popularity(counts), inner_ids=IDS, outer_ids=np.delete(IDS, [1, 3]))
    items, scores = outer.recommend([EMPTY], 6)
    assert items[0].tolist() == [0, -1, 1, -1, 2, 3]
    assert np.isneginf(scores[0][[1, 3]]).all()
    assert scores[0][[0, 2, 4, 5]].tolist() == [40, 38, 36, 35]
    assert outer.recommend([np.array([0, 1])], 4)[0][0].tolist() == [-1, -1, 2, 3]


def test_the_inner_beam_is_the_outer_one() -> None:
    tree = build_tree(ring_vectors(N_ITEMS))
    outer = Remapped(TreeRetriever(make_model(tree), tree, beam=6), inner_ids=IDS, outer_ids=[*IDS, "j"])
    assert outer.beam == 6
    assert (outer.recommend([np.array([1, 40])], 6)[0] >= 0).all()
    with pytest.raises(BadInput, match="k = 7"):
        outer.recommend([np.array([1])], 7)
    with pytest.raises(BadInput, match="k = 42"):
        outer.recommend([np.array([1])], 42)


def test_the_inner_retriever_is_asked_about_its_own_items_only(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, asked = Popularity(np.ones(N_ITEMS)), []
    answer = inner.recommend

    def spy(users: list, k: int, *, exclude: list | None = None) -> tuple:
        asked.extend([*users, *(exclude or [])])
        return answer(users, k, exclude=exclude)

    monkeypatch.setattr(inner, "recommend", spy)
    outer = Remapped(inner, inner_ids=IDS, outer_ids=["a-new", *IDS])
    outer.recommend([np.array([0, 3, 0, 1])], 2, exclude=[np.array([5, 0])])
    assert [each.tolist() for each in asked] == [[2, 0], [4]]
