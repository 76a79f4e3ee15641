"""What a reader of a results file would lose: a target said to be met that is not, and where it was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measured, performance
from model.files import read_json


def test_a_results_file_holds_rows_targets_and_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    rows = [{"items": 100_000, "seconds": 1.23456, "peer": None}, {"items": 20, "fits": True, "seconds": 12_345.6}]
    targets = [measured.at_most("seconds", 30.0, 30.0), measured.at_least("times faster", 49.9, 50)]
    measured.write("tried", rows, targets)
    found = read_json(tmp_path / "tried.json")
    assert (found["rows"], [t["met"] for t in found["targets"]]) == (rows, [True, False])
    assert set(found["meta"]) == {"commit", "date", "machine", "command", "versions"}
    assert found["meta"]["command"] == "python -m benchmarks.tried"
    assert all(found["meta"]["versions"].values())
    told = capsys.readouterr()
    assert "| 100,000 | 1.235   | -    | -    |" in told.out
    assert "| 20      | 12,346  | -    | yes  |" in told.out
    assert told.err == "\nmissed: times faster\n"


def test_the_readme_shows_every_target_as_the_last_run_left_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    measured.write("tree", [{"items": 1}], [measured.at_most("seconds", 31.5, 30.0)])
    measured.write("imports", [{"items": 1}], [measured.at_least("times faster", 64.2, 50)])
    text = "before\n<!-- performance -->\nold\n<!-- end -->\nafter\n<!-- quality: x -->\nkept\n<!-- end -->\n"
    placed = performance.place(text, performance.targets(tmp_path))
    assert placed.startswith("before\n<!-- performance -->\n| benchmark | target ")
    assert placed.endswith("<!-- end -->\nafter\n<!-- quality: x -->\nkept\n<!-- end -->\n")
    lines = [[cell.strip() for cell in line.split("|")[1:-2]] for line in placed.splitlines() if line.startswith("| ")][
        1:
    ]
    assert lines == [["tree", "seconds", "31.5", "≤ 30", "no"], ["imports", "times faster", "64.2", "≥ 50", "yes"]]
    assert performance.place(placed, performance.targets(tmp_path)) == placed


def test_memory_is_the_process_own_and_not_of_whoever_started_it() -> None:
    """A test's process holds gigabytes, and a benchmark that it starts would seem to."""
    held = b"x" * 300_000_000
    done = subprocess.run(
        [sys.executable, "-c", "from benchmarks.measured import peak_mib; print(peak_mib())"],
        cwd=measured.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(held) / 2**20 > 1.5 * float(done.stdout)
    assert measured.peak_mib() > len(held) / 2**20
