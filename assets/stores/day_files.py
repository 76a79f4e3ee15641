"""Behaviors as Parquet, by day and bucket of users, where all machines of a cluster see them: a shared disk or object storage.

    day=2003-01-14/bucket=0/<16 digits of its content>.parquet     every column of `behaviors`
    manifest.json                                                  which files are the behaviors, and what lies there no more

- The warehouse stays what counts; here is a copy of it, brought up to date before it is read: only days and buckets whose content
  changed are written again. A file is named by its content and never changed, so a reader of an older state is not disturbed; what
  the last update replaced is deleted by the next.
- Buckets divide users by a digest of their ids, and number a power of two that grows with the log and never shrinks.
- The manifest comes last, in one rename or one PUT: killed before that, an update has changed nothing.
- Object storage is what `pyarrow.fs` speaks to: s3://, gs://, abfs://, with credentials where those look for them.

Not covered: the right to be forgotten in files that older manifests named (they go with the next update).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from assets.stores.landing import DAY, days_since_1970
from model.errors import BadInput, Corrupt
from model.files import MANIFEST, digest_json, replacing, write_json

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["BUCKET_ROWS", "EXPORT_ROWS", "DayFiles", "Written"]

BUCKET_ROWS = 1 << 22
"""Behaviors of a bucket, some: one shard of work, in the memory of one worker."""
EXPORT_ROWS = 1 << 20
"""Behaviors that are sorted into files at once, some 250 MB of memory; the table is read once for each such group."""
AT_LEAST = 2
PUTS = 16
"""Files that are brought to object storage at once."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What the manifest says."""

    buckets: int = 0
    """How many; 0 where nothing was written yet."""
    files: Mapping[str, list[str]] = field(default_factory=dict)
    """"day/bucket/digest" -> names of its files, relative to the root."""
    replaced: list[str] = field(default_factory=list)
    """Files of the state before, which a reader may still have open."""

    def of_bucket(self, bucket: int) -> list[str]:
        """Names of a bucket's files, in the order of days."""
        return [name for key in sorted(self.files) if key.split("/")[1] == str(bucket) for name in self.files[key]]


