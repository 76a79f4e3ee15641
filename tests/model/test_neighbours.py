"""Neighbours are exact, never the item itself, and say truthfully what a tree keeps together."""

from __future__ import annotations

import numpy as np
import pytest

from model.errors import BadInput
from model.neighbours import kept_in_subtree, near_duplicates, nearest


def unit(size: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(size, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_nearest_equals_brute_force_twice() -> None:
    vectors = unit(300)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    for _ in range(2):
        index, similarity = nearest(vectors, 10)
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_allclose(similarity, np.take_along_axis(scores, expected, axis=1), atol=1e-5)


def test_an_item_is_never_its_own_neighbour_even_among_many_duplicates() -> None:
    vectors = np.repeat(unit(3), 20, axis=0)
    index, similarity = nearest(vectors, 5)
    assert not (index == np.arange(60)[:, None]).any()
    np.testing.assert_allclose(similarity, 1, atol=1e-5)
    assert all(len(set(row)) == 5 for row in index.tolist())


@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_small_catalogues_are_padded(size: int) -> None:
    index, similarity = nearest(unit(size), 4)
    others = max(size - 1, 0)
    assert index.shape == similarity.shape == (size, 4)
    assert (index[:, :others] >= 0).all()
    assert (index[:, others:] == -1).all()
    assert np.isneginf(similarity[:, others:]).all()


def test_nonsense_is_refused() -> None:
    with pytest.raises(BadInput, match="k = 0"):
        nearest(unit(3), 0)
    broken = unit(3)
    broken[1, 2] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        nearest(broken, 1)
    with pytest.raises(BadInput, match=r"threshold = 1\.5"):
        near_duplicates(unit(3), 1.5)
    with pytest.raises(BadInput, match="do not fit"):
        kept_in_subtree(np.zeros((3, 1), np.int64), np.zeros((2, 4), np.int64))


def test_kept_in_subtree_counts_by_hand() -> None:
    neighbours = np.array([[1, 2], [0, 3], [3, -1], [2, 0]])
    ancestors = np.array([[0, 0, 0, 0], [1, 1, 2, 2], [3, 4, 5, 6]])  # root, two halves, leaves
    np.testing.assert_allclose(kept_in_subtree(neighbours, ancestors), [1, 4 / 7, 0])
    assert kept_in_subtree(np.full((1, 3), -1), np.zeros((2, 1), np.int64)).tolist() == [1, 1]


def test_near_duplicates_are_all_found_once_and_ordered() -> None:
    vectors = unit(200, seed=1)
    vectors[7] = vectors[150]
    first, second, similarity = near_duplicates(vectors, 0.8)
    scores = np.triu(vectors @ vectors.T, 1)
    expected = {(int(a), int(b)) for a, b in np.argwhere(scores >= 0.8)}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert (first[0], second[0]) == (7, 150)
    assert (np.diff(similarity) <= 0).all()
    assert near_duplicates(unit(1), 0.9)[0].size == 0
