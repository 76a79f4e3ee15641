"""What every retriever promises, as tests: derive a class `Test...` from the contract and give it a `retriever` fixture.

- Data: users who walk along a ring of 40 items; one with an empty history and one who had an item three times among them.
- A retriever whose beam is smaller than the catalogue is out of reach here: k goes up to N.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import make_histories

from model.errors import BadInput
from model.histories import Histories
from model.retriever import Retriever

N_ITEMS = 40
NOTHING = np.zeros(0, np.int64)


def ring_train() -> Histories:
    """What the retrievers under contract are fitted on."""
    return make_histories(120, N_ITEMS, seed=3, longest=20)


def histories() -> list[np.ndarray]:
    """64 users that were not trained on."""
    walks = make_histories(62, N_ITEMS, seed=4, longest=20)
    return [NOTHING, np.array([7, 3, 7, 9, 7]), *(walks[user] for user in range(62))]


def assert_same(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray], what: str) -> None:
    """Equal items, and scores equal up to the rounding of float32 sums."""
    np.testing.assert_array_equal(found[0], wanted[0], err_msg=what)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-5, err_msg=what)


class RetrieverContract:
    """Derive from it and override `retriever`."""

    @pytest.fixture
    def retriever(self) -> Retriever:
        raise NotImplementedError("a class under contract brings its retriever")

    def test_a_batch_is_answered_as_one_by_one(self, retriever: Retriever) -> None:
        users = histories()
        together = retriever.recommend(users, 10)
        assert together[0].shape == together[1].shape == (64, 10)
        assert (together[0].dtype, together[1].dtype) == (np.int64, np.float32)
        for size in (1, 2, 7):
            parts = [retriever.recommend(users[at : at + size], 10) for at in range(0, 64, size)]
            joined = (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
            assert_same(joined, together, f"batches of {size}")

    def test_an_empty_history_and_no_users_are_answered(self, retriever: Retriever) -> None:
        items, scores = retriever.recommend([NOTHING], N_ITEMS)
        assert sorted(items[0].tolist()) == list(range(N_ITEMS))
        assert np.isfinite(scores).all()
        assert retriever.recommend([], 3)[0].shape == (0, 3)

    def test_nothing_seen_comes_back_nothing_comes_twice_and_the_best_comes_first(self, retriever: Retriever) -> None:
        users = histories()
        for k in (1, 5, N_ITEMS):
            items, scores = retriever.recommend(users, k)
            for row, user in enumerate(users):
                seen = set(user.tolist())
                found = items[row][items[row] >= 0].tolist()
                assert not set(found) & seen, (k, row)
                assert len(set(found)) == len(found) == min(k, N_ITEMS - len(seen)), (k, row)
                assert (np.diff(scores[row][: len(found)]) <= 0).all(), (k, row)

    def test_fewer_items_are_the_front_of_more(self, retriever: Retriever) -> None:
        users = histories()
        items, scores = retriever.recommend(users, N_ITEMS)
        assert_same(retriever.recommend(users, 4), (items[:, :4], scores[:, :4]), "k = 4 against k = N")

    def test_exclude_takes_the_place_of_the_history(self, retriever: Retriever) -> None:
        history = np.array([5, 6, 7])
        free, scores = retriever.recommend([history], N_ITEMS, exclude=[NOTHING])
        assert sorted(free[0].tolist()) == list(range(N_ITEMS)), "what was seen may come back"
        gone = free[0][[0, 2, 2]]
        items, kept = retriever.recommend([history], N_ITEMS, exclude=[gone])
        left = ~np.isin(free[0], gone)
        assert_same((items[:, :-2], kept[:, :-2]), (free[:, left], scores[:, left]), "all but the excluded")
        assert items[0, -2:].tolist() == [-1, -1]

    @pytest.mark.parametrize("k", [0, -1, N_ITEMS + 1])
    def test_k_out_of_range_is_refused_by_value(self, retriever: Retriever, k: int) -> None:
        with pytest.raises(BadInput, match=f"k = {k} "):
            retriever.recommend([np.array([1])], k)

    def test_the_same_question_gets_the_same_answer(self, retriever: Retriever) -> None:
        users = histories()
        kept = [user.copy() for user in users]
        first, second = retriever.recommend(users, 10), retriever.recommend(users, 10)
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
        for user, copy in zip(users, kept, strict=True):
            np.testing.assert_array_equal(user, copy, err_msg="the caller's arrays are the caller's")

    def test_where_few_are_left_the_rest_is_empty(self, retriever: Retriever) -> None:
        items, scores = retriever.recommend([np.arange(N_ITEMS - 3), np.arange(N_ITEMS)], 5)
        assert set(items[0][:3].tolist()) == {N_ITEMS - 3, N_ITEMS - 2, N_ITEMS - 1}
        assert items[0][3:].tolist() == [-1, -1]
        assert items[1].tolist() == [-1] * 5
        assert np.isfinite(scores[0][:3]).all()
        assert np.isneginf(scores[0][3:]).all()
        assert np.isneginf(scores[1]).all()


class SavedRetrieverContract(RetrieverContract):
    """The same for classes with `save(folder)` and `load(folder)`."""

    def test_saved_and_loaded_it_answers_the_same(self, retriever: Any, tmp_path: Path) -> None:
        retriever.save(tmp_path)
        again = type(retriever).load(tmp_path)
        assert (again.name, again.n_items) == (retriever.name, retriever.n_items)
        before, after = (each.recommend(histories(), N_ITEMS) for each in (retriever, again))
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_array_equal(before[1], after[1])
