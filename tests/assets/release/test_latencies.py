"""A candidate must not be refused because the machine was busy while it, and not the champion, was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.release import verdict
from model.gate import GateConfig

OURS, THEIRS = Path("ours"), Path("theirs")


@pytest.mark.parametrize(
    ("first", "later", "expected", "probes"),
    [
        (10.0, {THEIRS: [10.0]}, (10.0, 10.0), 1),  # as fast: nothing is measured twice
        (30.0, {THEIRS: [10.0, 11.0], OURS: [10.5]}, (10.5, 10.0), 3),  # busy while the first was taken
        (30.0, {THEIRS: [10.0, 9.0, 9.5], OURS: [29.0, 28.0]}, (28.0, 9.0), 5),  # slow, however often one looks
        (30.0, {THEIRS: [10.0, None, 10.0], OURS: [29.0, None]}, (29.0, 10.0), 5),
        (None, {THEIRS: [10.0]}, (None, 10.0), 1),
        (10.0, {THEIRS: [None]}, (10.0, None), 1),
    ],
)
def test_both_are_measured_again_in_turn_where_the_first_look_says_slow(
    monkeypatch: pytest.MonkeyPatch, first: float | None, later: dict, expected: tuple, probes: int
) -> None:
    asked: list[Path] = []

    def probe(bundle: Path) -> dict:
        asked.append(bundle)
        return {"p95_ms": later[bundle].pop(0)}

    monkeypatch.setattr(verdict, "probe", probe)
    assert verdict.latencies(OURS, THEIRS, first, good=GateConfig().as_fast) == expected
    assert len(asked) == probes
