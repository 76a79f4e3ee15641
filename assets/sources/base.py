"""What every reader of the world's formats shares: the `Source` interface and one way to stage a file in DuckDB.

- A source says which catalogue it is, the digest of what it reads, and stages two temporary tables; it never touches
  the warehouse's own tables. Validation and appending happen elsewhere, in the same transaction.
- Rows never pass through Python: a reader is one `SELECT` over `read_csv`, stored, or over `read_parquet`, which is read as
  often as it is asked (`Warehouse.ingest` holds that the file stayed the same).
- Values are cast here, and a text that is not the number it should be is refused with an example, since after the cast
  it would only be a missing value.

Staged tables: `staged_items` (item_id, title, description, categories, image) and `staged_behaviors` (user_id, item_id,
event, value, timestamp, position, file_row), types as in the warehouse; the latter may be a view.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from model.errors import BadInput
from model.files import digest_file, digest_json

__all__ = ["FolderSource", "Source", "Staged", "Table", "identifier"]

NUMBERS = {"value": "DOUBLE", "timestamp": "BIGINT", "position": "INTEGER"}


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What staging found out on the way."""

    positions_given: bool
    """Whether the source says the order within each user; otherwise the warehouse derives it from time."""
    images_missing: int = 0
    """Items whose image is named but not there; they are staged without one."""


class Source(ABC):
    """One catalogue and its behavior logs, as something outside wrote them."""

    name: str
    """The catalogue; a later export of the same one carries the same name."""
    simulated: bool
    """Whether the behaviors are made up: every table made from them says so."""
    location: str
    """Where it was read from, for people."""
    command: str
    """The command that ingests it, for messages that say the way out."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 (64 hex digits) of everything that would be read: same digest, same staged rows."""

    @abstractmethod
    def stage(self, connection: duckdb.DuckDBPyConnection) -> Staged:
        """Create `staged_items` and `staged_behaviors`; raises `BadInput` where a file is not what it should be."""


class FolderSource(Source):
    """A source whose files lie in one folder: an items file and a behaviors file. The folder's name is the catalogue's."""

    simulated = False

    def __init__(self, folder: Path, *, items: str, behaviors: str) -> None:
        self.folder = folder.resolve()
        self.name = self.folder.name
        self.location = str(self.folder)
        self.command = f"miss ingest {shlex.quote(self.location)}"
        self.items, self.behaviors = self.folder / items, self.folder / behaviors

    def digest(self) -> str:
        """sha256 over both files' digests and the folder, since staged images are absolute paths."""
        files = {path.name: digest_file(path) for path in (self.items, self.behaviors)}
        return digest_json({"files": files, "folder": str(self.folder)})


