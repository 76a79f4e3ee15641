"""A catalogue through an encoder, shard by shard: rows of `items.parquet` in, vectors out, by content hash on each.

- A shard is a range of rows. Whoever works on it reads those rows and nothing else, encodes what the cache does not hold
  (`model.encoders.encode_catalogue`), and leaves its vectors in a file.
- Parts are Parquet, put together on disk by one more task: contents and vectors of the whole catalogue are in nobody's memory at
  once, and none of them in that of the process that plans.
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
from model.files import replacing, write_npz

__all__ = ["SHARD_ITEMS", "Contents", "EncodeShard", "JoinVectors", "encoded", "encoder_of"]

SHARD_ITEMS = 1024
"""Half a minute of texts on one core: what a lost worker costs, and enough shards for several where a catalogue is small."""
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
        import pyarrow as pa
        import pyarrow.parquet as pq

        from model.encoders import encode_catalogue, item_text, named_bad

        columns = rows_of(self._of.items, COLUMNS[self._of.kind], shard["begin"], shard["end"])
        contents: list[Any]
        if self._of.kind == "text":
            contents = [item_text(*row) for row in zip(*columns, strict=True)]
        else:
            contents = [Path(image) if image else None for image in columns[0]]
        vectors, present, stats = encode_catalogue(self._encoder, contents, Path(self._of.cache), on_bad="skip")
        flat = pa.array(vectors.ravel())
        table = pa.table(
            {"vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]), "present": pa.array(present)}
        )
        with replacing(Path(shard["vectors"])) as file:
            pq.write_table(table, file)
        return {
            "encoded": stats.encoded,
            "reused_vectors": stats.reused,
            "missing": stats.missing,
            "unusable": len(stats.bad),
            "named": named_bad(contents, stats.bad),
        }


class JoinVectors:
    """Work on a shard {"parts", "items", "vectors"}: the parts' files in order, how many items they are of, and the file that takes
    vectors (N, dim) float32 and present (N,) bool.
    """

    def __init__(self, dim: int, work: str) -> None:
        self._dim, self._work = dim, Path(work)

    def __call__(self, shard: Shard) -> Shard:
        """Join; part after part goes to its place in a file."""
        import pyarrow.parquet as pq

        target, n = Path(shard["vectors"]), shard["items"]
        vectors: NDArray[np.float32] = np.lib.format.open_memmap(
            self._work / f"{target.stem}.npy", mode="w+", dtype=np.float32, shape=(n, self._dim)
        )
        present, begin = np.zeros(n, dtype=bool), 0
        for part in shard["parts"]:
            table = pq.read_table(part).combine_chunks()
            rows = slice(begin, begin := begin + len(table))
            vectors[rows] = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self._dim)
            present[rows] = table["present"].to_numpy()
        write_npz(target, {"vectors": vectors, "present": present})
        return {}


def encoded(
    engine: Engine, contents: Contents, dim: int, *, work: Path, target: Path, on_bad: Literal["fail", "skip"]
) -> dict[str, int]:
    """Write vectors (N, dim) float32 and present (N,) bool to the .npz `target`; how many rows there are, and how many of them were
    encoded, reused, missing, unusable.

    work: a folder for parts, which all workers see. Raises BadInput where on_bad is "fail" and contents cannot be used; all others
    are in the cache then.
    """
    import pyarrow.parquet as pq

    from model.encoders import bad_sentence

    n = pq.read_metadata(contents.items).num_rows
    shards = [
        {"begin": begin, "end": min(begin + SHARD_ITEMS, n), "vectors": str(work / f"{contents.kind}-{begin}.parquet")}
        for begin in range(0, n, SHARD_ITEMS)
    ]
    told = engine.each(EncodeShard, (asdict(contents),), shards, f"{contents.kind} embeddings", loads=True)
    counts = {name: sum(each[name] for each in told) for name in ("encoded", "reused_vectors", "missing", "unusable")}
    if counts["unusable"] and on_bad == "fail":
        named = [(label, reason) for each in told for label, reason in each["named"]]
        raise BadInput(bad_sentence(named, counts["unusable"], n))
    joined = {"parts": [shard["vectors"] for shard in shards], "items": n, "vectors": str(target)}
    engine.each(JoinVectors, (dim, str(work)), [joined], f"{contents.kind} embeddings, together")
    return {"rows": n} | counts
