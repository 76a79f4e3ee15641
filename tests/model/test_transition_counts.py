"""A user would lose: what really follows what. Counts that are wrong mislead whatever reads them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import make_histories

from model.baselines import ItemKNN, ItemKNNConfig
from model.histories import Histories
from model.item_pairs import cooccurrence
from model.transitions import TransitionConfig, followers


def of(rows: list[list[int]], n_items: int) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return Histories(offsets=offsets, items=np.array([i for row in rows for i in row], dtype=np.int32), n_items=n_items)


def pairs(row: list[int], n_items: int, window: int, backward: float) -> np.ndarray:
    """(N, N) of one history: i before j counts 1/distance, the other order `backward` of it."""
    weight = np.zeros((n_items, n_items))
    for p, a in enumerate(row):
        for q in range(p + 1, min(p + window, len(row) - 1) + 1):
            if row[q] != a:
                weight[a, row[q]] += 1 / (q - p)
                weight[row[q], a] += backward / (q - p)
    return weight


def counted(rows: list[list[int]], n_items: int, config: TransitionConfig) -> np.ndarray:
    """(N, N) weight of every transition: shrunk cosine of what `pairs` counts."""
    weight, had = np.zeros((n_items, n_items)), np.zeros(n_items)
    for row in rows:
        weight += pairs(row, n_items, config.window, config.backward)
        for item in row:
            had[item] += 1
    norm = np.sqrt(np.outer(had + config.shrink, had + config.shrink))
    return np.divide(weight, norm, out=np.zeros_like(weight), where=weight > 0)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 6), max_size=9), max_size=5),
    window=st.integers(1, 10),
    backward=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    shrink=st.sampled_from([0.0, 1.0, 20.0]),
    k=st.integers(1, 9),
)
def test_followers_are_the_heaviest_of_what_was_counted(
    rows: list[list[int]], window: int, backward: float, shrink: float, k: int
) -> None:
    n = 7
    config = TransitionConfig(window=window, backward=backward, shrink=shrink, followers=k)
    wanted = counted(rows, n, config)
    items, weights = followers(of(rows, n), config)
    assert items.shape == weights.shape == (n, k)
    for item in range(n):
        kept = items[item][items[item] < n]
        assert len(set(kept.tolist())) == len(kept) == min(k, int((wanted[item] > 0).sum()))
        assert (items[item][len(kept) :] == n).all(), "nobody: the place after the last item"
        assert (weights[item][len(kept) :] == 0).all()
        np.testing.assert_allclose(weights[item][: len(kept)], wanted[item, kept], rtol=1e-5)
        np.testing.assert_allclose(weights[item][: len(kept)], np.sort(wanted[item])[::-1][: len(kept)], rtol=1e-5)


def test_the_other_order_counts_less() -> None:
    """Who tells before from after answers with the next episode, not with the one before."""
    items, weights = followers(of([[0, 1, 2]] * 5, 3), TransitionConfig(window=1, shrink=0.0, followers=2))
    assert items[1].tolist() == [2, 0]
    np.testing.assert_allclose(weights[1], [1.0, 0.5])
    items, weights = followers(of([[0, 1, 2]] * 5, 3), TransitionConfig(window=1, backward=0.0, followers=2))
    assert items.tolist() == [[1, 3], [2, 3], [3, 3]], "at 0 nothing leads back, and no place is spent on it"


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=5),
    window=st.integers(1, 9),
    backward=st.sampled_from([0.0, 0.25, 1.0, 3.0]),
)
def test_directed_counts_are_brute_force_and_no_place_is_kept_for_nothing(
    rows: list[list[int]], window: int, backward: float
) -> None:
    found = cooccurrence(of(rows, 6), window, decay=True, backward=backward)
    bare = sum((pairs(row, 6, window, backward) for row in rows), np.zeros((6, 6)))
    np.testing.assert_allclose(found.toarray(), bare, rtol=1e-5)
    assert (found.data > 0).all()
    symmetric = cooccurrence(of(rows, 6), window, decay=True, backward=1.0).toarray()
    np.testing.assert_allclose(symmetric, symmetric.T)


@pytest.mark.parametrize("backward", [0.0, 0.5, 1.0])
def test_a_windowed_item_knn_weighs_the_other_order_the_same_way(backward: float) -> None:
    """A log of walks 0, 1, 2, ..: after 10 comes 11, and 9 by as much as the other order counts."""
    walks = of([[(start + step) % 30 for step in range(5)] for start in range(30)], 30)
    retriever = ItemKNN.fit(walks, ItemKNNConfig(window=1, backward=backward, shrink=0.0))
    items, scores = retriever.recommend([np.array([10])], 30)
    score = dict(zip(items[0].tolist(), scores[0].tolist(), strict=True))
    assert score[11] == pytest.approx(4 / 5)  # four of the five histories that hold 10 go on
    assert score[9] == pytest.approx(backward * 4 / 5) if backward else score[9] < 0
    assert sum(s > 0 for s in scores[0]) == (2 if backward else 1)


@pytest.mark.parametrize("rows", [[], [[]], [[0], [3]], [[2, 2, 2]]])
def test_logs_without_transitions_lead_nowhere(rows: list[list[int]]) -> None:
    items, weights = followers(of(rows, 4), TransitionConfig(followers=3))
    assert (items == 4).all()
    assert (weights == 0).all()


def test_same_logs_same_bytes() -> None:
    first, again = (followers(make_histories(40, 30, seed=3), TransitionConfig(followers=6)) for _ in range(2))
    assert [a.tobytes() for a in first] == [a.tobytes() for a in again]
