"""A reader would lose: the picture of another table under this one's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.pictures import SWITCHED_OFF, draw

TOLD = {"dataset": "walks", "split": "test", "options": {}}


def found(*names: str, **more: Any) -> list[dict[str, Any]]:
    figures = {"metric": "ndcg@10", "mean_difference": 0.01, "low95": 0.005, "high95": 0.02}
    return [{"against": name} | figures | more for name in names]


COMPARED = found("MISS, raw tree", "TDM (random tree)", "EASE")
GAINED = found(SWITCHED_OFF, "EASE", slice="1-49", users=9)


def test_pictures_of_every_budget_have_names_of_their_own(tmp_path: Path) -> None:
    draw(tmp_path, TOLD, COMPARED, GAINED, simulated=False)
    assert {p.name for p in tmp_path.iterdir()} == {"ablations-walks.png", "gain-by-length-walks.png"}
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    draw(tmp_path, TOLD | {"options": {"beam": 9}}, COMPARED[::-1], [], simulated=False)
    other = {p.name for p in tmp_path.iterdir()} - set(before)
    assert len(other) == 1
    assert other.pop().startswith("ablations-walks-")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_rivals_are_no_ablations_and_validation_is_not_shown(tmp_path: Path) -> None:
    draw(tmp_path, TOLD, found("EASE", "SASRec (exact)", SWITCHED_OFF), [], simulated=False)
    draw(tmp_path, TOLD | {"split": "validation"}, COMPARED, GAINED, simulated=False)
    assert not list(tmp_path.iterdir())
