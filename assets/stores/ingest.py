"""One ingest inside the warehouse's transaction: from staged tables to appended rows. `Warehouse.ingest` calls this.

- What identifies a behavior: (user, item, event, timestamp), and the position where the source gives one.
- Positions a source does not give follow time: after everything known for newer behaviors, and the position of the first
  later behavior for late arrivals, so that (position, timestamp) is the order of time without touching a stored row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb

from assets.sources.base import Source, Staged

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "BEHAVIOR_FRAME",
    "ITEM_TEXTS",
    "IngestReport",
    "append",
    "append_behaviors",
    "append_items",
    "known_items",
    "note",
    "staged_frames",
]

ITEM_TEXTS = ("title", "description", "categories", "image")
# pandas cannot tell NaN from no value, so the frame says which it is
BEHAVIOR_FRAME = "user_id, item_id, event, value, timestamp, position, coalesce(isfinite(value), true) AS finite"


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What one ingest did; counts in rows."""

    catalogue: str
    simulated: bool
    source: str
    """Where it was read from."""
    source_digest: str
    batch_id: str
    """First 16 digits of the source's digest: the mark on every row it added."""
    unchanged: bool
    """Whether this very source had been ingested before; nothing was read again."""
    items_new: int = 0
    items_changed: int = 0
    behaviors_new: int = 0
    behaviors_known: int = 0
    """Staged behaviors that were there already."""
    behaviors_repeated: int = 0
    """Staged behaviors dropped because they repeat another one of the same source."""
    images_missing: int = 0
    """Items whose picture is named but not there."""
    contract: dict[str, Any] = field(default_factory=dict)
    """`assets.contract.check`'s summary."""
    seconds: float = 0.0

    def sentence(self) -> str:
        """The report in one line, for people."""
        if self.unchanged:
            return f"{self.catalogue}: nothing to do, this very source was ingested before (batch {self.batch_id})"
        parts = [f"{self.items_new:,} new items", f"{self.behaviors_new:,} new behaviors"]
        for count, what in (
            (self.items_changed, "items changed"),
            (self.behaviors_known, "behaviors known already"),
            (self.behaviors_repeated, "repeated behaviors dropped"),
            (self.images_missing, "items whose picture is missing"),
        ):
            parts += [f"{count:,} {what}"] if count else []
        return f"{self.catalogue}: {', '.join(parts)} in {self.seconds:.1f} s (batch {self.batch_id})"


def staged_frames(connection: duckdb.DuckDBPyConnection) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(items, behaviors) as staged, in the shape the data contract takes."""
    columns = {"staged_items": f"item_id, {', '.join(ITEM_TEXTS)}", "staged_behaviors": BEHAVIOR_FRAME}
    # through Arrow: five times faster for text than DuckDB's own conversion
    frames = [connection.execute(f"SELECT {c} FROM {t}").to_arrow_table().to_pandas() for t, c in columns.items()]
    return frames[0], frames[1]


def known_items(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Ids of the items that are in the warehouse before the ingest."""
    return [row[0] for row in connection.execute("SELECT item_id FROM items").fetchall()]


def _count(connection: duckdb.DuckDBPyConnection, statement: str) -> int:
    return int(connection.execute(statement).fetchall()[0][0])


def append(connection: duckdb.DuckDBPyConnection, source: Source, staged: Staged, digest: str) -> dict[str, int]:
    """Append what is new among the staged rows and note the ingest; returns counts named as in `IngestReport`."""
    batch = digest[:16]
    counts = append_items(connection, batch) | append_behaviors(
        connection, batch, positions_given=staged.positions_given
    )
    note(connection, source, digest, counts)
    return counts


def note(connection: duckdb.DuckDBPyConnection, source: Source, digest: str, counts: Mapping[str, int]) -> None:
    """Write down that all of this source is in the warehouse, and whose catalogue it is."""
    connection.execute("DELETE FROM catalogue")
    connection.execute("INSERT INTO catalogue VALUES (?, ?, ?)", [source.name, source.simulated, digest])
    connection.execute(
        "INSERT INTO ingests VALUES (?, ?, ?, ?, ?, CAST(now() AT TIME ZONE 'UTC' AS TIMESTAMP))",
        [digest[:16], source.location, digest, counts["items_new"], counts["behaviors_new"]],
    )


