"""The landing zone: every batch of items and behaviors that was ever taken in, as Parquet, in the order in which it came.

- A batch is what the warehouse took from one source, published whole before the warehouse commits it, and never changed: what
  the warehouse holds can be made again from here, day by day or all of it.
- Behaviors lie in the order of their days (UTC), so that a day of a large batch is read without the others.
- The batch's name is its number and the first digits of its source's digest: the same source lands once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb

from assets.sources.base import Source, Staged
from model.files import MANIFEST, digest_json, publish_dir, read_json, verify_dir

__all__ = ["DAY", "Batch", "LandedSource", "Landing", "days_since_1970"]

DAY = "strftime(make_timestamp(timestamp * 1000000), '%Y-%m-%d')"
"""SQL of a behavior's day."""
EPOCH = date(1970, 1, 1)
COLUMNS = "user_id, item_id, event, value, timestamp, position, file_row"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch as it landed."""

    path: Path
    """Its folder: `items.parquet`, `behaviors.parquet` and the manifest."""
    number: int
    """1 for the first."""
    digest: str
    """sha256 over its files."""
    source: Mapping[str, Any]
    """{"name", "simulated", "location", "digest"} of the source."""
    positions_given: bool
    images_missing: int
    days: Mapping[str, int]
    """Day (ISO) -> behaviors."""


class Landing:
    """Batches under `root`; nothing is touched before a method is called."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def keep(
        self,
        connection: duckdb.DuckDBPyConnection,
        source: Source,
        digest: str,
        staged: Staged,
        *,
        check: Callable[[], None],
    ) -> Batch:
        """Publish what `append` takes from the source, on its connection and before the commit; a source lands once.

        Rows that the warehouse had already land no second time, so that a grown export costs what is new in it. check: called
        before the batch is published; what it raises leaves nothing.
        """
        batches = self.batches()
        known = next((each for each in batches if each.source["digest"] == digest), None)
        if known is not None:
            check()
            return known
        number = batches[-1].number + 1 if batches else 1

        def build(folder: Path) -> dict[str, Any]:
            spans = connection.execute(
                "SELECT timestamp // 86400 AS day, count(*), min(file_row), max(file_row) FROM new_behaviors "
                "GROUP BY day ORDER BY day"
            ).fetchall()
            # a log written as it happened lies in the order of its days already
            ordered = all(earlier[3] < later[2] for earlier, later in pairwise(spans))
            by_day = "" if ordered else "ORDER BY timestamp // 86400, file_row"
            for table, query in (
                ("items", f"SELECT * EXCLUDE (batch_id) FROM items WHERE batch_id = '{digest[:16]}' ORDER BY item_id"),
                ("behaviors", f"SELECT {COLUMNS} FROM new_behaviors {by_day}"),
            ):
                connection.execute(
                    f"COPY ({query}) TO '{_quoted(folder / table)}.parquet' "
                    "(FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
                )
            check()
            told = {"name": source.name, "simulated": source.simulated, "location": source.location, "digest": digest}
            return {
                "number": number,
                "source": told,
                "positions_given": staged.positions_given,
                "images_missing": staged.images_missing,
                "days": {str(EPOCH + timedelta(days=day)): count for day, count, *_ in spans},
            }

        path = self.root / f"{number:06d}-{digest[:16]}"
        publish_dir(path, build)
        return self._read(path)

    def batches(self) -> list[Batch]:
        """All batches, oldest first."""
        if not self.root.is_dir():
            return []
        names = sorted(entry.name for entry in os.scandir(self.root) if re.fullmatch(r"\d{6}-[0-9a-f]{16}", entry.name))
        return [self._read(self.root / name) for name in names]

    def days(self) -> dict[str, str]:
        """Day (ISO) -> digest of what landed for it, in the order of days: another one where a later batch added rows."""
        parts: dict[str, list[list[Any]]] = {}
        for batch in self.batches():
            for day, rows in batch.days.items():
                parts.setdefault(day, []).append([batch.digest, rows])
        return {day: digest_json(parts[day]) for day in sorted(parts)}

    def first_day(self) -> date | None:
        """The earliest day of any behavior; None where nothing has landed."""
        return min((date.fromisoformat(day) for batch in self.batches() for day in batch.days), default=None)

    def stage_items(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create `staged_items` of all batches: each item as the newest batch that names it has it."""
        parts = [
            f"SELECT *, {batch.number} AS number FROM read_parquet('{_quoted(batch.path / 'items')}.parquet')"
            for batch in self.batches()
        ]
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE staged_items AS SELECT * EXCLUDE (number) FROM ({' UNION ALL '.join(parts)}) "
            "QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY number DESC) = 1"
        )

    @staticmethod
    def _read(path: Path) -> Batch:
        manifest = read_json(path / MANIFEST)
        return Batch(path=path, digest=manifest["digest"], **manifest["meta"])


class LandedSource(Source):
    """A batch as a source again: all of it, or its behaviors of some days."""

    def __init__(self, batch: Batch, *, first: str = "", last: str = "9999-12-31") -> None:
        """first, last: the days that are staged, ISO, both included."""
        self.batch, self.first, self.last = batch, first, last
        self.name, self.simulated = batch.source["name"], batch.source["simulated"]
        self.location, self.command = batch.source["location"], "miss rebuild"

    @property
    def whole(self) -> bool:
        """Whether no day of the batch is left out."""
        return all(self.first <= day <= self.last for day in self.batch.days)

    def digest(self) -> str:
        """Of the source as it landed."""
        return str(self.batch.source["digest"])

    def stage(self, connection: duckdb.DuckDBPyConnection) -> Staged:
        """Stage the batch's rows; `Corrupt` where its files are not what was published."""
        verify_dir(self.batch.path)
        items, behaviors = (
            f"read_parquet('{_quoted(self.batch.path / name)}.parquet')" for name in ("items", "behaviors")
        )
        connection.execute(f"CREATE OR REPLACE TEMP TABLE staged_items AS SELECT * FROM {items}")
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE staged_behaviors AS SELECT {COLUMNS} FROM {behaviors} "
            "WHERE timestamp // 86400 BETWEEN ? AND ?",
            [days_since_1970(self.first or "0001-01-01"), days_since_1970(self.last)],
        )
        return Staged(positions_given=self.batch.positions_given, images_missing=self.batch.images_missing)


def days_since_1970(day: str) -> int:
    """Of an ISO day."""
    return (date.fromisoformat(day) - EPOCH).days


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
