"""The data contract: what Great Expectations holds items and behaviors to before anything is stored.

- Validates pandas frames pulled from DuckDB (`assets.expectations` says how).
- What compares rows (an item is known, a row repeats) is prepared as a yes/no column.
- NaN and infinity are told apart from "no value" by the column `finite`, which SQL can still see and pandas cannot.

Not covered: drift against earlier days, and whether the pictures can be read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from assets.expectations import filled, hold, library, rule
from model.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check", "library", "validate"]

DUPLICATE_RATE = 0.01  # share of behaviors that may repeat an earlier one: repeats are dropped, more is a broken export
FUTURE_S = 86_400  # how far ahead of this machine's clock a timestamp may be
ITEM_COLUMNS = ["item_id", "title", "description", "categories", "image"]
BEHAVIOR_COLUMNS = ["user_id", "item_id", "event", "value", "timestamp", "position"]
HELPERS = ["known", "finite", "repeats"]


def _rules(table: str, *, now: float, rated: bool) -> list[Any]:
    """The expectations for `table`, in the order in which a failure is reported; `meta["name"]` says what must hold."""

    def columns(names: list[str]) -> Any:
        return rule("TableColumnsToMatchSet", "every column is present", column_set=names, exact_match=False)

    if table == "items":
        unique = rule("ColumnValuesToBeUnique", "item_id is unique", column="item_id")
        return [columns(ITEM_COLUMNS), *filled("item_id"), unique]
    latest, repeats = int(now + FUTURE_S), f"at most {DUPLICATE_RATE:.0%} of the rows repeat an earlier one"
    rules = [
        columns(BEHAVIOR_COLUMNS),
        *[each for column in ("user_id", "item_id", "event") for each in filled(column)],
        rule("ColumnValuesToBeInSet", "item_id is in items", column="known", value_set=[True]),
        rule("ColumnValuesToNotBeNull", "timestamp is not null", column="timestamp"),
        rule("ColumnValuesToBeOfType", "timestamp is a whole number", column="timestamp", type_="int64"),
        rule("ColumnValuesToBeBetween", "timestamp (seconds) is not negative", column="timestamp", min_value=0),
        rule(
            "ColumnValuesToBeBetween", "timestamp (seconds) is not in the future", column="timestamp", max_value=latest
        ),
        rule("ColumnValuesToBeInSet", "value is finite", column="finite", value_set=[True]),
        rule("ColumnValuesToBeInSet", repeats, column="repeats", value_set=[False], mostly=1 - DUPLICATE_RATE),
    ]
    if rated:
        from great_expectations.expectations.row_conditions import Column

        bounds = {"column": "value", "min_value": 0.5, "max_value": 5, "row_condition": Column("event") == "rating"}
        rules.append(rule("ColumnValuesToBeBetween", "a rating is 0.5 to 5", **bounds))
    return rules


def check(items_df: pd.DataFrame, behaviors_df: pd.DataFrame, *, known_ids: Iterable[str] = ()) -> dict[str, Any]:
    """Hold both frames to the contract; never raises for what the data hold.

    The frames have the warehouse's columns (batch_id apart), behaviors optionally the boolean `finite`; `known_ids` are
    items known from before. Returns JSON values: {"success", "rows": {table: n}, "expectations": [{"table", "name",
    "success", "failed", "examples"}]}, with `failed` in rows and up to three rows, as text, in `examples`.
    """
    behaviors, known = behaviors_df.reset_index(drop=True), {*items_df.get("item_id", ()), *known_ids}
    keys = [column for column in BEHAVIOR_COLUMNS if column in behaviors and column != "value"]
    behaviors["repeats"] = behaviors.duplicated(keys) if keys else False
    behaviors["known"] = behaviors["item_id"].isin(known) if "item_id" in behaviors else True
    if "finite" not in behaviors:
        behaviors["finite"] = ~behaviors["value"].isin([float("inf"), -float("inf")]) if "value" in behaviors else True
    rated = "event" in behaviors and bool((behaviors["event"] == "rating").any())
    frames = {"items": items_df.reset_index(drop=True), "behaviors": behaviors}
    now = time.time()
    tables = {table: (frame, _rules(table, now=now, rated=rated)) for table, frame in frames.items()}
    return hold(tables, hidden=HELPERS)


def validate(items_df: pd.DataFrame, behaviors_df: pd.DataFrame, *, known_ids: Iterable[str] = ()) -> dict[str, Any]:
    """`check`, raising `BadInput` with the first expectation that fails, its row count and up to three of the rows."""
    summary = check(items_df, behaviors_df, known_ids=known_ids)
    if broken := [each for each in summary["expectations"] if not each["success"]]:
        first = broken[0]
        rows = "; ".join(", ".join(f"{name} {value!r}" for name, value in row.items()) for row in first["examples"])
        raise BadInput(
            f"the data contract does not hold: {first['failed']:,} of {summary['rows'][first['table']]:,} {first['table']} "
            f'break "{first["name"]}"{f" ({rows})" if rows else ""}'
            f"{f', as do {len(broken) - 1} other rules' if len(broken) > 1 else ''}; correct the export and ingest it again"
        )
    return summary
