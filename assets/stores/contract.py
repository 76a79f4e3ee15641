"""The data contract: what Great Expectations holds items and behaviors to before anything is stored.

- It validates pandas frames (`assets.expectations` says how), made by one query of what the rules look at: a behavior's ids and
  event stand there as their numbers of characters. Rows that break a rule are looked up again for the message.
- What compares rows (an item is known, a row repeats) is a yes/no column. So is `finite`: pandas cannot tell NaN from no value.
- Every rule but that on repeats looks at one row alone, so rows that are alike to the rules are validated once: of twenty million
  behaviors a few hundred rows are left. Only where one of those breaks a rule is every row validated, to be counted and shown.
- `judge` touches no database: it may run beside what does.

Not covered: drift against earlier days, and whether the pictures can be read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.expectations import filled, hold, library, rule
from model.errors import BadInput

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

__all__ = ["KEYS", "Facts", "check", "demand", "facts", "joined", "judge", "library", "note_repeats", "settle"]

DUPLICATE_RATE = 0.01  # share of behaviors that may repeat an earlier one: repeats are dropped, more is a broken export
FUTURE_S = 86_400  # how far ahead of this machine's clock a timestamp may be
CHUNK = 2_000_000  # behaviors validated at a time
KEYS = ("user_id", "item_id", "event", "timestamp", "position")
"""What identifies a behavior; no position says nothing."""
ITEM_COLUMNS = ["item_id", "title", "description", "categories", "image"]
BEHAVIOR_COLUMNS = ["user_id", "item_id", "event", "value", "timestamp", "position"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules look at."""

    items: pd.DataFrame
    """The items themselves."""
    behaviors: pa.Table
    """`row` that identifies a behavior, and a column for every rule; a row a behavior or, where `alike`, fewer."""
    rated: bool
    """Whether any behavior is a rating."""
    rows: int
    """How many behaviors there are."""
    alike: bool
    """Whether rows that are alike to the rules stand here once for the least and once for the greatest of their numbers."""
    tables: dict[str, Any]
    """What `facts` was given."""


def _rules(table: str, *, rated: bool) -> list[Any]:
    """The expectations for `table`, in the order in which a failure is reported; `meta["name"]` says what must hold."""

    def columns(names: list[str]) -> Any:
        return rule("TableColumnsToMatchSet", "every column is present", column_set=names, exact_match=False)

    if table == "items":
        unique = rule("ColumnValuesToBeUnique", "item_id is unique", column="item_id")
        return [columns(ITEM_COLUMNS), *filled("item_id"), unique]
    latest, repeats = int(time.time() + FUTURE_S), f"at most {DUPLICATE_RATE:.0%} of the rows repeat an earlier one"
    between = "ColumnValuesToBeBetween"
    rules = [
        columns(BEHAVIOR_COLUMNS),
        *[each for column in ("user_id", "item_id", "event") for each in filled(column, counted=True)],
        rule("ColumnValuesToBeInSet", "item_id is in items", column="known", value_set=[True]),
        rule("ColumnValuesToNotBeNull", "timestamp is not null", column="timestamp"),
        rule("ColumnValuesToBeOfType", "timestamp is a whole number", column="timestamp", type_="int64"),
        rule(between, "timestamp (seconds) is not negative", column="timestamp", min_value=0),
        rule(between, "timestamp (seconds) is not in the future", column="timestamp", max_value=latest),
        rule("ColumnValuesToBeInSet", "value is finite", column="finite", value_set=[True]),
        rule("ColumnValuesToBeInSet", repeats, column="repeats", value_set=[False], mostly=1 - DUPLICATE_RATE),
    ]
    return (
        [*rules, rule(between, "a rating is 0.5 to 5", column="value", min_value=0.5, max_value=5)] if rated else rules
    )


def note_repeats(connection: duckdb.DuckDBPyConnection, table: str, row: str, *, keys: tuple[str, ...] = KEYS) -> int:
    """Create the temporary table `repeats` of the rows of `table` that repeat an earlier one; returns how many there are.

    row: the column that identifies and orders the rows.
    """
    rows, distinct = connection.execute(
        f"SELECT count(*), count(DISTINCT hash({', '.join(keys)})) FROM {table}"
    ).fetchall()[0]
    # as many hashes as rows, so no row repeats another: then the rows need not be put side by side
    found = (
        f"QUALIFY row_number() OVER (PARTITION BY {', '.join(keys)} ORDER BY {row}) > 1"
        if distinct < rows
        else "LIMIT 0"
    )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE repeats AS SELECT {row} AS repeated FROM {table} {found}")
    return int(connection.execute("SELECT count(*) FROM repeats").fetchall()[0][0])


