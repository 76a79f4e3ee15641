"""The data contract: what Great Expectations holds items and behaviors to before anything is stored.

- Validates pandas frames pulled from DuckDB in an ephemeral context: no analytics, no network, nothing written.
- An expectation sees one row, so what compares rows (an item is known, a row repeats) is prepared as a yes/no column.
- NaN and infinity are told apart from "no value" by the column `finite`, which SQL can still see and pandas cannot.

Not covered: drift against earlier days, and whether the pictures can be read.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from model.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check", "library", "validate"]

DUPLICATE_RATE = 0.01  # share of behaviors that may repeat an earlier one: repeats are dropped, more is a broken export
FUTURE_S = 86_400  # how far ahead of this machine's clock a timestamp may be
LONGEST_ID = 256
ITEM_COLUMNS = ["item_id", "title", "description", "categories", "image"]
BEHAVIOR_COLUMNS = ["user_id", "item_id", "event", "value", "timestamp", "position"]
HELPERS = ["known", "finite", "repeats"]


def library() -> tuple[Any, Any]:
    """Great Expectations, quiet: it imports a deprecated module of Python itself, no news to users."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    return gx, context.data_sources.add_pandas("staged")


def _rules(table: str, *, now: float, rated: bool) -> list[Any]:
    """The expectations for `table`, in the order in which a failure is reported; `meta["name"]` says what must hold."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    def rule(kind: str, name: str, **options: Any) -> Any:
        return getattr(gxe, f"Expect{kind}")(meta={"name": name}, **options)

    def columns(names: list[str]) -> Any:
        return rule("TableColumnsToMatchSet", "every column is present", column_set=names, exact_match=False)

    def filled(column: str) -> list[Any]:
        lengths = {"column": column, "min_value": 1, "max_value": LONGEST_ID}
        present = rule("ColumnValuesToNotBeNull", f"{column} is not null", column=column)
        return [present, rule("ColumnValueLengthsToBeBetween", f"{column} has 1 to {LONGEST_ID} characters", **lengths)]

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
        bounds = {"column": "value", "min_value": 0.5, "max_value": 5, "row_condition": Column("event") == "rating"}
        rules.append(rule("ColumnValuesToBeBetween", "a rating is 0.5 to 5", **bounds))
    return rules


def check(items_df: pd.DataFrame, behaviors_df: pd.DataFrame, *, known_ids: Iterable[str] = ()) -> dict[str, Any]:
    """Hold both frames to the contract; never raises for what the data hold.

    The frames have the warehouse's columns (batch_id apart), behaviors optionally the boolean `finite`; `known_ids` are
    items known from before. Returns JSON values: {"success", "rows": {table: n}, "expectations": [{"table", "name",
    "success", "failed", "examples"}]}, with `failed` in rows and up to three rows, as text, in `examples`.
    """
    (gx, source), found = library(), []
    behaviors, known = behaviors_df.reset_index(drop=True), {*items_df.get("item_id", ()), *known_ids}
    keys = [column for column in BEHAVIOR_COLUMNS if column in behaviors and column != "value"]
    behaviors["repeats"] = behaviors.duplicated(keys) if keys else False
    behaviors["known"] = behaviors["item_id"].isin(known) if "item_id" in behaviors else True
    if "finite" not in behaviors:
        behaviors["finite"] = ~behaviors["value"].isin([float("inf"), -float("inf")]) if "value" in behaviors else True
    rated = "event" in behaviors and bool((behaviors["event"] == "rating").any())
    frames = {"items": items_df.reset_index(drop=True), "behaviors": behaviors}
    for table, frame in frames.items():
        rules = _rules(table, now=time.time(), rated=rated)
        whole = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("whole")
        suite = gx.ExpectationSuite(name=table, expectations=rules)
        validated = whole.get_batch({"dataframe": frame}).validate(suite, result_format="SUMMARY").results
        by_name = {each.expectation_config.meta["name"]: each for each in validated}  # they come in another order
        for name in (rule.meta["name"] for rule in rules):
            success, result = bool(by_name[name].success), by_name[name].result or {}
            failed = int(result.get("unexpected_count", 0 if success else len(frame)))
            shown = frame.iloc[result.get("partial_unexpected_index_list", [])[:3]].to_dict("records")
            examples = [{c: str(value)[:80] for c, value in row.items() if c not in HELPERS} for row in shown]
            if absent := result.get("details", {}).get("mismatched", {}).get("missing"):
                examples = [{"missing": ", ".join(absent)}]
            found.append({"table": table, "name": name, "success": success, "failed": failed, "examples": examples})
    rows = {table: len(frame) for table, frame in frames.items()}
    return {"success": all(each["success"] for each in found), "rows": rows, "expectations": found}


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
