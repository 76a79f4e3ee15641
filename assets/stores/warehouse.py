"""The warehouse: one DuckDB file with items, behaviors, and what was ingested.

- An ingest is one transaction: stage into temporary tables, validate, append. Killed or refused at any point, it leaves
  what was there before.
- Behaviors are append-only; what is already there is not added again, so a grown export may be ingested whole
  (`assets.stores.ingest` says how rows are told apart).
- Items of an earlier export stay; changed ones are updated.
- What comes in lands as Parquet first (`assets.stores.landing`): days of it can be brought in again, and the whole file made anew.
- Content digests do not depend on the order of insertion, on batches, or on where the pictures' folder lies.

Not covered: several writers at once, deleting a user or an item, and pictures changed under the same name (the
embeddings find those by the pictures' own digests).
"""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import duckdb
import numpy as np

from assets.sources.base import Source, Staged
from assets.sources.neutral import LogSource
from assets.stores import contract
from assets.stores.day_files import DayFiles, Written
from assets.stores.duck import DuckFile
from assets.stores.history_rows import read_histories
from assets.stores.ingest import (
    ITEM_TEXTS,
    IngestReport,
    append,
    append_items,
    append_new,
    find_new,
    note,
)
from assets.stores.landing import DAY, LandedSource, Landing
from model.errors import BadInput, Corrupt, NotReady, Refused
from model.files import digest_json
from model.histories import Histories

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["IngestReport", "Warehouse"]

EMPTY_HINT = "run `miss ingest DIR`, or `miss demo` for the embedded catalogue"
# what a row says, as one text that no other row has: every text led by its length, a missing one by nothing. The picture
# goes by its name, so that a home may move with its folder
ROW_TEXT = {
    "items": "concat(strlen(item_id), ':', item_id, strlen(title), ':', title, strlen(description), ':', description, "
    "strlen(categories), ':', categories, regexp_replace(image, '^.*/', ''))",
    "behaviors": "concat(strlen(user_id), ':', user_id, strlen(item_id), ':', item_id, strlen(event), ':', event, value, ';', "
    "timestamp, ';', position)",
}


