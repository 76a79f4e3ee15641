"""Great Expectations as this project uses it: frames in an ephemeral context, rules with names, a summary of JSON values.

No analytics, no network, nothing written. An expectation sees one row, so what compares rows is prepared as a yes/no column.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["filled", "hold", "library", "rule"]

LONGEST_ID = 256


def library() -> Any:
    """Great Expectations, quiet: it imports a deprecated module of Python itself, no news to users. Seconds at first."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx
        import great_expectations.expectations
    return gx


def rule(kind: str, name: str, **options: Any) -> Any:
    """The expectation `Expect<kind>`; `name` says what must hold."""
    return getattr(library().expectations, f"Expect{kind}")(meta={"name": name}, **options)


def filled(column: str, *, longest: int = LONGEST_ID) -> list[Any]:
    """A text is there, and of a length that a text may have."""
    lengths = {"column": column, "min_value": 1, "max_value": longest}
    present = rule("ColumnValuesToNotBeNull", f"{column} is not null", column=column)
    return [present, rule("ColumnValueLengthsToBeBetween", f"{column} has 1 to {longest} characters", **lengths)]


def hold(tables: Mapping[str, tuple[pd.DataFrame, Sequence[Any]]], *, hidden: Collection[str] = ()) -> dict[str, Any]:
    """Hold each frame to its rules, in the order in which a failure is to be reported; never raises for what the data hold.

    hidden: columns that are left out of examples. Returns JSON values: {"success", "rows": {table: n}, "expectations":
    [{"table", "name", "success", "failed", "examples"}]}, with `failed` in rows and up to three rows, as text, in `examples`.
    """
    gx, found = library(), []
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    source = context.data_sources.add_pandas("staged")
    for table, (frame, rules) in tables.items():
        whole = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("whole")
        suite = gx.ExpectationSuite(name=table, expectations=list(rules))
        validated = whole.get_batch({"dataframe": frame}).validate(suite, result_format="SUMMARY").results
        by_name = {each.expectation_config.meta["name"]: each for each in validated}  # they come in another order
        for name in (rule.meta["name"] for rule in rules):
            success, result = bool(by_name[name].success), by_name[name].result or {}
            failed = int(result.get("unexpected_count", 0 if success else len(frame)))
            shown = frame.iloc[result.get("partial_unexpected_index_list", [])[:3]].to_dict("records")
            examples = [{c: str(value)[:80] for c, value in row.items() if c not in hidden} for row in shown]
            if absent := result.get("details", {}).get("mismatched", {}).get("missing"):
                examples = [{"missing": ", ".join(absent)}]
            found.append({"table": table, "name": name, "success": success, "failed": failed, "examples": examples})
    rows = {table: len(frame) for table, (frame, _) in tables.items()}
    return {"success": all(each["success"] for each in found), "rows": rows, "expectations": found}