def identifier(name: str) -> str:
    """A column's name, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


class Table:
    """One file seen as a relation: `sql` with one parameter, the path; its columns and their types by lower-case name."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, sql: str) -> None:
        self.connection, self.path, self.sql = connection, path, sql
        if not path.stat().st_size:
            raise BadInput(f"{path} is empty; export it again")
        rows = self._run(f"DESCRIBE SELECT * FROM {sql}")
        self.columns = {str(row[0]).lower(): (str(row[0]), str(row[1])) for row in rows}

    def _run(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a statement with one parameter, the path."""
        return self._told(statement, [str(self.path)])

    def _told(self, statement: str, parameters: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(statement, parameters).fetchall()
        except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException) as error:
            first = str(error).strip().split("\n")[0]
            raise BadInput(f"{self.path} cannot be read ({first}); it may be cut off, export it again") from error

    def require(self, names: Sequence[str]) -> None:
        """Raise `BadInput` that names the columns which are not there."""
        if missing := [name for name in names if name.lower() not in self.columns]:
            found = ", ".join(actual for actual, _ in self.columns.values())
            raise BadInput(f"{self.path} lacks the columns {', '.join(missing)}; it has {found}")

    def text(self, name: str) -> str:
        """SQL of a column as text, '' and absent columns as NULL; a list becomes its elements joined by commas."""
        if name.lower() not in self.columns:
            return "CAST(NULL AS VARCHAR)"
        actual, kind = self.columns[name.lower()]
        column = identifier(actual)
        return (
            f"nullif(array_to_string({column}, ', '), '')"
            if kind.endswith("]")
            else f"nullif(CAST({column} AS VARCHAR), '')"
        )

    def number(self, name: str, kind: str) -> str:
        """SQL of a column as a number, NULL where it cannot be one; times become seconds since 1970."""
        if name.lower() not in self.columns:
            return f"CAST(NULL AS {kind})"
        actual, found = self.columns[name.lower()]
        column = identifier(actual)
        if found.startswith(("TIMESTAMP", "DATE")):
            column = f"floor(epoch({column}))"
        return f"TRY_CAST({column} AS {kind})"

    def stage_items(self, columns: Mapping[str, str]) -> None:
        """Create `staged_items`; `columns` gives SQL for title, description, categories and image beside item_id."""
        wanted = ("item_id", "title", "description", "categories", "image")
        self._run(
            f"CREATE TEMP TABLE staged_items AS SELECT {', '.join(f'{columns[c]} AS {c}' for c in wanted)} FROM {self.sql}"
        )
        self._hold_rows("staged_items")
        # a title is shown to people, so there always is one
        self.connection.execute("UPDATE staged_items SET title = item_id WHERE title IS NULL")

    def stage_behaviors(self, columns: Mapping[str, str], *, event: str) -> bool:
        """Create `staged_behaviors`; returns whether positions are given.

        `columns` maps user_id, item_id, event, value, timestamp, position to the file's names; `event` fills in
        where the file has none.
        """
        texts = {c: self.text(columns.get(c, c)) for c in ("user_id", "item_id", "event")}
        texts["event"] = f"coalesce({texts['event']}, '{event}')"
        numbers = {c: self.number(columns.get(c, c), kind) for c, kind in NUMBERS.items()}
        raw = {c: self.text(columns.get(c, c)) for c in NUMBERS}
        selected = ", ".join(f"{sql} AS {name}" for name, sql in (texts | numbers).items())
        odd = " ".join(f"WHEN {numbers[c]} IS NULL AND {raw[c]} IS NOT NULL THEN '{c} ' || {raw[c]}" for c in NUMBERS)
        rows = f"SELECT {selected}, CASE {odd} END AS odd"
        if self.sql.startswith("read_parquet("):
            # read as often as it is asked: seventeen times as fast as storing it, and no copy in memory
            file = self.sql.replace("?", "'" + str(self.path).replace("'", "''") + "', file_row_number = true")
            self.connection.execute(f"CREATE TEMP VIEW staged_rows AS {rows}, file_row_number AS nth FROM {file}")
        else:
            # rows go in in the file's order: their number is there already, and a window that counts them takes one core alone
            self._run(f"CREATE TEMP TABLE given_rows AS {rows} FROM {self.sql}")
            self.connection.execute("CREATE TEMP VIEW staged_rows AS SELECT *, rowid AS nth FROM given_rows")
        self.connection.execute(
            "CREATE TEMP VIEW staged_behaviors AS SELECT * EXCLUDE (odd, nth), nth + 1 AS file_row FROM staged_rows"
        )
        # every column is read, so that what cannot be is told here
        found = self._told(
            "SELECT count(odd), min_by(odd, nth), min(nth + 1) FILTER (odd IS NOT NULL), count(position), count(*), "
            "max(strlen(user_id)), max(strlen(item_id)), max(strlen(event)) FROM staged_rows"
        )[0]
        if not found[4]:
            raise BadInput(f"{self.path} has a header but no rows; export it again")
        if found[0]:
            name, _, value = found[1].partition(" ")
            raise BadInput(
                f"{self.path} has {found[0]:,} values that are not numbers, the first in row {found[2]}: {name} is {value!r}; "
                f"a timestamp is whole seconds since 1970, a position a whole number"
            )
        if 0 < found[3] < found[4]:
            raise BadInput(
                f"{self.path} has {found[4] - found[3]:,} rows without a position; give one to every row or to none"
            )
        return bool(found[3])

    def _hold_rows(self, table: str) -> None:
        if not self.connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]:
            raise BadInput(f"{self.path} has a header but no rows; export it again")
