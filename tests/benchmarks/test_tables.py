"""A reader would lose: a README whose figures are those that were measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables import markdown, part_of, place, table
from model.files import read_json

ROOT = Path(__file__).resolve().parent.parent.parent
MARK = re.compile(r"<!-- quality: (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
META = {"command": "python -m x", "commit": "0123456789abcdef", "date": "2026-11-22", "machine": "any"}
README = (
    "# T\n\n<!-- quality: walks -->\nold\n<!-- end -->\nbetween\n<!-- quality: shop -->\nkept\n<!-- end -->\nafter\n"
)


def a_row(retriever: str, **more: Any) -> dict[str, Any]:
    metrics = {"recall@10": 0.5, "recall@50": 0.6, "recall@100": 0.7, "recall@200": 0.8, "ndcg@10": 0.25}
    return {
        "dataset": "walks",
        "retriever": retriever,
        "split": "test",
        "options": {},
        "train_seconds": 1.0,
        **metrics,
    } | more


def test_a_table_takes_its_place_between_its_marks_and_nothing_else_moves() -> None:
    rows = [
        a_row("MISS"),
        a_row("EASE"),
        a_row("MISS, random tree"),
        a_row("EASE", split="validation"),
        a_row("TDM", options={"beam": 9}),
    ]
    report = {"meta": META, "rows": rows, "comparisons": []}
    text = place(README, report)
    assert table(rows[:2], []) in text
    assert "0123456789ab, 2026-11-22" in text
    assert "old" not in text
    assert "random tree" not in text
    assert "TDM" not in text
    assert text.endswith("<!-- end -->\nbetween\n<!-- quality: shop -->\nkept\n<!-- end -->\nafter\n")
    assert place(text, report) == text, "written again, it stays as it is"


def test_cold_items_are_told_beside_a_random_order() -> None:
    among = {"items": 171, "recall@10": 0.4, "ndcg@10": 0.2, "chance": {"recall@10": 0.06, "ndcg@10": 0.03}}
    rows = [
        a_row("MISS, cold items from content", split="cold", users=9, among_cold=among),
        a_row("oracle", split="cold"),
    ]
    text = markdown({"meta": META, "rows": rows, "comparisons": []})
    assert "| among the 171 cold items alone | recall@10 | ndcg@10 |" in text
    assert "| MISS, cold items from content | 0.4000 | 0.2000 |" in text
    assert "| a random order | 0.0600 | 0.0300 |" in text


def test_what_others_published_stands_under_ours_and_says_where_from() -> None:
    metrics = {"recall@5": 0.05, "ndcg@5": 0.03}
    rows = [a_row("MISS", dataset="amazon-beauty", **metrics)]
    lines = table(rows, []).splitlines()
    assert lines[0].startswith("| retriever | recall@5 | ndcg@5 | recall@10 | recall@50 |")
    assert lines[2].startswith("| MISS | 0.0500 | 0.0300 | 0.5000 |")
    assert lines[3] == "| TIGER (published) | 0.0454 | 0.0321 | 0.0648 | - | - | - | 0.0384 | - | - | - |"
    assert lines[-1].startswith("Published: Rajput et al.")
    assert "published" not in table([a_row("MISS")], [])
    for other in ({"split": "validation"}, {"options": {"beam": 9}}):
        rows = [a_row("MISS", dataset="amazon-beauty", **metrics, **other)]
        assert "ublished" not in table(rows, []), "theirs is the test item, and no budget of ours"


def test_trees_are_told_apart_at_narrow_beams() -> None:
    rows = [a_row(n, users=9, **{"recall@10_by_beam": {"5": v, "200": 0.3}}) for n, v in (("MISS", 0.2), ("TDM", 0.1))]
    text = markdown({"meta": META, "rows": [*rows, a_row("EASE")], "comparisons": []})
    assert "by beam | 5 | 200 |" in text
    assert "| MISS | 0.2000 | 0.3000 |\n| TDM | 0.1000 | 0.3000 |" in text


def test_every_part_names_the_command_that_made_it() -> None:
    of = {"dataset": "walks", "split": "test", "options": {"beam": 9}}
    report = {
        "meta": META,
        "rows": [a_row("MISS", users=9), a_row("MISS", users=9, options={"beam": 9})],
        "made": [of | META | {"command": "python -m smaller"}],
    }
    default, smaller = markdown(report).split("## ")[1:]
    assert "`python -m x` at 0123456789ab" in default
    assert "`python -m smaller` at 0123456789ab" in smaller


def test_the_readme_shows_what_was_measured() -> None:
    """Figures in the README are those of benchmarks/results/quality.json, to the last digit."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = MARK.findall(readme)
    assert shown, "the README has a table of quality"
    report = read_json(ROOT / "benchmarks" / "results" / "quality.json")
    for dataset, _ in shown:
        assert [r for r in report["rows"] if part_of(r) == (dataset, "test", "{}")], dataset
    assert place(readme, report) == readme


@pytest.mark.parametrize("metric", ["recall@10", "ndcg@10"])
def test_every_row_says_over_whom_and_how_sure(metric: str) -> None:
    report = read_json(ROOT / "benchmarks" / "results" / "quality.json")
    assert {"commit", "date", "machine", "command"} == set(report["meta"])
    for row in report["rows"]:
        assert 0 <= row[metric] <= 1
        assert row["users"] > 0
        assert row["ci95"][0] <= row["ndcg@10"] <= row["ci95"][1]
