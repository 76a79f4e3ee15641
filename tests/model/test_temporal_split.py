"""Before a day and after it: what a team would lose is the truth about tomorrow, told by a model that had already seen it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.errors import BadInput
from model.histories import Histories, TemporalConfig, leave_one_out, temporal_split

ITEMS = 12
users = st.lists(st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 9)), max_size=9), min_size=1, max_size=12)


def flat(logs: list[list[tuple[int, int]]]) -> tuple[Histories, NDArray[np.int32]]:
    """Users of (item, day) as histories and days."""
    offsets = np.concatenate([[0], np.cumsum([len(log) for log in logs])]).astype(np.int64)
    items, days = (np.array([each[c] for log in logs for each in log], dtype=np.int32) for c in (0, 1))
    return Histories(offsets=offsets, items=items, n_items=ITEMS), days


@settings(max_examples=300, deadline=None)
@given(users, st.integers(1, 6), st.sampled_from([0.1, 0.3, 0.6]))
def test_nothing_of_the_held_out_days_trains_and_who_is_asked_is_who_came(
    logs: list[list[tuple[int, int]]], wanted: int, share: float
) -> None:
    """User by user, against a loop that knows only the two days."""
    histories, days = flat(logs)
    try:
        train, validation, test, (validation_from, test_from) = temporal_split(
            histories, days, TemporalConfig(users=wanted, share=share)
        )
    except BadInput:
        return
    assert validation_from < test_from
    asked: dict[str, list[tuple[int, list[int], int]]] = {"validation": [], "test": []}
    for user, log in enumerate(logs):
        reached, before = -1, {validation_from: 0, test_from: 0}
        for place, (_, day) in enumerate(log):
            reached = max(reached, day)
            for first in before:
                before[first] = place + 1 if reached < first else before[first]
        items = [item for item, _ in log]
        assert train[user].tolist() == items[: before[validation_from]]
        assert all(day < validation_from for _, day in log[: before[validation_from]])
        for split, known, first in (
            ("validation", before[test_from], before[validation_from]),
            ("test", len(log), before[test_from]),
        ):
            if known >= 3 and known > first and items[known - 1] not in items[: known - 1]:
                asked[split].append((user, items[: known - 1], items[known - 1]))
    for part in (validation, test):
        found = [(int(u), part.seen[row].tolist(), int(part.targets[row])) for row, u in enumerate(part.users)]
        assert found == asked[part.split]


def test_days_are_added_until_enough_users_came_or_too_much_would_be_held_out() -> None:
    """Forty users of five behaviors, one a day; the last days are 99 for half of them, 97, 96 .. for single others."""
    logs = [
        [(place, day) for place, day in enumerate((1, 2, 3, 4, 99 if user < 20 else 78 + user % 20))]
        for user in range(40)
    ]
    histories, days = flat(logs)

    def test_from(users: int, share: float) -> int:
        return temporal_split(histories, days, TemporalConfig(users=users, share=share))[3][1]

    assert [test_from(20, 0.5), test_from(21, 0.5), test_from(23, 0.5)] == [99, 97, 95]
    # 20 of 200 behaviors are of day 99: one of day 97 more fits in .105 of them, no second
    assert [test_from(23, 0.105), test_from(23, 0.1)] == [97, 99]
    assert test_from(23, 0.01) == 99, "one day is held out however large it is"


def test_its_targets_are_those_that_leave_one_out_holds_back() -> None:
    """So a champion that was trained by the one can be judged by the other."""
    rng = np.random.default_rng(0)
    logs = [
        [(int(i), int(d)) for i, d in zip(rng.permutation(ITEMS)[:6], np.sort(rng.integers(0, 30, 6)), strict=True)]
        for _ in range(50)
    ]
    histories, days = flat(logs)
    test = temporal_split(histories, days)[2]
    whole = leave_one_out(histories)[2]
    last = dict(zip(whole.users.tolist(), whole.targets.tolist(), strict=True))
    assert len(test)
    assert all(last[int(user)] == int(target) for user, target in zip(test.users, test.targets, strict=True))


def test_logs_of_one_day_cannot_be_split_and_the_way_out_is_named() -> None:
    histories, days = flat([[(1, 5), (2, 5), (3, 5)]] * 4)
    with pytest.raises(BadInput, match="MISS_SPLIT=leave-one-out"):
        temporal_split(histories, days)
    with pytest.raises(BadInput, match="3 days do not fit 12 behaviors"):
        temporal_split(histories, days[:3])
    with pytest.raises(BadInput, match=r"share = 1\.5"):
        TemporalConfig(share=1.5)
