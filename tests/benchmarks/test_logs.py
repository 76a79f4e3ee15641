"""What a reader of the logs' table would lose: that all sides come to the same histories from the same file."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from benchmarks import logs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("logs") / "made"
    logs.generate(made, 20_000, 1_000)
    return made


def test_what_is_generated_is_a_log_as_the_docstring_says(folder: Path) -> None:
    """Out of order, or with repeats, another amount of work would be timed."""
    file = f"read_parquet('{folder}/shop/behaviors.parquet', file_row_number = true)"
    rows, users, repeats, back = duckdb.execute(
        f"SELECT count(*), count(DISTINCT user_id), count(*) - count(DISTINCT (user_id, item_id, event, timestamp)), "
        f"count(*) FILTER (later < timestamp) FROM (SELECT *, lead(timestamp) OVER (ORDER BY file_row_number) AS later FROM {file})"
    ).fetchall()[0]
    assert (rows, repeats, back) == (20_000, 0, 0)
    assert users > 190
    before = (folder / "made.json").stat().st_mtime_ns
    logs.generate(folder, 20_000, 1_000)
    assert (folder / "made.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_every_side_comes_to_the_same_histories(folder: Path) -> None:
    """Real processes; `measure` raises where a digest differs."""
    rows, targets = logs.measure(folder, 20_000)
    sides = {row["side"]: row for row in rows}
    assert {"ours", "pandas", "polars"} < set(sides)
    assert len({sides[side]["digest"] for side in ("ours", "pandas", "polars")}) == 1
    assert sides["ours"]["rows of the day"] == 1_000
    assert [target["wants"] for target in targets] == ["much", "little", "little"]
