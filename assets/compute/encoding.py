"""A catalogue through an encoder, shard by shard: rows of `items.parquet` in, vectors out, by content hash on each.

- A shard is a range of rows. Whoever works on it reads those rows and nothing else, encodes what the cache does not hold
  (`model.encoders.encode_catalogue`), and leaves its vectors in a file.
- The parts are put together on disk: neither the contents nor the vectors of the whole catalogue are in memory at once.
- Contents that cannot be used are counted over all shards before they fail a run, so that one look tells of all.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from assets.compute import Engine, Shard
from model.errors import BadInput
from model.files import read_npz, write_npz

__all__ = ["SHARD_ITEMS", "Contents", "EncodeShard", "encoded", "encoder_of"]

SHARD_ITEMS = 8192
COLUMNS = {"text": ("title", "description", "categories"), "image": ("image",)}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is encoded, and by what; names only, so that it can be told to another machine."""

    items: str
    """The catalogue's Parquet file."""
    kind: str
    """"text" or "image"."""
    encoder: str | None
    """Folder of the encoder; the installed packages' own where None."""
    cache: str
    """Folder of vectors by content hash."""


@functools.lru_cache(maxsize=4)
def encoder_of(kind: str, folder: str | None, cache: str) -> Any:
    """The encoder of a folder, or the installed one; loaded once a process."""
    from model.encoders import ImageEncoder, TextEncoder

    if kind == "text":
        return TextEncoder.default() if folder is None else TextEncoder.from_directory(Path(folder))
    return ImageEncoder.default(Path(cache)) if folder is None else ImageEncoder.from_directory(Path(folder))


def rows_of(path: str, columns: tuple[str, ...], begin: int, end: int) -> list[list[str | None]]:
    """Columns of rows begin to end of a Parquet file; only row groups that hold some of them are read."""
    import pyarrow.parquet as pq

    parts: list[list[str | None]] = [[] for _ in columns]
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if first < end and first + count > begin:
                table = file.read_row_group(group, columns=list(columns))
                table = table.slice(max(begin - first, 0), min(end, first + count) - max(begin, first))
                for part, name in zip(parts, columns, strict=True):
                    part += table.column(name).to_pylist()
            first += count
    return parts


class EncodeShard:
    """Work on a shard {"begin", "end", "vectors"}: rows, and the file that takes their vectors."""

    def __init__(self, contents: dict[str, Any]) -> None:
        self._of = Contents(**contents)
        self._encoder = encoder_of(self._of.kind, self._of.encoder, self._of.cache)

    def __call__(self, shard: Shard) -> Shard:
        """Encode; answers with counts, and with the first of what could not be used."""
        from model.encoders import encode_catalogue, item_text, named_bad

        columns = rows_of(self._of.items, COLUMNS[self._of.kind], shard["begin"], shard["end"])
        contents: list[Any]
        if self._of.kind == "text":
            contents = [item_text(*row) for row in zip(*columns, strict=True)]
        else:
            contents = [Path(image) if image else None for image in columns[0]]
        vectors, present, stats = encode_catalogue(self._encoder, contents, Path(self._of.cache), on_bad="skip")
        write_npz(Path(shard["vectors"]), {"vectors": vectors, "present": present})
        return {
            "encoded": stats.encoded,
            "reused_vectors": stats.reused,
            "missing": stats.missing,
            "unusable": len(stats.bad),
            "named": named_bad(contents, stats.bad),
        }


def encoded(
    engine: Engine, contents: Contents, dim: int, *, work: Path, on_bad: Literal["fail", "skip"]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], dict[str, int]]:
    """Vectors (N, dim) float32, which lie in a file of `work`, present (N,) bool, and how many were encoded, reused, missing,
    unusable.

    Raises BadInput where on_bad is "fail" and contents cannot be used; all others are in the cache then.
    """
    import pyarrow.parquet as pq

    from model.encoders import bad_sentence

    n = pq.read_metadata(contents.items).num_rows
    shards = [
        {"begin": begin, "end": min(begin + SHARD_ITEMS, n), "vectors": str(work / f"{contents.kind}-{begin}.npz")}
        for begin in range(0, n, SHARD_ITEMS)
    ]
    told = engine.each(EncodeShard, (asdict(contents),), shards, f"{contents.kind} embeddings")
    counts = {name: sum(each[name] for each in told) for name in ("encoded", "reused_vectors", "missing", "unusable")}
    if counts["unusable"] and on_bad == "fail":
        named = [(label, reason) for each in told for label, reason in each["named"]]
        raise BadInput(bad_sentence(named, counts["unusable"], n))
    vectors: NDArray[np.float32] = np.lib.format.open_memmap(
        work / f"{contents.kind}.npy", mode="w+", dtype=np.float32, shape=(n, dim)
    )
    present = np.zeros(n, dtype=bool)
    for shard in shards:
        part = read_npz(Path(shard["vectors"]))
        rows = slice(shard["begin"], shard["end"])
        vectors[rows], present[rows] = part["vectors"], part["present"]
    return vectors, present, counts
