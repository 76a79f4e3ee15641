"""The neutral layout: `items` and `behaviors` as parquet or CSV, pictures beside them.

- items: item_id; title, description, categories (comma-separated or a list) and image (path relative to the folder) are
  optional. An item without a title is shown by its id.
- behaviors: user_id, item_id, timestamp (whole seconds, UTC, or a time type); event ("view" where absent), value and
  position (order within the user) are optional.
- A log is a behaviors file by itself, for a catalogue that is known already.
- An image path that leaves the folder is refused; one that names no file is dropped and counted.

Not covered: images over HTTP, several files per table, compressed CSV.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import duckdb
import pyarrow as pa

from assets.sources.base import FolderSource, Source, Staged, Table
from model.errors import BadInput
from model.files import digest_file

__all__ = ["LogSource", "NeutralSource"]

READERS = {
    ".parquet": "read_parquet(?, hive_partitioning = false)",
    ".csv": "read_csv(?, header = true, all_varchar = true, delim = ',', quote = '\"', escape = '\"', hive_partitioning = false)",
}
OUTSIDE = r"(^[/\\])|(^[A-Za-z]:)|((^|[/\\])\.\.([/\\]|$))"


class NeutralSource(FolderSource):
    """Reads `items` and `behaviors` of the neutral layout."""

    def stage(self, connection: duckdb.DuckDBPyConnection) -> Staged:
        """Stage both files; raises `BadInput` for missing columns, unreadable files and images outside the folder."""
        items = Table(connection, self.items, READERS[self.items.suffix])
        items.require(["item_id"])
        items.stage_items({c: items.text(c) for c in ("item_id", "title", "description", "categories", "image")})
        missing = self._place_images(connection)
        behaviors = Table(connection, self.behaviors, READERS[self.behaviors.suffix])
        behaviors.require(["user_id", "item_id", "timestamp"])
        return Staged(positions_given=behaviors.stage_behaviors({}, event="view"), images_missing=missing)

    def _place_images(self, connection: duckdb.DuckDBPyConnection) -> int:
        """Make image paths absolute, drop those that name no file; returns how many were dropped."""
        outside = connection.execute(
            "SELECT count(*), min(image) FROM staged_items WHERE regexp_matches(image, ?)", [OUTSIDE]
        ).fetchall()[0]
        if outside[0]:
            raise BadInput(
                f"{self.items} names {outside[0]:,} images outside its folder, such as {outside[1]!r}; "
                f"give paths relative to {self.folder}"
            )
        connection.execute(
            r"UPDATE staged_items SET image = regexp_replace(regexp_replace(image, '/(\./)*/*', '/', 'g'), '^(\./)+', '') "
            "WHERE image IS NOT NULL"
        )
        folders = connection.execute(
            "SELECT DISTINCT regexp_replace(image, '[^/]*$', '') FROM staged_items WHERE image IS NOT NULL"
        ).fetchall()
        there: list[str] = []  # names on disk, one listing per folder: a file system call per item would be slower
        for (folder,) in folders:
            if (self.folder / folder).is_dir():
                with os.scandir(self.folder / folder) as entries:
                    there.extend(folder + entry.name for entry in entries if entry.is_file())
        connection.register("images_there", pa.table({"name": pa.array(there, pa.string())}))
        try:
            connection.execute("CREATE TEMP TABLE images_found AS SELECT DISTINCT name FROM images_there")
        finally:
            connection.unregister("images_there")
        missing = connection.execute(
            "SELECT count(*) FROM staged_items WHERE image IS NOT NULL AND image NOT IN (SELECT name FROM images_found)"
        ).fetchall()[0][0]
        connection.execute(
            "UPDATE staged_items SET image = CASE WHEN image IN (SELECT name FROM images_found) THEN ? || image END "
            "WHERE image IS NOT NULL",
            [f"{self.folder}/"],
        )
        return int(missing)


class LogSource(Source):
    """One file of behaviors in the neutral layout, under any name, for the catalogue that a home holds already."""

    def __init__(self, path: Path, *, catalogue: str = "", simulated: bool = False) -> None:
        """catalogue: its name, "" where the warehouse is to say; simulated: whether that catalogue's behaviors are."""
        self.path = path.resolve()
        self.name, self.simulated = catalogue, simulated
        self.location = str(self.path)
        self.command = f"miss ingest {shlex.quote(self.location)}"

    def of(self, catalogue: str, simulated: bool) -> LogSource:
        """The same log, of a catalogue."""
        return LogSource(self.path, catalogue=catalogue, simulated=simulated)

    def digest(self) -> str:
        """sha256 of the file."""
        return digest_file(self.path)

    def stage(self, connection: duckdb.DuckDBPyConnection) -> Staged:
        """Stage the file, and no items; raises `BadInput` for missing columns and what cannot be read."""
        connection.execute(
            "CREATE TEMP TABLE staged_items(item_id VARCHAR, title VARCHAR, description VARCHAR, categories VARCHAR, image VARCHAR)"
        )
        behaviors = Table(connection, self.path, READERS[self.path.suffix])
        behaviors.require(["user_id", "item_id", "timestamp"])
        return Staged(positions_given=behaviors.stage_behaviors({}, event="view"))
