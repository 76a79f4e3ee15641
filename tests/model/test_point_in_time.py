"""Histories are point in time: no training row sees the future. A model that has seen it looks good until the day it serves.

Every behavior is an item of its own here, numbered user by user in the order of time, so that an item says when it was.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.dense_training import seen_before, tensor, windows
from model.histories import Histories, leave_one_out
from model.item_pairs import ItemPairsConfig, item_pairs
from model.lifelong_training import LifelongTraining, _samples, tail_lengths
from model.transitions import TransitionConfig, followers

LENGTHS = st.lists(st.integers(0, 25), min_size=1, max_size=8).filter(any)
SEEDS = st.integers(0, 2**16)


def timed(lengths: list[int]) -> Histories:
    """Users of these lengths; item i is the i-th behavior of all."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(offsets=offsets, items=np.arange(offsets[-1], dtype=np.int32), n_items=int(offsets[-1]))


def owner(histories: Histories, items: np.ndarray) -> np.ndarray:
    """User of each behavior."""
    return np.searchsorted(histories.offsets, items, side="right")


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 4), SEEDS)
def test_a_dense_target_sees_only_what_its_user_did_before(
    lengths: list[int], window: int, batch: int, seed: int
) -> None:
    train = timed(lengths)
    rows = 0
    for inputs, targets in windows(train, window, batch, np.random.default_rng(seed)):
        visible = seen_before(tensor(inputs)).numpy()  # (B, S, S) what is before each target
        for row, column in zip(*np.nonzero(targets >= 0), strict=True):
            target = targets[row, column]
            before = visible[row, column]
            before = before[before >= 0]
            assert (before < target).all()
            assert (owner(train, before) == owner(train, np.array([target]))).all()
            # all of the window up to the target, in the order of time, and nothing left out between
            assert before.tolist() == list(range(target - len(before), target))
            rows += 1
    assert rows == sum(min(length, window) for length in lengths)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 8), st.integers(1, 30), SEEDS)
def test_a_lifelong_target_is_of_the_tail_and_sees_only_what_was_before(
    lengths: list[int], tail: int, after: int, longest: int, seed: int
) -> None:
    train = timed(lengths)
    config = LifelongTraining(tail=tail, tail_after=after, batch=3, max_history=longest)
    own = train.drop_last(tail_lengths(train, config))  # what the dense path has had as targets
    found = []
    for before, targets in _samples(train, config, np.random.default_rng(seed)):
        for history, target in zip(before, targets, strict=True):
            assert history.tolist() == list(range(target - len(history), target))
            assert (owner(train, history) == owner(train, np.array([target]))).all()
            assert target not in own.items
            found.append(int(target))
    assert sorted(found) == sorted(set(train.items.tolist()) - set(own.items.tolist())), "each of the tail once"


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=15), min_size=2, max_size=6), SEEDS)
def test_another_future_changes_nothing_that_is_learned_from(rows: list[list[int]], seed: int) -> None:
    """The last two behaviors of every user are exchanged: training histories, item pairs and counted transitions stay."""
    rng = np.random.default_rng(seed)
    other = [[*row[:-2], *rng.integers(0, 8, 2).tolist()] for row in rows]

    def learned(given_: list[list[int]]) -> list[np.ndarray]:
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in given_])]).astype(np.int64)
        items = np.array([item for row in given_ for item in row], dtype=np.int32)
        train, _, _ = leave_one_out(Histories(offsets=offsets, items=items, n_items=8))
        pairs = item_pairs(train, ItemPairsConfig())
        return [
            train.offsets,
            train.items,
            pairs.source,
            pairs.target,
            pairs.weight,
            *followers(train, TransitionConfig()),
        ]

    for one, another in zip(learned(rows), learned(other), strict=True):
        assert np.array_equal(one, another)