def facts(
    connection: duckdb.DuckDBPyConnection,
    *,
    items: str,
    behaviors: str,
    row: str = "rowid",
    known: str | None = None,
    every_row: bool = False,
) -> Facts:
    """What the rules look at, of the tables `items` and `behaviors`.

    row: the column that identifies a behavior; known: a table of items that were there before; every_row: whether also behaviors
    that are alike to the rules stand there one by one, as they do where any repeats another. Leaves the table `repeats`.
    """
    there = [str(each[0]) for each in connection.execute(f"DESCRIBE {behaviors}").fetchall()]
    repeats = note_repeats(connection, behaviors, row, keys=tuple(key for key in KEYS if key in there))
    ids = f"SELECT item_id FROM {items} {f'UNION SELECT item_id FROM {known}' if known else ''}"
    columns = {
        "user_id": "length(user_id)",
        "item_id": "length(item_id)",
        "event": "length(event)",
        "known": f"item_id IN (SELECT item_id FROM ({ids}) WHERE item_id IS NOT NULL)",
        "timestamp": "timestamp",
        "position": "position IS NOT NULL",
        "value": "CASE WHEN event = 'rating' THEN value END",
        "finite": "coalesce(isfinite(value), true)",
        "repeats": f"{row} IN (SELECT repeated FROM repeats)" if repeats else "false",
    }
    # of two tables, so that an absent column is not in the frame either
    needed = {"known": "item_id", "finite": "value"}
    shown = {name: sql for name, sql in columns.items() if needed.get(name, name) in [*there, "repeats"]}
    query = f"SELECT {row} AS row, {', '.join(f'{sql} AS {name}' for name, sql in shown.items())} FROM {behaviors}"
    if alike := not (every_row or repeats):
        query = _alike(query, list(shown))
    rated = "coalesce(bool_or(event = 'rating'), false)" if "event" in there else "false"
    counted = connection.execute(f"SELECT count(*) AS rows, {rated} AS rated FROM {behaviors}").fetchall()[0]
    return Facts(
        items=connection.execute(f"SELECT * FROM {items}").to_arrow_table().to_pandas(),
        behaviors=connection.execute(query).to_arrow_table(),
        rows=counted[0],
        rated=counted[1],
        alike=alike,
        tables={"items": items, "behaviors": behaviors, "row": row, "known": known},
    )


def _alike(query: str, columns: list[str]) -> str:
    """SQL of the least and the greatest timestamp and value of the rows that are otherwise alike; what is null stays apart."""
    ranges = [column for column in ("timestamp", "value") if column in columns]
    same = [column for column in columns if column not in ranges] + [f"{column} IS NULL" for column in ranges]
    bounds = [f"{end}({column}) AS {end}_{column}" for column in ranges for end in ("min", "max")]
    groups = ", ".join(["min(row) AS row", *[f"any_value({c}) AS {c}" for c in columns if c not in ranges], *bounds])
    ends = " UNION ALL ".join(
        f"SELECT row, {', '.join(f'{end}_{c} AS {c}' if c in ranges else c for c in columns)} FROM groups"
        for end in ("min", "max")
    )
    return f"WITH groups AS (SELECT {groups} FROM ({query}) GROUP BY {', '.join(same)}) {ends}"


def judge(found: Facts, *tables: str) -> dict[str, Any]:
    """Hold the facts to the contract, those of `items` and `behaviors` or of one of them; never raises for what they say.

    Returns JSON values: {"success", "rows": {table: n}, "expectations": [{"table", "name", "success", "failed", "examples"}]},
    with `failed` in rows and up to three rows, as text, in `examples`: of a behavior its `row`.
    """
    chunks = (found.behaviors.slice(at, CHUNK).to_pandas() for at in range(0, max(found.behaviors.num_rows, 1), CHUNK))
    frames = {"items": [found.items], "behaviors": chunks}
    asked = {table: (frames[table], _rules(table, rated=found.rated)) for table in tables or frames}
    summary = hold(asked, shown={"behaviors": ["row"]})
    summary["rows"].update({"behaviors": found.rows} if "behaviors" in asked else {})
    return summary


def joined(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `judge` said of one table and of the other, as one."""
    return {
        "success": all(each["success"] for each in summaries),
        "rows": {table: rows for each in summaries for table, rows in each["rows"].items()},
        "expectations": [told for each in summaries for told in each["expectations"]],
    }


def settle(connection: duckdb.DuckDBPyConnection, found: Facts, summary: dict[str, Any]) -> dict[str, Any]:
    """What `judge` said of `found`, with the rows themselves as examples: row by row where rows that stand for more fail."""
    if found.alike and not summary["success"]:
        summary = judge(facts(connection, **found.tables, every_row=True), *summary["rows"])
    row = found.tables["row"]
    for each in summary["expectations"]:
        if each["table"] == "behaviors" and each["examples"] and "row" in each["examples"][0]:
            rows = ", ".join(example["row"] for example in each["examples"])
            asked = connection.execute(
                f"SELECT * FROM {found.tables['behaviors']} WHERE {row} IN ({rows}) ORDER BY {row}"
            )
            names = [column[0] for column in asked.description or ()]
            each["examples"] = [
                {
                    name: str(value)[:80]
                    for name, value in zip(names, values, strict=True)
                    if name not in (row, "batch_id")
                }
                for values in asked.fetchall()
            ]
    return summary


def check(connection: duckdb.DuckDBPyConnection, **tables: Any) -> dict[str, Any]:
    """Hold two tables to the contract (`facts` says what is given, `judge` what comes back)."""
    found = facts(connection, **tables)
    return settle(connection, found, judge(found))


def demand(connection: duckdb.DuckDBPyConnection, found: Facts, summary: dict[str, Any]) -> None:
    """Raise `BadInput` with the first expectation that fails, its row count and up to three of the rows.

    summary: what `judge` said of `found`.
    """
    if not summary["success"]:
        summary = settle(connection, found, summary)
        broken = [each for each in summary["expectations"] if not each["success"]]
        first = broken[0]
        rows = "; ".join(", ".join(f"{name} {value!r}" for name, value in row.items()) for row in first["examples"])
        raise BadInput(
            f"the data contract does not hold: {first['failed']:,} of {summary['rows'][first['table']]:,} {first['table']} "
            f'break "{first["name"]}"{f" ({rows})" if rows else ""}'
            f"{f', as do {len(broken) - 1} other rules' if len(broken) > 1 else ''}; correct the export and ingest it again"
        )
