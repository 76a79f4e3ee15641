"""What a tree would lose: halves that are the 2-means' own, the same on any machine, whatever shares a chunk with whom."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import halving
from model.halving import Halver

D = 6


def unit(n: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(x: np.ndarray, direction: np.ndarray, power_steps: int, rounds: int) -> np.ndarray:
    """(m,) True for the right half of one cluster: power iteration, then balanced 2-means, in float64."""
    left = (len(x) + 1) // 2
    centred = x - x.mean(axis=0)
    for _ in range(power_steps):
        direction = centred.T @ (centred @ direction)
        direction = direction / max(np.linalg.norm(direction), 1e-12)
    side = None
    for _ in range(rounds):
        new = np.ones(len(x), dtype=bool)
        new[np.argsort(-(x @ direction), kind="stable")[:left]] = False
        if side is not None and (new == side).all():
            break
        side = new
        direction = x[~side].mean(axis=0) - x[side].mean(axis=0)
    assert side is not None
    return side


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 4, 5, 24, 25, 26, 60]), min_size=1, max_size=12), st.integers(0, 2**31))
def test_every_cluster_is_halved_as_it_would_be_alone(sizes: list[int], seed: int) -> None:
    x = unit(sum(sizes), seed)
    halver = Halver(x, power_steps=3, max_rounds=8, seed=seed)
    direction = np.random.default_rng(seed).standard_normal(D, dtype=np.float32).astype(np.float64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    order, halves = halver(halver.first, starts)
    np.testing.assert_array_equal(halver.x, x[order])
    np.testing.assert_array_equal(np.diff(halves), [h for s in sizes for h in ((s + 1) // 2, s // 2) if h])
    for begin, end in itertools.pairwise(starts):
        cluster = halver.first[begin:end]
        side = by_hand(x[cluster].astype(np.float64), direction, 3, 8) if len(cluster) > 1 else np.zeros(1, dtype=bool)
        np.testing.assert_array_equal(order[begin:end], np.concatenate([cluster[~side], cluster[side]]))


@pytest.mark.parametrize("equal", [2, 7, 40, 200])
def test_items_of_like_content_are_parted_by_a_draw_and_not_by_their_numbers(equal: int) -> None:
    x = np.repeat(unit(1, 0), equal, axis=0)
    halver = Halver(x, power_steps=3, max_rounds=8, seed=5)
    order, _ = halver(halver.first, np.array([0, equal]))
    left = order[: (equal + 1) // 2]
    assert set(left) == set(halver.first[: len(left)]) if equal > 2 else len(left) == 1
    assert equal < 7 or set(left) != set(range(len(left)))


def whole(x: np.ndarray, seed: int = 0) -> np.ndarray:
    halver, starts = Halver(x, power_steps=3, max_rounds=8, seed=seed), np.array([0, len(x)])
    order = halver.first
    while (np.diff(starts) > 1).any():
        order, starts = halver(order, starts)
    return order


def test_chunks_and_cores_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = unit(3000, 1)
    expected = whole(x)
    for rows, cores in [(1, 3), (100, 1), (100, 4), (10**6, 2)]:
        monkeypatch.setattr(halving, "CHUNK", rows)
        monkeypatch.setattr(halving, "cpu_threads", lambda cores=cores: cores)
        np.testing.assert_array_equal(whole(x), expected)


def test_a_sample_finds_the_halves_of_a_large_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two planted clumps of 2,000: the sample's direction parts them as all the items' would."""
    rng = np.random.default_rng(3)
    clump = rng.integers(0, 2, 4000)
    clump[:] = rng.permutation(np.repeat([0, 1], 2000))
    x = unit(2, 4)[clump] + 0.1 * rng.standard_normal((4000, D), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    monkeypatch.setattr(halving, "SAMPLE", 128)
    halver = Halver(x, power_steps=3, max_rounds=8, seed=0)
    order, _ = halver(halver.first, np.array([0, 4000]))
    assert len(set(clump[order[:2000]])) == len(set(clump[order[2000:]])) == 1
