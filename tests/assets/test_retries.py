"""Waiting where it helps: what a team would lose is a night's run to a file that was held for a second, or an hour to a typo."""

from typing import Any

import dagster as dg
import pytest

from assets import retries
from model.errors import BadInput, Busy


def _tried(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> tuple[int, Exception | None, list[Any]]:
    """Times an asset was run, what it failed with, and the events of its retries."""
    monkeypatch.setattr(retries, "AGAIN_S", 0.01)
    left, times = list(errors), 0

    @dg.asset
    @retries.patient
    def held(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        nonlocal times
        times += 1
        if left:
            raise left.pop(0)
        return dg.MaterializeResult(metadata={"rows": 1})

    with dg.DagsterInstance.ephemeral() as instance:
        try:
            done = dg.materialize([held], instance=instance)
        except Exception as error:
            return times, error, []
        return times, None, done.filter_events(lambda event: event.is_step_up_for_retry)


def test_what_is_busy_is_tried_again_and_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    times, error, waited = _tried(monkeypatch, [Busy("held by 12"), Busy("held by 13")])
    assert error is None
    assert times == 3
    assert len(waited) == 2


def test_what_stays_busy_fails_with_its_own_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    times, error, _ = _tried(monkeypatch, [Busy(f"held by {n}") for n in range(9)])
    assert times == retries.TIMES + 1
    assert isinstance(error, Busy)
    assert str(error) == f"held by {retries.TIMES}"


def test_what_would_fail_again_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (BadInput("no such item"), ValueError("a bug")):
        times, error, _ = _tried(monkeypatch, [wrong])
        assert times == 1
        assert error is wrong
