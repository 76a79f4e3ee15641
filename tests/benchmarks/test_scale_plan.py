"""What somebody who plans a cluster would lose: an hour that no rate stands behind, or a table that is not the last run's."""

from __future__ import annotations

import pytest

from benchmarks.scale_plan import PAGE, Rates, Size, memory, place, plan

RATES = Rates(
    texts=10,
    pictures=100,
    ingested=1e6,
    gathered=1e5,
    grown=1e4,
    grown_items=1e4,
    targets=1e4,
    searched=100,
    searched_items=1e6,
    exponent=0.25,
)


def test_hours_follow_from_rates_and_cores() -> None:
    size = Size(items=1e8, users=3.6e6, behaviors=3.6e9, days=10, machines=10, cores=10)
    rows = {(row["step"], row["when"]): row for row in plan(size, RATES)}
    assert rows["texts", "once"]["core-hours"] == pytest.approx(1e8 / 10 / 3600)
    assert rows["texts", "once"]["hours"] == pytest.approx(1e8 / 10 / 3600 / 100)
    assert rows["ingest", "once"]["hours"] == pytest.approx(0.1), "on the cores of one machine"
    assert rows["ingest", "every day"]["hours"] == pytest.approx(0.01)
    assert rows["index tree", "every day"]["a core-second"] == pytest.approx(5000), "twice as many levels"
    assert rows["everybody's items", "every day"]["a core-second"] == pytest.approx(100 / 100**0.25)


def test_bytes_follow_from_shapes() -> None:
    held = {row["what"]: row["TB"] for row in memory(Size(items=1e8, behaviors=1e12))}
    assert held["node embeddings E, 128 float32"] == pytest.approx(2e8 * 128 * 4 / 1e12)
    assert held["histories.npz and days.npz, int32 each"] == pytest.approx(8.0)


def test_the_page_shows_what_the_results_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "<!-- plan -->\n|" in text
    assert "<!-- scale -->\n|" in text
    assert place(text, Size()) == text, "python -m benchmarks.scale_plan"
