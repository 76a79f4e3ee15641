"""One DuckDB file: opened for a moment, in one transaction, with a bounded wait for whoever holds it.

- While one process writes, DuckDB refuses every other open, also a read: opening is tried again for a bounded time, and then
  `Busy` names the file and who holds it.
- Reading what does not exist yet creates nothing.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import duckdb

from model.errors import Busy, Corrupt, NotReady

__all__ = ["DuckFile", "Empty"]


class Empty(NotReady):
    """Nothing was ever stored here."""


class DuckFile:
    """The DuckDB file at `path`; nothing is opened before a method needs it, nothing stays open after."""

    schema: ClassVar[str]
    """Statements that make its tables where they are missing."""
    table: ClassVar[str]
    """One of them, by which a file that holds something is known."""
    hint: ClassVar[str]
    """What fills it, for the message that there is nothing."""
    lost: ClassVar[str]
    """What to do where the file is none of DuckDB's."""

    def __init__(self, path: Path, *, wait_s: float = 30.0) -> None:
        self.path, self.wait_s = path, wait_s

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
                    raise Corrupt(f"{self.path} is not a DuckDB file; {self.lost}") from error
                # held by another process, or open in this one in the other mode
                if "lock" not in message and "different configuration" not in message:
                    raise
                if time.monotonic() + pause > deadline:
                    holder = re.search(r"\(PID \d+\)", message)
                    raise Busy(
                        f"{self.path} is in use by another process{' ' + holder[0] if holder else ''} and was for "
                        f"{self.wait_s:g} s; wait for it to end, or end it, and try again"
                    ) from error
            time.sleep(pause)
            pause = min(pause * 1.6, 1.0)

    @contextlib.contextmanager
    def connect(self, *, write: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection inside one transaction: committed at the end, rolled back on an exception, closed either way.

        Reading a file that does not exist yet raises `NotReady`; writing creates it. Do not open one inside another:
        reading and writing exclude each other also within a process.
        """
        if write:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists() or not self.path.stat().st_size:
            raise Empty(f"{self.path} does not exist yet; {self.hint}")
        connection = self._open(write=write)
        try:
            connection.execute("BEGIN")
            if write:
                connection.execute(self.schema)
            elif not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [self.table]).fetchall():
                raise Empty(f"{self.path} holds nothing yet; {self.hint}")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()  # rolls back what was not committed

    def rows(self, statement: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of one query."""
        with self.connect() as connection:
            return connection.execute(statement, parameters or []).fetchall()

    def rows_if_any(self, statement: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Like `rows`, no rows where there is no file yet."""
        try:
            return self.rows(statement, parameters)
        except Empty:
            return []