def append_items(connection: duckdb.DuckDBPyConnection, batch: str) -> dict[str, int]:
    changed = " OR ".join(f"i.{c} IS DISTINCT FROM s.{c}" for c in ITEM_TEXTS)
    count = _count(
        connection, f"SELECT count(*) FROM staged_items AS s JOIN items AS i ON i.item_id = s.item_id WHERE {changed}"
    )
    # plain columns are updated in place; deleting and inserting one primary key in a transaction is refused by DuckDB
    connection.execute(
        f"UPDATE items AS i SET {', '.join(f'{c} = s.{c}' for c in ITEM_TEXTS)}, batch_id = ? FROM staged_items AS s "
        f"WHERE i.item_id = s.item_id AND ({changed})",
        [batch],
    )
    before = _count(connection, "SELECT count(*) FROM items")
    connection.execute(
        f"INSERT INTO items SELECT item_id, {', '.join(ITEM_TEXTS)}, ? FROM staged_items AS s "
        "WHERE NOT EXISTS (SELECT 1 FROM items AS i WHERE i.item_id = s.item_id) ORDER BY item_id",
        [batch],
    )
    return {"items_new": _count(connection, "SELECT count(*) FROM items") - before, "items_changed": count}


def append_behaviors(connection: duckdb.DuckDBPyConnection, batch: str, *, positions_given: bool) -> dict[str, int]:
    keys = ["user_id", "item_id", "event", "timestamp", *(["position"] if positions_given else [])]
    rows, distinct, first, last = connection.execute(
        f"SELECT count(*), count(DISTINCT hash({', '.join(keys)})), min(timestamp), max(timestamp) FROM staged_behaviors"
    ).fetchall()[0]
    # as many hashes as rows, so no row repeats another: then the rows need not be put side by side
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE repeats AS SELECT file_row FROM staged_behaviors "
        + (
            f"QUALIFY row_number() OVER (PARTITION BY {', '.join(keys)} ORDER BY file_row) > 1"
            if distinct < rows
            else "LIMIT 0"
        )
    )
    same = " AND ".join(f"b.{key} = s.{key}" for key in keys)
    span = f"b.timestamp BETWEEN {first or 0} AND {last or 0}"
    overlap = _count(connection, f"SELECT count(*) FROM (SELECT 1 FROM behaviors AS b WHERE {span} LIMIT 1)")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE new_behaviors AS SELECT * FROM staged_behaviors AS s "
        + ("ANTI JOIN repeats USING (file_row) " if distinct < rows else "")
        + (f"WHERE NOT EXISTS (SELECT 1 FROM behaviors AS b WHERE {span} AND {same})" if overlap else "")
    )
    position, joins = "s.position", ""
    if not positions_given:
        position, joins = _positions(connection, first or 0)
    connection.execute(
        "INSERT INTO behaviors SELECT s.user_id, s.item_id, s.event, s.value, s.timestamp, "
        f"CAST({position} AS INTEGER), ? FROM new_behaviors AS s {joins} ORDER BY s.file_row",
        [batch],
    )
    staged, repeated, new = (
        _count(connection, f"SELECT count(*) FROM {t}") for t in ("staged_behaviors", "repeats", "new_behaviors")
    )
    return {"behaviors_new": new, "behaviors_known": staged - repeated - new, "behaviors_repeated": repeated}


def _positions(connection: duckdb.DuckDBPyConnection, first: int) -> tuple[str, str]:
    """SQL of the position of each row s of `new_behaviors`, none of which is older than `first`, and of the joins it takes."""
    users = "user_id IN (SELECT user_id FROM new_behaviors)"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE ends AS SELECT user_id, max(position) AS last FROM behaviors WHERE {users} GROUP BY user_id"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE times AS SELECT user_id, timestamp, min(position) AS position FROM behaviors "
        f"WHERE timestamp > {first} AND {users} GROUP BY user_id, timestamp"
    )
    ends, order = "LEFT JOIN ends AS e ON s.user_id = e.user_id", "ORDER BY s.timestamp, s.file_row"
    if not _count(
        connection, "SELECT count(*) FROM times"
    ):  # nothing is later than what comes in: the place among the newest
        return f"coalesce(e.last, -1) + row_number() OVER (PARTITION BY s.user_id {order})", ends
    # the first later behavior's position, or the place among the user's newest
    return (
        f"coalesce(t.position, coalesce(e.last, -1) + row_number() OVER (PARTITION BY s.user_id, t.position IS NULL {order}))",
        f"ASOF LEFT JOIN times AS t ON s.user_id = t.user_id AND s.timestamp < t.timestamp {ends}",
    )
