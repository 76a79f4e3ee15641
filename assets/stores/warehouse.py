"""The warehouse: one DuckDB file with items, behaviors, what was ingested, the gate's verdicts and the promotion ledger.

- Connections are short-lived. While one process writes, DuckDB refuses every other open, also a read: opening is
  tried again for a bounded time, and then `NotReady` names the file and who holds it.
- An ingest is one transaction: stage into temporary tables, validate, append. Killed or refused at any point, it leaves
  what was there before.
- Behaviors are append-only; what is already there is not added again, so a grown export may be ingested whole
  (`assets.stores.ingest` says how rows are told apart).
- Items of an earlier export stay; changed ones are updated.
- Content digests do not depend on the order of insertion, on batches, or on where the pictures' folder lies.

Not covered: several writers at once, deleting a user or an item, and pictures changed under the same name (the
embeddings find those by the pictures' own digests).
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from assets import contract
from assets.sources.base import Source, identifier
from assets.stores.ingest import BEHAVIOR_FRAME, ITEM_TEXTS, IngestReport, append, known_items, staged_frames
from model.errors import BadInput, Corrupt, NotReady, Refused
from model.files import canonical_json, digest_json
from model.histories import Histories

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ACTIONS", "IngestReport", "Warehouse"]

ACTIONS = ("bootstrap", "promote", "rollback", "refuse")
EMPTY_HINT = "run `miss ingest DIR`, or `miss demo` for the embedded catalogue"
SCHEMA = """
CREATE TABLE IF NOT EXISTS catalogue(name VARCHAR NOT NULL, simulated BOOLEAN NOT NULL, digest VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS items(item_id VARCHAR PRIMARY KEY, title VARCHAR NOT NULL, description VARCHAR, categories VARCHAR,
    image VARCHAR, batch_id VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS behaviors(user_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event VARCHAR NOT NULL, value DOUBLE,
    timestamp BIGINT NOT NULL, position INTEGER NOT NULL, batch_id VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS ingests(batch_id VARCHAR NOT NULL, source VARCHAR NOT NULL, source_digest VARCHAR NOT NULL,
    items BIGINT NOT NULL, behaviors BIGINT NOT NULL, ingested_at TIMESTAMP NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts(bundle_digest VARCHAR NOT NULL, created_at TIMESTAMP NOT NULL, passed BOOLEAN NOT NULL,
    document VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS ledger(seq BIGINT NOT NULL, "at" TIMESTAMP NOT NULL, actor VARCHAR NOT NULL, action VARCHAR NOT NULL,
    version VARCHAR NOT NULL, bundle_digest VARCHAR NOT NULL, reason VARCHAR NOT NULL);
"""
# what a row says, as one text that no other row has: every text led by its length, a missing one by nothing. The picture
# goes by its name, so that a home may move with its folder
ROW_TEXT = {
    "items": "concat(strlen(item_id), ':', item_id, strlen(title), ':', title, strlen(description), ':', description, "
    "strlen(categories), ':', categories, regexp_replace(image, '^.*/', ''))",
    "behaviors": "concat(strlen(user_id), ':', user_id, strlen(item_id), ':', item_id, strlen(event), ':', event, value, ';', "
    "timestamp, ';', position)",
}


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class _Empty(NotReady):
    """Nothing was ever stored here."""


class Warehouse:
    """The DuckDB file at `path`; nothing is opened before a method needs it, nothing stays open after."""

    def __init__(self, path: Path, *, wait_s: float = 30.0) -> None:
        self.path, self.wait_s = path, wait_s

    # -- connections ---------------------------------------------------------------------------------------------------

    def _open(self, *, write: bool) -> duckdb.DuckDBPyConnection:
        deadline, pause = time.monotonic() + self.wait_s, 0.02
        while True:
            try:
                # no extension is ever fetched: what the readers need is part of duckdb's wheel
                offline = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
                return duckdb.connect(str(self.path), read_only=not write, config=offline)
            except (duckdb.IOException, duckdb.ConnectionException) as error:
                message = str(error)
                if "not a valid DuckDB database" in message:
                    if write and self.path.stat().st_size == 0:  # killed between creating the file and its first block
                        self.path.unlink()
                        continue
                    raise Corrupt(
                        f"{self.path} is not a DuckDB file; move it away and run `miss ingest` again"
                    ) from error
                # held by another process, or open in this one in the other mode
                if "lock" not in message and "different configuration" not in message:
                    raise
                if time.monotonic() + pause > deadline:
                    holder = re.search(r"\(PID \d+\)", message)
                    raise NotReady(
                        f"{self.path} is in use by another process{' ' + holder[0] if holder else ''} and was for "
                        f"{self.wait_s:g} s; wait for it to end, or end it, and try again"
                    ) from error
            time.sleep(pause)
            pause = min(pause * 1.6, 1.0)

    @contextlib.contextmanager
    def connect(self, *, write: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection inside one transaction: committed at the end, rolled back on an exception, closed either way.

        Reading a warehouse that does not exist yet raises `NotReady`; writing creates it. Do not open one inside another:
        reading and writing exclude each other also within a process.
        """
        if write:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists() or not self.path.stat().st_size:
            raise _Empty(f"{self.path} does not exist yet; {EMPTY_HINT}")
        connection = self._open(write=write)
        try:
            connection.execute("BEGIN")
            if write:
                connection.execute(SCHEMA)
            elif not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'ledger'").fetchall():
                raise _Empty(f"{self.path} holds nothing yet; {EMPTY_HINT}")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()  # rolls back what was not committed

    def _rows(self, statement: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(statement, parameters or []).fetchall()

    def _rows_if_any(self, statement: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Like `_rows`, no rows where there is no warehouse yet."""
        try:
            return self._rows(statement, parameters)
        except _Empty:
            return []

    # -- ingest --------------------------------------------------------------------------------------------------------

    def ingest(self, source: Source) -> IngestReport:
        """Add what `source` holds and the warehouse does not; all of it or, on any error, nothing.

        Raises `Refused` where the home holds another catalogue, `BadInput` where the source or the contract fails.
        """
        started = time.monotonic()
        known, digest = "SELECT 1 FROM ingests WHERE source_digest = ?", source.digest()
        self._refuse_other(source, self._rows_if_any("SELECT name FROM catalogue"))
        if self._rows_if_any(known, [digest]):
            return self._report(source, digest, unchanged=True)
        contract.library()  # seconds of imports, better before the file is locked than while
        with self.connect(write=True) as connection:
            # asked again, now that no one else can write
            self._refuse_other(source, connection.execute("SELECT name FROM catalogue").fetchall())
            if connection.execute(known, [digest]).fetchall():
                return self._report(source, digest, unchanged=True)
            staged = source.stage(connection)
            summary = contract.validate(*staged_frames(connection), known_ids=known_items(connection))
            counts = append(connection, source, staged, digest)
        return self._report(
            source,
            digest,
            unchanged=False,
            images_missing=staged.images_missing,
            contract=summary,
            seconds=time.monotonic() - started,
            **counts,
        )

    def _refuse_other(self, source: Source, held: list[tuple[Any, ...]]) -> None:
        if held and held[0][0] != source.name:
            raise Refused(
                f"{self.path.parent} holds the catalogue {held[0][0]!r} and one home holds one catalogue, so {source.name!r} "
                f"was not ingested; give it a home of its own: `MISS_HOME=.miss-other {source.command}`"
            )

    @staticmethod
    def _report(source: Source, digest: str, **found: Any) -> IngestReport:
        return IngestReport(
            catalogue=source.name,
            simulated=source.simulated,
            source=source.location,
            source_digest=digest,
            batch_id=digest[:16],
            **found,
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Rows of items and behaviors and distinct users; zeros where nothing was ingested yet."""
        rows = self._rows_if_any(
            "SELECT (SELECT count(*) FROM items), (SELECT count(DISTINCT user_id) FROM behaviors), (SELECT count(*) FROM behaviors)"
        )
        return dict(zip(("items", "users", "behaviors"), rows[0] if rows else (0, 0, 0), strict=True))

    def catalogue(self) -> tuple[str, bool]:
        """(name of the catalogue, whether its behaviors are simulated); `NotReady` where nothing was ingested yet."""
        rows = self._rows_if_any("SELECT name, simulated FROM catalogue")
        if not rows:
            raise NotReady(f"{self.path} holds no catalogue yet; {EMPTY_HINT}")
        return str(rows[0][0]), bool(rows[0][1])

    def items_frame(self) -> pd.DataFrame:
        """All items in the catalogue's order: item_id, title, description, categories, image; row i is item index i."""
        self.catalogue()
        with self.connect() as connection:
            return connection.execute(f"SELECT item_id, {', '.join(ITEM_TEXTS)} FROM items ORDER BY item_id").df()

    def behaviors_frame(self) -> pd.DataFrame:
        """All behaviors, without order: user_id, item_id, event, value, timestamp, position, and whether value is finite."""
        self.catalogue()
        with self.connect() as connection:
            return connection.execute(f"SELECT {BEHAVIOR_FRAME} FROM behaviors").to_arrow_table().to_pandas()

    def histories(self) -> tuple[Histories, np.ndarray]:
        """(histories of all users, (U,) their ids as <U text); users in the order of their ids, items as indices.

        Within a user by position, then time, then item: the order in which behaviors were inserted plays no part.
        """
        self.catalogue()
        with self.connect() as connection:
            items = connection.execute(
                "WITH places AS (SELECT item_id, CAST(row_number() OVER (ORDER BY item_id) - 1 AS INTEGER) AS item FROM items) "
                "SELECT p.item FROM behaviors AS b JOIN places AS p USING (item_id) "
                "ORDER BY b.user_id, b.position, b.timestamp, b.item_id, b.event"
            ).fetchnumpy()["item"]
            users = connection.execute(
                "SELECT user_id, count(*) AS behaviors FROM behaviors GROUP BY user_id ORDER BY user_id"
            ).fetchnumpy()
            n_items = connection.execute("SELECT count(*) FROM items").fetchall()[0][0]
        offsets = np.concatenate([[0], np.cumsum(users["behaviors"])]).astype(np.int64)
        histories = Histories(offsets=offsets, items=np.ascontiguousarray(items, np.int32), n_items=int(n_items))
        return histories, np.asarray(users["user_id"], dtype=np.str_)

    def digests(self) -> dict[str, str]:
        """sha256 (64 hex digits) of the content of items and of behaviors, whatever order they were inserted in.

        No two rows are equal, so the exclusive-or of the rows' md5 with their number is a digest of the set, which
        sha256 seals (md5, since DuckDB's own hash may change between versions). It tells versions apart; it is no proof
        against forgery.
        """
        self.catalogue()
        digests = {}
        with self.connect() as connection:
            for table, text in ROW_TEXT.items():
                found = connection.execute(f"SELECT count(*), bit_xor(md5_number({text})) FROM {table}").fetchall()[0]
                digests[table] = digest_json([str(each) for each in found])
        return digests

    # -- verdicts and ledger -------------------------------------------------------------------------------------------

    def record_verdict(self, bundle_digest: str, passed: bool, document: dict[str, Any]) -> None:
        """Keep the gate's verdict on a bundle; `document` holds JSON values."""
        with self.connect(write=True) as connection:
            connection.execute(
                "INSERT INTO verdicts VALUES (?, ?, ?, ?)", [bundle_digest, _now(), passed, canonical_json(document)]
            )

    def verdict(self, bundle_digest: str) -> dict[str, Any] | None:
        """The newest verdict on a bundle, {"bundle_digest", "created_at", "passed", "document"}; None where there is none."""
        rows = self._rows_if_any(
            "SELECT bundle_digest, created_at, passed, document FROM verdicts WHERE bundle_digest = ? "
            "ORDER BY created_at DESC, rowid DESC LIMIT 1",
            [bundle_digest],
        )
        if not rows:
            return None
        digest, created_at, passed, document = rows[0]
        return {
            "bundle_digest": digest,
            "created_at": created_at.isoformat(),
            "passed": passed,
            "document": json.loads(document),
        }

    def append_ledger(self, *, actor: str, action: str, version: str, bundle_digest: str, reason: str) -> int:
        """Write down who did what to which version and why; returns the entry's number, 1 for the first."""
        if action not in ACTIONS:
            raise BadInput(f"{action!r} is no action of the ledger; use one of {', '.join(ACTIONS)}")
        with self.connect(write=True) as connection:
            return int(
                connection.execute(
                    "INSERT INTO ledger SELECT coalesce(max(seq), 0) + 1, ?, ?, ?, ?, ?, ? FROM ledger RETURNING seq",
                    [_now(), actor, action, str(version), bundle_digest, reason],
                ).fetchall()[0][0]
            )

    def ledger(self) -> list[dict[str, Any]]:
        """All entries, oldest first: {"seq", "at" (ISO, UTC), "actor", "action", "version", "bundle_digest", "reason"}."""
        names = ("seq", "at", "actor", "action", "version", "bundle_digest", "reason")
        rows = self._rows_if_any(f"SELECT {', '.join(map(identifier, names))} FROM ledger ORDER BY seq")
        return [dict(zip(names, row, strict=True)) | {"at": row[1].isoformat()} for row in rows]
