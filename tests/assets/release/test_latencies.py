"""A candidate must not be refused because the machine was busy while it, and not the champion, was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.release import verdict
from model.gate import GateConfig

OURS, THEIRS = Path("ours"), Path("theirs")


@pytest.mark.parametrize(
    ("looks", "expected", "probes"),
    [
        ([(10.0, 10.0)], (10.0, 10.0), 1),  # as fast: nothing is measured twice
        ([(30.0, 10.0), (10.5, 11.0)], (10.5, 10.0), 2),  # busy while the first look was taken
        ([(30.0, 10.0), (29.0, 9.0), (28.0, 9.5)], (28.0, 9.0), 3),  # slow, however often one looks
        ([(30.0, 10.0), (29.0, None), (28.0, 10.0)], (28.0, 10.0), 3),
        ([(10.0, None)], (10.0, None), 1),  # the champion's bundle is torn
        ([(None, None)], (None, None), 1),  # ours is
    ],
)
def test_both_are_measured_again_where_the_first_look_says_slow(
    monkeypatch: pytest.MonkeyPatch, looks: list[tuple[float | None, float | None]], expected: tuple, probes: int
) -> None:
    left = list(looks)

    def probe(bundle: Path, *, beside: Path) -> dict:
        assert (bundle, beside) == (OURS, THEIRS)
        ours, theirs = left.pop(0)
        return {"p95_ms": ours} | (
            {} if ours is None else {"beside": {"error": "torn"} if theirs is None else {"p95_ms": theirs}}
        )

    monkeypatch.setattr(verdict, "probe", probe)
    assert verdict.latencies(OURS, THEIRS, good=GateConfig().as_fast) == expected
    assert len(looks) - len(left) == probes
