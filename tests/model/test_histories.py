"""A user would lose: an honest split. What is tested must never have been seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import BadInput
from model.histories import EvaluationSet, Histories, leave_one_out, left_padded, with_targets


def _of(rows: list[list[int]], n_items: int = 10) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return Histories(offsets=offsets, items=np.array([i for row in rows for i in row], dtype=np.int32), n_items=n_items)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=8))
def test_split_gives_each_user_back_in_order_and_never_shows_the_target(rows: list[list[int]]) -> None:
    train, validation, test = leave_one_out(_of(rows))
    assert len(train) == len(rows)
    for part, back in ((validation, 2), (test, 1)):
        for i, user in enumerate(part.users):
            row = rows[int(user)]
            assert part.targets[i] == row[-back]
            assert list(part.seen[i]) == row[:-back]
            assert part.targets[i] not in part.seen[i]
    for user, row in enumerate(rows):
        assert list(train[user]) == (row[:-2] if len(row) >= 3 else row)
    # a user is left out exactly where there is too little, or where the target had been seen
    expected = [u for u, row in enumerate(rows) if len(row) >= 3 and row[-1] not in row[:-1]]
    assert list(test.users) == expected


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=8))
def test_training_on_the_validation_item_too_still_never_shows_the_test_target(rows: list[list[int]]) -> None:
    train, validation, test = leave_one_out(_of(rows))
    refit = with_targets(train, validation)
    for user, row in enumerate(rows):
        given = user in validation.users
        assert list(refit[user]) == (row[:-1] if given else list(train[user]))
    for i, user in enumerate(test.users):
        assert test.targets[i] not in refit[int(user)]


def test_histories_outside_the_catalogue_are_refused() -> None:
    with pytest.raises(BadInput, match="12"):
        _of([[1, 12]])
    with pytest.raises(BadInput, match="offsets"):
        Histories(offsets=np.array([0, 3]), items=np.array([1], dtype=np.int32), n_items=4)


def test_left_padding_keeps_the_newest() -> None:
    padded = left_padded([np.array([1, 2, 3]), np.array([], dtype=int), np.array([7])], 2)
    assert padded.tolist() == [[2, 3], [-1, -1], [-1, 7]]
    assert left_padded([]).shape == (0, 1)
    assert left_padded([np.array([], dtype=int)]).shape == (1, 1)


def test_round_trip(tmp_path: Path) -> None:
    histories = _of([[1, 2, 3], [], [4]])
    histories.save(tmp_path / "h.npz")
    assert Histories.load(tmp_path / "h.npz").items.tolist() == [1, 2, 3, 4]
    _, _, test = leave_one_out(histories)
    test.save(tmp_path / "t.npz")
    again = EvaluationSet.load(tmp_path / "t.npz")
    assert (again.split, again.targets.tolist(), again.seen.items.tolist()) == ("test", [3], [1, 2])
