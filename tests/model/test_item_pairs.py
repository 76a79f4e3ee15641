"""Pairs say what stood beside what in the training part: counted right, shrunk, the same every time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import BadInput
from model.histories import Histories
from model.item_pairs import ItemPairsConfig, cooccurrence, item_pairs


def histories(users: Sequence[Sequence[int]], n_items: int) -> Histories:
    offsets = np.cumsum([0, *(len(user) for user in users)]).astype(np.int64)
    return Histories(offsets=offsets, items=np.array(list(itertools.chain(*users)), np.int32), n_items=n_items)


def brute_force(users: Sequence[Sequence[int]], n_items: int, window: int, *, decay: bool) -> np.ndarray:
    counts = np.zeros((n_items, n_items))
    for user in users:
        for (p, a), (q, b) in itertools.combinations(enumerate(user), 2):
            if q - p <= window and a != b:
                counts[a, b] += 1 / (q - p) if decay else 1
                counts[b, a] += 1 / (q - p) if decay else 1
    return counts


@settings(max_examples=40, deadline=None)
@given(
    users=st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=5), window=st.integers(1, 9), decay=st.booleans()
)
def test_cooccurrence_equals_brute_force(users: list[list[int]], window: int, decay: bool) -> None:
    counted = cooccurrence(histories(users, 6), window, decay=decay).toarray()
    np.testing.assert_allclose(counted, brute_force(users, 6, window, decay=decay), rtol=1e-5)


def test_no_pair_crosses_from_one_user_to_the_next() -> None:
    pairs = item_pairs(histories([[0, 1], [2, 3]], 4), ItemPairsConfig(window=3))
    assert set(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True)) == {(0, 1), (1, 0), (2, 3), (3, 2)}


def test_shrunk_weight_by_hand_and_order() -> None:
    users = [[0, 1]] * 9 + [[0, 2]]
    pairs = item_pairs(histories(users, 3), ItemPairsConfig(window=1, shrink=3))
    of_zero = pairs.source == 0
    assert pairs.target[of_zero].tolist() == [1, 2]
    np.testing.assert_allclose(pairs.weight[of_zero], [9 / 90**0.5 * 9 / 12, 1 / 10**0.5 * 1 / 4], rtol=1e-5)
    assert len(item_pairs(histories(users, 3), ItemPairsConfig(per_item=1))) == 3


def test_swing_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    users = [rng.choice(8, rng.integers(1, 6), replace=False).tolist() for _ in range(12)]
    pairs = item_pairs(histories(users, 8), ItemPairsConfig(method="swing", shrink=2, per_item=8))
    expected = {}
    for i, j in itertools.permutations(range(8), 2):
        both = [set(user) for user in users if i in user and j in user]
        weight = sum(1 / (2 + len(a & b)) for a, b in itertools.combinations(both, 2))
        if weight:
            expected[i, j] = weight
    found = dict(
        zip(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True), pairs.weight.tolist(), strict=True)
    )
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-5)


@pytest.mark.parametrize("method", ["cooccurrence", "swing"])
@pytest.mark.parametrize("users", [[], [[]], [[0]], [[0, 0, 0]]])
def test_nothing_together_gives_no_pairs(method: str, users: list[list[int]]) -> None:
    pairs = item_pairs(histories(users, 1), ItemPairsConfig(method=method))  # type: ignore[arg-type]
    assert len(pairs) == 0
    assert pairs.n_items == 1


@pytest.mark.parametrize("method", ["cooccurrence", "swing"])
def test_same_input_same_pairs_and_items_bought_together_come_first(method: str) -> None:
    rng = np.random.default_rng(1)
    users = [(rng.permutation(10) + 10 * (user % 5)).tolist() for user in range(60)]  # five groups of ten items
    config = ItemPairsConfig(method=method, per_item=9, swing_users=10)  # type: ignore[arg-type]
    first, again = (item_pairs(histories(users, 50), config) for _ in range(2))
    for name in ("source", "target", "weight"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.source // 10 == first.target // 10).all()
    assert len(first) == 50 * 9


def test_impossible_options_are_refused() -> None:
    with pytest.raises(BadInput, match="'swimg'"):
        ItemPairsConfig(method="swimg")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="window = 0"):
        ItemPairsConfig(window=0)
