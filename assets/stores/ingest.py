"""One ingest inside the warehouse's transaction: from staged tables to appended rows. `Warehouse.ingest` calls this.

- What identifies a behavior: (user, item, event, timestamp), and the position where the source gives one.
- Positions a source does not give follow time: after everything known for newer behaviors, and the position of the first
  later behavior for late arrivals, so that (position, timestamp) is the order of time without touching a stored row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb

from assets.sources.base import Source, Staged
from assets.stores.contract import KEYS

__all__ = ["ITEM_TEXTS", "IngestReport", "append", "append_items", "append_new", "find_new", "note"]

ITEM_TEXTS = ("title", "description", "categories", "image")


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
    """`assets.stores.contract.check`'s summary."""
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


def _count(connection: duckdb.DuckDBPyConnection, statement: str) -> int:
    return int(connection.execute(statement).fetchall()[0][0])


def append(
    connection: duckdb.DuckDBPyConnection, source: Source, staged: Staged, digest: str, *, land: Callable[[], None]
) -> dict[str, int]:
    """Append what is new among the staged rows and note the ingest; returns counts named as in `IngestReport`.

    land: called once the view `new_behaviors` is there and before any of it is appended.
    """
    batch = digest[:16]
    counts = append_items(connection, batch) | find_new(connection, positions_given=staged.positions_given)
    land()
    append_new(connection, batch, positions_given=staged.positions_given)
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


def find_new(connection: duckdb.DuckDBPyConnection, *, positions_given: bool) -> dict[str, int]:
    """Make the temporary view `new_behaviors` of the staged ones that are new; returns counts named as in `IngestReport`.

    Those that repeat an earlier one of the same source stand in the table `repeats` (`assets.stores.contract.note_repeats`).
    """
    keys = [key for key in KEYS if positions_given or key != "position"]
    staged, first, last = connection.execute(
        "SELECT count(*), coalesce(min(timestamp), 0), coalesce(max(timestamp), 0) FROM staged_behaviors"
    ).fetchall()[0]
    same = " AND ".join(f"b.{key} = s.{key}" for key in keys)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE known AS SELECT s.file_row FROM staged_behaviors AS s SEMI JOIN "
        f"(SELECT * FROM behaviors WHERE timestamp BETWEEN {first} AND {last}) AS b ON {same}"
    )
    repeated, dropped = (
        _count(connection, f"SELECT count(*) FROM ({rows})")
        for rows in ("FROM repeats", "SELECT repeated FROM repeats UNION SELECT file_row FROM known")
    )
    gone = "WHERE file_row NOT IN (SELECT repeated FROM repeats UNION SELECT file_row FROM known)" if dropped else ""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW new_behaviors AS SELECT * FROM staged_behaviors {gone}")
    return {"behaviors_new": staged - dropped, "behaviors_known": dropped - repeated, "behaviors_repeated": repeated}


def append_new(connection: duckdb.DuckDBPyConnection, batch: str, *, positions_given: bool) -> None:
    """Append `new_behaviors`."""
    for part, position, joins in [("new_behaviors", "s.position", "")] if positions_given else _positions(connection):
        connection.execute(
            "INSERT INTO behaviors SELECT s.user_id, s.item_id, s.event, s.value, s.timestamp, "
            f"CAST({position} AS INTEGER), ? FROM {part} AS s {joins}",
            [batch],
        )


def _positions(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str]]:
    """Parts of `new_behaviors`: SQL of the rows s, of their position, and of the joins it takes."""
    place = "row_number() OVER (PARTITION BY s.user_id ORDER BY s.timestamp, s.file_row)"
    if not connection.execute("SELECT 1 FROM behaviors LIMIT 1").fetchall():
        return [("new_behaviors", f"{place} - 1", "")]
    first = _count(connection, "SELECT coalesce(min(timestamp), 0) FROM new_behaviors")
    users = "user_id IN (SELECT user_id FROM new_behaviors)"
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE ends AS SELECT user_id, max(position) AS last, max(timestamp) AS newest "
        f"FROM behaviors WHERE {users} GROUP BY user_id"
    )
    newest = "LEFT JOIN ends AS e ON s.user_id = e.user_id"
    place = f"coalesce(e.last, -1) + {place}"
    if not connection.execute(f"SELECT 1 FROM ends WHERE newest > {first} LIMIT 1").fetchall():
        return [("new_behaviors", place, newest)]  # nothing is later than what comes in: the place among the newest
    # the few that come late: the first later behavior's position; the others, as if those had not come
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE late AS SELECT s.* FROM new_behaviors AS s JOIN ends AS e "
        "ON s.user_id = e.user_id AND s.timestamp < e.newest"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE times AS SELECT user_id, timestamp, min(position) AS position FROM behaviors "
        f"WHERE timestamp > {first} AND user_id IN (SELECT user_id FROM late) GROUP BY user_id, timestamp"
    )
    later = "ASOF JOIN times AS t ON s.user_id = t.user_id AND s.timestamp < t.timestamp"
    others = "(SELECT * FROM new_behaviors WHERE file_row NOT IN (SELECT file_row FROM late))"
    return [("late", "t.position", later), (others, place, newest)]
