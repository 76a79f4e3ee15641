"""Great Expectations as this project uses it: frames in an ephemeral context, rules with names, a summary of JSON values.

No analytics, no network, nothing written. An expectation sees one row, so what compares rows is prepared as a yes/no column.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["filled", "hold", "library", "rule"]

LONGEST_ID = 256


def library() -> Any:
    """Great Expectations, quiet: it imports a deprecated module of Python itself, and Google's client where something else brought
    it, which misses a package. No news to users. Seconds at first."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", ImportWarning)
        import great_expectations as gx
        import great_expectations.expectations
    return gx


def rule(kind: str, name: str, **options: Any) -> Any:
    """The expectation `Expect<kind>`; `name` says what must hold."""
    return getattr(library().expectations, f"Expect{kind}")(meta={"name": name}, **options)


def filled(column: str, *, longest: int = LONGEST_ID, counted: bool = False) -> list[Any]:
    """A text is there, and of a length that a text may have; counted: the column holds the numbers of characters."""
    lengths = {"column": column, "min_value": 1, "max_value": longest}
    kind = "ColumnValuesToBeBetween" if counted else "ColumnValueLengthsToBeBetween"
    present = rule("ColumnValuesToNotBeNull", f"{column} is not null", column=column)
    return [present, rule(kind, f"{column} has 1 to {longest} characters", **lengths)]


def hold(
    tables: Mapping[str, tuple[Iterable[pd.DataFrame], Sequence[Any]]],
    *,
    shown: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Hold each table, given in one frame or more, to its rules, in the order in which a failure is to be reported.

    A rule that looks at all rows at once, such as uniqueness, takes one frame. shown: the columns of a table that examples show,
    all where it is not named. Never raises for what the data hold. Returns JSON values: {"success", "rows": {table: n},
    "expectations": [{"table", "name", "success", "failed", "examples"}]}, with `failed` in rows and up to three rows, as text, in
    `examples`.
    """
    gx, found, rows = library(), [], {}
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    source = context.data_sources.add_pandas("staged")
    for table, (frames, rules) in tables.items():
        whole = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("whole")
        suite = gx.ExpectationSuite(name=table, expectations=list(rules))
        wanted = None if shown is None else shown.get(table)
        sums = {each.meta["name"]: {"success": True, "failed": 0, "examples": []} for each in rules}
        rows[table] = 0
        for frame in frames:
            rows[table] += len(frame)
            for each in whole.get_batch({"dataframe": frame}).validate(suite, result_format="SUMMARY").results:
                _add(sums[each.expectation_config.meta["name"]], each, frame, wanted)
        for each in rules:  # a share of all rows may be broken: one of the frames may hold more of them
            if (mostly := getattr(each, "mostly", None) or 1.0) < 1.0:
                allowed = (1 - mostly) * rows[table]
                sums[each.meta["name"]]["success"] = sums[each.meta["name"]]["failed"] <= allowed + 1e-6
        found += [{"table": table, "name": name, **told} for name, told in sums.items()]
    return {"success": all(each["success"] for each in found), "rows": rows, "expectations": found}


def _add(told: dict[str, Any], validated: Any, frame: pd.DataFrame, wanted: Collection[str] | None) -> None:
    """What one frame says of a rule, to what the frames before it said."""
    success, result = bool(validated.success), validated.result or {}
    told["success"] &= success
    told["failed"] += int(result.get("unexpected_count", 0 if success else len(frame)))
    if absent := result.get("details", {}).get("mismatched", {}).get("missing"):
        told["examples"] = [{"missing": ", ".join(absent)}]
        return
    rows = frame.iloc[result.get("partial_unexpected_index_list", [])[: 3 - len(told["examples"])]].to_dict("records")
    told["examples"] += [{c: str(v)[:80] for c, v in row.items() if wanted is None or c in wanted} for row in rows]
