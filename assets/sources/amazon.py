r"""Amazon 5-core sequences: `NAME.txt`, one line a user, with `NAME_item2attributes.json`, an item's attribute ids.

- A line is `user item item ...`, oldest first, apart by white space. The place in the line, from 0, is the position, and the
  position alone decides the order: the layout has no times.
- The timestamp is the position too: in the first minutes of 1970 nobody takes it for a time, and a grown export does not
  double what is known. It is good for no daily partition and no split by date. The event is "review", what the lines list.
- There are no words: categories are "attribute 17, attribute 3", in the file's order, and so is the title, which is shown
  beside the id; no description. "item 123" is no title here: items are numbered as users first meet them, so numbers tell
  of test items (the ten above a user's last but one item hold .031 of Beauty's test items, popularity .012; 2026-11-22),
  and what stands in a title goes through `item_text` into the embeddings.
- The attributes are the catalogue: an item in no line stays, cold; an item in a line that they do not list is refused.
- DuckDB holds each file, a few megabytes, in memory as one text. Long logs belong in the neutral layout.

Not covered: files with times (`reviews_*.json`), attributes as text, negative samples (`*_sample.txt`).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import duckdb

from assets.sources.base import FolderSource, Staged, Table
from model.errors import BadInput

__all__ = ["ATTRIBUTES", "AmazonSource"]

ATTRIBUTES = "_item2attributes.json"
EVENT = "review"
TEXT = "SELECT ltrim(content, chr(65279)) AS text FROM read_text(?)"  # some editors put a byte order mark in front
ENTRIES = f"SELECT unnest(map_entries(CAST(CAST(text AS JSON) AS MAP(VARCHAR, JSON)))) AS entry FROM ({TEXT})"
LINES = (
    r"SELECT line, regexp_extract_all(text, '\S+') AS ids FROM (SELECT unnest(texts) AS text, generate_subscripts(texts, 1) "
    rf"AS line FROM (SELECT string_split_regex(text, '\r\n|\n|\r') AS texts FROM ({TEXT}))) WHERE regexp_matches(text, '\S')"
)


class _Whole(Table):
    """A file as one text, from which a temporary table is made."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        super().__init__(connection, path, "read_text(?)")

    def keep(self, table: str, select: str) -> None:
        """Make `table` of `select`, which reads the file once; raises `BadInput` where there is nothing to keep."""
        self._run(f"CREATE OR REPLACE TEMP TABLE {table} AS {select}")
        if not self.first(f"SELECT count(*) FROM {table}")[0]:
            raise BadInput(f"{self.path} holds nothing but empty lines or braces; export it again")

    def first(self, query: str) -> tuple[Any, ...]:
        """The one row of an aggregate."""
        return self.connection.execute(query).fetchall()[0]


class AmazonSource(FolderSource):
    """Reads the sequences in the file `text` and the attributes beside it; the catalogue is `amazon-` and the file's name."""

    def __init__(self, text: Path) -> None:
        super().__init__(text.parent, items=f"{text.stem}{ATTRIBUTES}", behaviors=text.name)
        self.name = f"amazon-{text.stem.lower().replace('_', '-')}"
        self.location = str(self.behaviors)
        self.command = f"miss ingest {shlex.quote(self.location)}"

    def stage(self, connection: duckdb.DuckDBPyConnection) -> Staged:
        """Stage both files; raises `BadInput` for what is no JSON, short lines, repeated users and items, unknown items."""
        self._stage_items(_Whole(connection, self.items))
        self._stage_behaviors(_Whole(connection, self.behaviors))
        return Staged(positions_given=True)

    def _stage_items(self, file: _Whole) -> None:
        file.keep(
            "amazon_items", f"SELECT entry.key AS item_id, CAST(entry.value AS VARCHAR) AS listed FROM ({ENTRIES})"
        )
        found, item, listed = file.first(
            "SELECT count(*), min(item_id), coalesce(min_by(coalesce(listed, 'null'), item_id), '') FROM amazon_items "
            r"WHERE NOT coalesce(regexp_full_match(listed, '\[\s*(\d+\s*(,\s*\d+\s*)*)?\]'), false)"
        )
        if found:
            raise BadInput(
                f"{file.path} has {found:,} items whose attributes are no list of whole numbers, such as item {item!r} with "
                f"{listed[:80]}; give [] where there are none"
            )
        found, item = file.first(
            "SELECT count(*), min(item_id) FROM (SELECT item_id FROM amazon_items GROUP BY item_id HAVING count(*) > 1)"
        )
        if found:
            raise BadInput(f"{file.path} lists {found:,} items more than once, such as {item!r}; give each one list")
        file.connection.execute(
            "CREATE TEMP TABLE staged_items AS SELECT item_id, coalesce(words, 'no attributes') AS title, "
            "CAST(NULL AS VARCHAR) AS description, words AS categories, CAST(NULL AS VARCHAR) AS image FROM (SELECT item_id, "
            r"'attribute ' || nullif(array_to_string(regexp_extract_all(listed, '\d+'), ', attribute '), '') AS words "
            "FROM amazon_items)"
        )

    def _stage_behaviors(self, file: _Whole) -> None:
        file.keep("amazon_lines", LINES)
        found, line, user = file.first(
            "SELECT count(*), min(line), min_by(ids[1], line) FROM amazon_lines WHERE len(ids) = 1"
        )
        if found:
            raise BadInput(
                f"{file.path} has {found:,} lines without items, the first line {line} with only {user!r}; a line is a user "
                "and then that user's items, oldest first"
            )
        found, user, lines = file.first(
            "SELECT count(*), min_by(user, lines[1]), min_by(lines, lines[1]) FROM (SELECT ids[1] AS user, "
            "list(line ORDER BY line) AS lines FROM amazon_lines GROUP BY user HAVING count(*) > 1)"
        )
        if found:
            raise BadInput(
                f"{file.path} has {found:,} users on more than one line, such as {user!r} on lines {lines[0]} and {lines[1]}; "
                "join them, oldest first"
            )
        file.connection.execute(
            f"CREATE TEMP TABLE staged_behaviors AS SELECT user_id, item_id, '{EVENT}' AS event, CAST(NULL AS DOUBLE) AS value, "
            "CAST(place AS BIGINT) AS timestamp, CAST(place AS INTEGER) AS position, "
            "row_number() OVER (ORDER BY line, place) AS file_row FROM (SELECT line, ids[1] AS user_id, "
            "unnest(ids[2:]) AS item_id, generate_subscripts(ids[2:], 1) - 1 AS place FROM amazon_lines) ORDER BY file_row"
        )
        found, item, user = file.first(
            "SELECT count(DISTINCT item_id), min_by(item_id, file_row), min_by(user_id, file_row) "
            "FROM staged_behaviors ANTI JOIN staged_items USING (item_id)"
        )
        if found:
            raise BadInput(
                f"{file.path} has {found:,} items that {self.items.name} does not list, such as {item!r} of user {user!r}; "
                "the two files must be of one export"
            )