class Warehouse(DuckFile):
    """Items, behaviors, and what was ingested, of one home."""

    schema: ClassVar[str] = """
CREATE TABLE IF NOT EXISTS catalogue(name VARCHAR NOT NULL, simulated BOOLEAN NOT NULL, digest VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS items(item_id VARCHAR PRIMARY KEY, title VARCHAR NOT NULL, description VARCHAR, categories VARCHAR,
    image VARCHAR, batch_id VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS behaviors(user_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event VARCHAR NOT NULL, value DOUBLE,
    timestamp BIGINT NOT NULL, position INTEGER NOT NULL, batch_id VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS ingests(batch_id VARCHAR NOT NULL, source VARCHAR NOT NULL, source_digest VARCHAR NOT NULL,
    items BIGINT NOT NULL, behaviors BIGINT NOT NULL, ingested_at TIMESTAMP NOT NULL);
"""
    table: ClassVar[str] = "ingests"
    hint: ClassVar[str] = EMPTY_HINT
    lost: ClassVar[str] = "run `miss rebuild`, which makes it again from what has landed"

    def __init__(self, path: Path, *, wait_s: float = 30.0) -> None:
        """path: the file; what comes in lands in the folder `landing` beside it."""
        super().__init__(path, wait_s=wait_s)
        self.landing = Landing(path.with_name("landing"))

    # -- ingest --------------------------------------------------------------------------------------------------------

    def ingest(self, source: Source) -> IngestReport:
        """Add what `source` holds and the warehouse does not; all of it or, on any error, nothing.

        Raises `Refused` where the home holds another catalogue, `BadInput` where the source or the contract fails.
        """
        started = time.monotonic()
        if isinstance(source, LogSource):
            source = source.of(*self.catalogue())
        known, digest = "SELECT 1 FROM ingests WHERE source_digest = ?", source.digest()
        self._refuse_other(source, self.rows_if_any("SELECT name FROM catalogue"))
        if self.rows_if_any(known, [digest]):
            return self._report(source, digest, unchanged=True)
        contract.library()  # seconds of imports, better before the file is locked than while
        with self.connect(write=True) as connection:
            # asked again, now that no one else can write
            self._refuse_other(source, connection.execute("SELECT name FROM catalogue").fetchall())
            if connection.execute(known, [digest]).fetchall():
                return self._report(source, digest, unchanged=True)
            staged = source.stage(connection)
            try:
                summary, counts = self._take(connection, source, staged, digest)
            except duckdb.Error as error:
                self._hold_unchanged(source, digest, error)
                raise
        return self._report(
            source,
            digest,
            unchanged=False,
            images_missing=staged.images_missing,
            contract=summary,
            seconds=time.monotonic() - started,
            **counts,
        )

    def _take(
        self, connection: duckdb.DuckDBPyConnection, source: Source, staged: Staged, digest: str
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Hold what is staged to the contract, let it land, append it; (what the contract says, counts as in `IngestReport`)."""
        facts = contract.facts(
            connection, items="staged_items", behaviors="staged_behaviors", row="file_row", known="items"
        )
        held: list[dict[str, Any]] = []

        def sound(summary: dict[str, Any]) -> None:
            contract.demand(connection, facts, summary)
            self._hold_unchanged(source, digest)
            held.append(summary)

        def land() -> None:
            with ThreadPoolExecutor(1) as beside:  # while the batch is being written; it is published if it is sound
                judged = beside.submit(contract.judge, facts, "behaviors")
                self.landing.keep(connection, source, digest, staged, check=lambda: sound(judged.result()))

        sound(contract.judge(facts, "items"))
        counts = append(connection, source, staged, digest, land=land)
        self._hold_unchanged(source, digest)
        return contract.joined(held), counts

    @staticmethod
    def _hold_unchanged(source: Source, digest: str, error: Exception | None = None) -> None:
        """A file is read more than once: what came first and what came last must be of one export."""
        if source.digest() != digest:
            told = f"{source.location} was changed while it was read; nothing was ingested, try again"
            raise BadInput(told) from error

    def load(self, *, first: str = "", last: str = "9999-12-31") -> dict[str, int]:
        """Bring in what has landed of the days from `first` to `last` (ISO) and is not there; {"behaviors_new", "behaviors_known"}.

        As often as one likes, in any order of days: no row is doubled, and items are as the newest batch has them.
        Raises `NotReady` where nothing has landed, `Corrupt` where a batch is not what was published.
        """
        batches, counts = self.landing.batches(), {"behaviors_new": 0, "behaviors_known": 0}
        if not batches:
            raise NotReady(f"nothing has landed in {self.landing.root} yet; {EMPTY_HINT}")
        with self.connect(write=True) as connection:
            self.landing.stage_items(connection)
            items = append_items(connection, batches[-1].source["digest"][:16])
            noted = {row[0] for row in connection.execute("SELECT source_digest FROM ingests").fetchall()}
            for batch in batches:
                source = LandedSource(batch, first=first, last=last)
                if batch.days and not any(first <= day <= last for day in batch.days):
                    continue
                staged = source.stage(connection)
                contract.note_repeats(connection, "staged_behaviors", "file_row")
                found = find_new(connection, positions_given=staged.positions_given)
                append_new(connection, source.digest()[:16], positions_given=staged.positions_given)
                for name in counts:
                    counts[name] += found[name]
                if source.whole and source.digest() not in noted:
                    note(connection, source, source.digest(), items | found)
            if not connection.execute("SELECT 1 FROM catalogue").fetchall():  # a part of the first batch alone
                newest = batches[-1].source
                row = [newest["name"], newest["simulated"], newest["digest"]]
                connection.execute("INSERT INTO catalogue VALUES (?, ?, ?)", row)
        return counts

    def days(self) -> dict[str, int]:
        """Day (ISO, UTC) -> behaviors, in the order of days; none where nothing was ingested yet."""
        return dict(self.rows_if_any(f"SELECT {DAY} AS day, count(*) FROM behaviors GROUP BY day ORDER BY day"))

    def rebuild(self) -> dict[str, int]:
        """Make the warehouse again from what has landed, beside the old one, and put it in its place; counts of rows.

        Raises `Refused` where the old one can be read and holds what never landed, which would be lost.
        """
        landed, held = {batch.source["digest"] for batch in self.landing.batches()}, []
        with contextlib.suppress(Corrupt):
            held = self.rows_if_any("SELECT source, source_digest FROM ingests ORDER BY ingested_at")
        if absent := [source for source, digest in held if digest not in landed]:
            raise Refused(
                f"{self.path} holds what was ingested from {absent[0]} and never landed in {self.landing.root}, so making it again "
                f"would lose it; move {self.path.name} away and ingest that source again"
            )
        anew = Warehouse(self.path.with_name(f".{self.path.name}.new"), wait_s=self.wait_s)
        anew.landing = self.landing
        for stale in (anew.path, Path(f"{anew.path}.wal")):
            stale.unlink(missing_ok=True)
        anew.load()
        if self.path.exists():
            with contextlib.suppress(Corrupt), self.connect(write=True):  # nobody else has it open
                pass
        os.replace(anew.path, self.path)
        Path(f"{self.path}.wal").unlink(missing_ok=True)
        return self.counts()

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
        rows = self.rows_if_any(
            "SELECT (SELECT count(*) FROM items), (SELECT count(DISTINCT user_id) FROM behaviors), (SELECT count(*) FROM behaviors)"
        )
        return dict(zip(("items", "users", "behaviors"), rows[0] if rows else (0, 0, 0), strict=True))

    def catalogue(self) -> tuple[str, bool]:
        """(name of the catalogue, whether its behaviors are simulated); `NotReady` where nothing was ingested yet."""
        rows = self.rows_if_any("SELECT name, simulated FROM catalogue")
        if not rows:
            raise NotReady(f"{self.path} holds no catalogue yet; {EMPTY_HINT}")
        return str(rows[0][0]), bool(rows[0][1])

    def items_frame(self) -> pd.DataFrame:
        """All items in the catalogue's order: item_id, title, description, categories, image; row i is item index i."""
        self.catalogue()
        with self.connect() as connection:
            return connection.execute(f"SELECT item_id, {', '.join(ITEM_TEXTS)} FROM items ORDER BY item_id").df()

    def held_to_contract(self) -> dict[str, Any]:
        """What the data contract says of all that is stored (`assets.stores.contract.judge`)."""
        self.catalogue()
        with self.connect() as connection:
            return contract.check(connection, items="items", behaviors="behaviors")

    def histories(self) -> tuple[Histories, np.ndarray, np.ndarray]:
        """`assets.stores.history_rows.read_histories` of all that is stored."""
        self.catalogue()
        with self.connect() as connection:
            return read_histories(connection)

    def to_day_files(self, files: DayFiles) -> Written:
        """Bring the behaviors' files by day up to date; what they are. Raises as `DayFiles.update` does."""
        self.catalogue()
        with self.connect() as connection:
            return files.update(connection, ROW_TEXT["behaviors"])

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