class DayFiles:
    """The files under `uri`: a folder, or a URI of object storage. Nothing is touched before a method is called."""

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri)

    def update(self, connection: duckdb.DuckDBPyConnection, key: str) -> Written:
        """Bring the files up to date with the table `behaviors` of a connection that nobody writes to.

        key: SQL of a row's content as one text, which no other row has. Raises BadInput where `uri` cannot be used.
        """
        known, rows = self.written(), int(connection.execute("SELECT count(*) FROM behaviors").fetchall()[0][0])
        buckets = max(known.buckets, AT_LEAST)
        while buckets * BUCKET_ROWS < rows:
            buckets *= 2
        bucket = f"CAST(md5_number_lower(user_id) % {buckets} AS INTEGER)"
        found = connection.execute(
            f"SELECT {DAY} AS day, {bucket} AS bucket, count(*), bit_xor(md5_number({key})) FROM behaviors GROUP BY ALL"
        ).fetchall()
        wanted = {(day, b): digest_json([buckets, count, str(digest)])[:16] for day, b, count, digest in found}
        counts = {(day, b): count for day, b, count, _ in found}
        parts = {f"{day}/{b}/{digest}": (day, b) for (day, b), digest in wanted.items()}
        files = {name: list(known.files[name]) for name in parts if name in known.files}
        if fresh := {name: part for name, part in parts.items() if name not in files}:
            names = {part: name for name, part in fresh.items()}
            for group in _groups(sorted(names), counts):
                with tempfile.TemporaryDirectory() as scratch:
                    _export(connection, Path(scratch), bucket, group)
                    files |= self._put(Path(scratch), names)
        named = {name for each in files.values() for name in each}
        before = {name for each in known.files.values() for name in each}
        told = Written(buckets=buckets, files=files, replaced=sorted(before - named))
        if fresh or before - named or buckets != known.buckets:
            self._write(told)
            self._delete(set(known.replaced) - named)
        return told

    def written(self) -> Written:
        """What the manifest says; nothing where there is none."""
        import json

        from pyarrow.fs import FileType

        system, root = self.place()
        path = f"{root}/{MANIFEST}"
        try:
            if system.get_file_info(path).type == FileType.NotFound:
                return Written()
            with system.open_input_stream(path) as file:
                return Written(**json.loads(file.read()))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise Corrupt(f"{self.uri}/{MANIFEST} is not readable ({error}); delete it and run again") from error
        except OSError as error:
            raise BadInput(f"MISS_DAY_FILES = {self.uri!r} cannot be read ({_first_line(error)})") from error

    def place(self) -> tuple[FileSystem, str]:
        """Whoever reads: the file system, and the root's path in it. Raises BadInput where there is none of that kind."""
        import pyarrow as pa
        from pyarrow.fs import FileSystem, LocalFileSystem

        if self._folder is not None:
            return LocalFileSystem(), str(self._folder)
        try:
            system, root = FileSystem.from_uri(self.uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadInput(f"MISS_DAY_FILES = {self.uri!r} cannot be used ({_first_line(error)})") from error
        return system, root

    @property
    def _folder(self) -> Path | None:
        return None if "://" in self.uri else Path(self.uri)

    def _put(self, scratch: Path, parts: Mapping[tuple[str, int], str]) -> dict[str, list[str]]:
        """Bring the files that DuckDB wrote to their place; the part's name -> its files' names."""
        moves = list(_named(scratch, parts))
        if self._folder is None:
            import pyarrow.fs as fs

            system, root = self.place()

            def put(move: tuple[str, Path, str]) -> None:
                fs.copy_files(str(move[1]), f"{root}/{move[2]}", fs.LocalFileSystem(), system)
        else:
            folder = self._folder

            def put(move: tuple[str, Path, str]) -> None:
                with replacing(folder / move[2]) as target, move[1].open("rb") as source:
                    shutil.copyfileobj(source, target)

        with ThreadPoolExecutor(PUTS) as pool:
            list(pool.map(put, moves))
        found: dict[str, list[str]] = {}
        for part, _, name in moves:
            found.setdefault(part, []).append(name)
        return found

    def _write(self, told: Written) -> None:
        if self._folder is not None:
            write_json(self._folder / MANIFEST, asdict(told))
            return
        import json

        system, root = self.place()
        with system.open_output_stream(f"{root}/{MANIFEST}") as file:  # one PUT, when it is closed
            file.write(json.dumps(asdict(told)).encode())

    def _delete(self, names: set[str]) -> None:
        from pyarrow.fs import FileType

        system, root = self.place()
        for name in names:
            if system.get_file_info(f"{root}/{name}").type != FileType.NotFound:
                system.delete_file(f"{root}/{name}")


def _groups(parts: Sequence[tuple[str, int]], rows: Mapping[tuple[str, int], int]) -> Iterator[list[tuple[str, int]]]:
    """The parts in turn, some at a time: of at most `EXPORT_ROWS` rows where one of them is not larger by itself."""
    group: list[tuple[str, int]] = []
    held = 0
    for part in parts:
        if group and held + rows[part] > EXPORT_ROWS:
            yield group
            group, held = [], 0
        group.append(part)
        held += rows[part]
    if group:
        yield group


def _export(connection: duckdb.DuckDBPyConnection, folder: Path, bucket: str, parts: Iterable[tuple[str, int]]) -> None:
    """DuckDB's own hive layout of these days and buckets, days in order, so that a part is one file or few."""
    connection.execute("CREATE OR REPLACE TEMP TABLE fresh_parts(day VARCHAR, bucket INTEGER)")
    rows: list[list[Any]] = [[day, b] for day, b in parts]
    for begin in range(0, len(rows), 1000):
        values = ", ".join(f"('{day}', {b})" for day, b in rows[begin : begin + 1000])
        connection.execute(f"INSERT INTO fresh_parts VALUES {values}")
    told = str(folder).replace("'", "''")
    first, last = min(rows)[0], max(rows)[0]
    # by time first: of other days' rows nothing more is reckoned, and DuckDB passes over whole blocks of them
    within = f"timestamp BETWEEN {days_since_1970(first) * 86_400} AND {days_since_1970(last) * 86_400 + 86_399}"
    connection.execute(
        f"COPY (SELECT * FROM (SELECT * EXCLUDE (batch_id), {DAY} AS day, {bucket} AS bucket FROM behaviors WHERE {within}) "
        f"SEMI JOIN fresh_parts USING (day, bucket) ORDER BY day, bucket) TO '{told}' "
        "(FORMAT parquet, PARTITION_BY (day, bucket), COMPRESSION zstd, COMPRESSION_LEVEL 1, OVERWRITE_OR_IGNORE)"
    )


def _named(folder: Path, parts: Mapping[tuple[str, int], str]) -> Iterator[tuple[str, Path, str]]:
    """(part, file that DuckDB wrote, name it is to have) of every file."""
    for path in sorted(folder.rglob("*.parquet")):
        day, bucket = (each.partition("=")[2] for each in path.relative_to(folder).parts[:2])
        part = parts[day, int(bucket)]
        digest, number = part.rpartition("/")[2], len(list(path.parent.glob(f"[!.]*{path.suffix}")))
        suffix = f"-{path.stem.rpartition('_')[2]}" if number > 1 else ""
        yield part, path, f"day={day}/bucket={bucket}/{digest}{suffix}.parquet"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
