"""The encoder interface, and the catalogue pass that never encodes the same content twice.

- An encoder splits its work in three: `read` (the bytes that identify a content), `prepare` (tokenise, decode a picture)
  and `forward` (the network), so that preparing overlaps the network and one bad picture spoils only itself.
- The cache key is (encoder digest, sha256 of the bytes): renaming a picture costs nothing, changing one pixel re-encodes it.
- Finished chunks are files of their own, written atomically: a killed run keeps all but its last chunk. A chunk that
  cannot be read back is dropped and its items are encoded again; the cache is never the only copy of anything.
- Not covered: eviction. Vectors of deleted items stay on disk (1.5 kB for a text, 5 kB for a picture); delete the
  folder to start over.
"""

from __future__ import annotations

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.cores import cpu_threads
from model.errors import BadInput, Corrupt
from model.files import read_npz, write_npz

__all__ = [
    "BANDWIDTH_THREADS",
    "CatalogueStats",
    "Encoder",
    "bad_sentence",
    "encode_catalogue",
    "named_bad",
    "onnx_session",
]

log = logging.getLogger(__name__)
BANDWIDTH_THREADS = 8
"""Threads of a network's calls at most: beyond that memory bandwidth, not arithmetic, is the bound."""
_NAMED = 5
"""Contents that an error names."""

Content = TypeVar("Content")
"""What a caller hands in: a text, or the path or bytes of a picture."""
Prepared = TypeVar("Prepared")
"""What the network eats, before batching: token ids, or pixels."""


class Encoder(ABC, Generic[Content, Prepared]):
    """Turns contents into vectors, frozen: same bytes and same digest, same vector (to 1e-4, whatever the batch)."""

    name: str
    """How lineage and tables call it, e.g. "minilm-l6-int8"."""
    digest: str
    """sha256 (64 hex digits) over weights and preprocessing; a change of either is another encoder."""
    dim: int
    """Length of a vector."""
    files: tuple[Path, ...] = ()
    """What runs elsewhere as an encoder's folder, by ONNX Runtime; none where an installed package holds it, or needs more."""

    @abstractmethod
    def read(self, content: Content) -> bytes:
        """The bytes that identify a content; raises BadInput where a file cannot be read."""

    @abstractmethod
    def prepare(self, data: bytes) -> Prepared:
        """Bytes to network input; raises BadInput (one sentence, without the file's name) where they are unusable."""

    @abstractmethod
    def forward(self, batch: Sequence[Prepared]) -> NDArray[np.float32]:
        """Run the network on n prepared inputs: (n, dim) float32."""

    def encode(self, batch: Sequence[Content]) -> NDArray[np.float32]:
        """Vectors of n contents, (n, dim) float32; raises BadInput at the first unusable one."""
        if not len(batch):
            return np.zeros((0, self.dim), np.float32)
        return self.forward([self.prepare(self.read(content)) for content in batch])


def onnx_session(path: Path) -> Any:
    """ONNX Runtime CPU session with one thread a call: callers run several calls side by side.

    Two calls of one thread each beat one call of two: 74 against 37 texts/s (MiniLM int8, 128 tokens, 2 cores, 2026-11-22).
    Raises BadInput where the file is no usable model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own classes, derived from Exception only
        raise BadInput(
            f"{path} is not a model that ONNX Runtime can load ({_short(error)}); give another encoder folder"
        ) from error


@dataclass(frozen=True, kw_only=True)
class CatalogueStats:
    """What one pass over the catalogue did."""

    encoded: int
    """Distinct contents run through the network."""
    reused: int
    """Items answered from the cache or from an equal item of the same pass."""
    missing: int
    """Items without this modality, the bad ones included."""
    bad: tuple[tuple[int, str], ...]
    """(item index, reason) of contents that could not be used; only with on_bad="skip"."""
    seconds: float
    """Wall time of the pass."""


def encode_catalogue(
    encoder: Encoder[Content, Prepared],
    contents: Sequence[Content | None],
    cache_dir: Path,
    *,
    on_bad: Literal["fail", "skip"] = "fail",
    chunk_items: int = 256,
    progress: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], CatalogueStats]:
    """Encode a catalogue incrementally.

    contents: N contents in the catalogue's order; None, or text of nothing but spaces, is a missing modality.
    cache_dir: grows one file per `chunk_items` new contents; may be shared by encoders and by runs.
    on_bad: "fail" encodes (and keeps) everything usable, then raises one BadInput that names the unusable files;
        "skip" treats them as missing and reports them.
    Returns vectors (N, dim) float32, present (N,) bool (vectors of absent items are 0), stats.
    """
    started = time.monotonic()
    cache = _Cache(cache_dir / f"{encoder.name}-{encoder.digest[:16]}", encoder.dim)
    vectors = np.zeros((len(contents), encoder.dim), np.float32)
    items_of: dict[bytes, list[int]] = {}  # sha256 of the content -> items that hold it
    bad: dict[int, str] = {}
    wanted = [i for i, content in enumerate(contents) if not _is_empty(content)]

    def fill(keys: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        for key, row in zip(keys, rows, strict=True):
            for item in items_of.get(key, ()):
                vectors[item] = row

    with ThreadPoolExecutor(cpu_threads(most=BANDWIDTH_THREADS)) as pool:

        def key_of(item: int) -> bytes | BadInput:
            try:
                return hashlib.sha256(encoder.read(contents[item])).digest()  # type: ignore[arg-type]
            except BadInput as error:
                return error

        for item, key in zip(wanted, pool.map(key_of, wanted), strict=True):
            if isinstance(key, BadInput):
                bad[item] = str(key)
            else:
                items_of.setdefault(key, []).append(item)
        known = cache.scan(items_of.keys(), fill)
        todo = [key for key in items_of if key not in known]

        def prepare(key: bytes) -> tuple[bytes, Prepared] | BadInput:
            try:
                data = encoder.read(contents[items_of[key][0]])  # type: ignore[arg-type]
                return hashlib.sha256(data).digest(), encoder.prepare(
                    data
                )  # the file may have changed since it was hashed
            except BadInput as error:
                return error

        encoded = 0
        for keys, prepared in _ahead(
            pool, prepare, todo, chunk_items=chunk_items, what=encoder.name, progress=progress
        ):
            good: list[tuple[bytes, bytes, Prepared]] = []
            for key, result in zip(keys, prepared, strict=True):
                if isinstance(result, BadInput):
                    bad.update(dict.fromkeys(items_of[key], str(result)))
                else:
                    good.append((key, *result))
            if good:
                rows = encoder.forward([network_input for _, _, network_input in good])
                cache.append([now for _, now, _ in good], rows)
                fill([key for key, _, _ in good], rows)
                encoded += len(good)

    if bad and on_bad == "fail":
        raise BadInput(bad_sentence(named_bad(contents, bad.items()), len(bad), len(contents)))
    present = np.zeros(len(contents), bool)
    present[wanted] = True
    present[list(bad)] = False
    stats = CatalogueStats(
        encoded=encoded,
        reused=int(present.sum()) - encoded,
        missing=int((~present).sum()),
        bad=tuple(sorted(bad.items())),
        seconds=time.monotonic() - started,
    )
    return vectors, present, stats


def _ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[bytes], Any],
    todo: Sequence[bytes],
    *,
    chunk_items: int,
    what: str,
    progress: bool,
) -> Any:
    """Yield (keys, prepared) chunk by chunk while the pool already prepares the next chunk; a bar counts items."""
    from tqdm import tqdm

    chunks = [todo[start : start + chunk_items] for start in range(0, len(todo), chunk_items)]
    waiting: list[list[Future[Any]]] = [[pool.submit(prepare, key) for key in chunk] for chunk in chunks[:1]]
    with tqdm(total=len(todo), desc=what, unit="item", disable=not progress or not todo) as bar:
        for position, chunk in enumerate(chunks):
            prepared = [future.result() for future in waiting.pop()]
            if position + 1 < len(chunks):
                waiting.append([pool.submit(prepare, key) for key in chunks[position + 1]])
            yield chunk, prepared
            bar.update(len(chunk))


class _Cache:
    """Append-only folder of chunk files; each holds `keys` (n, 32) uint8 and `vectors` (n, dim) float32."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim

    def append(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Write one chunk; its name follows from its keys, so two runs at once cannot overwrite different content."""
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
        packed = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32)
        write_npz(self.folder / f"{name}.npz", {"keys": packed, "vectors": vectors})

    def scan(self, wanted: Any, fill: Callable[[Sequence[bytes], NDArray[np.float32]], None]) -> set[bytes]:
        """Hand every cached (keys, vectors) among `wanted` to `fill`; returns the keys found."""
        found: set[bytes] = set()
        for path in sorted(self.folder.glob("*.npz")):
            if path.name.startswith("."):
                continue  # the temporary of a run that writes right now, or was killed while it did
            try:
                keys = self._keys(path)
                rows = [row for row, key in enumerate(keys) if key in wanted and key not in found]
                if not rows:  # a shard finds its own in few of many files
                    continue
                vectors = self._vectors(path, len(keys))
            except Corrupt as error:
                log.warning("dropping a damaged chunk of the embedding cache, its items are encoded again: %s", error)
                path.unlink(missing_ok=True)
                continue
            fill([keys[row] for row in rows], vectors[rows])
            found.update(keys[row] for row in rows)
        return found

    def _keys(self, path: Path) -> list[bytes]:
        keys = read_npz(path, "keys").get("keys")
        if keys is None or keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != 32:
            raise Corrupt(f"{path} does not hold keys; delete it")
        return [row.tobytes() for row in keys]

    def _vectors(self, path: Path, count: int) -> NDArray[np.float32]:
        vectors = read_npz(path, "vectors").get("vectors")
        shape = (count, self.dim)
        if vectors is None or vectors.dtype != np.float32 or vectors.shape != shape or not np.isfinite(vectors).all():
            raise Corrupt(f"{path} does not hold vectors of length {self.dim}; delete it")
        return vectors


def _is_empty(content: object) -> bool:
    return content is None or (isinstance(content, str) and not content.strip())


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def named_bad(contents: Sequence[Any], bad: Iterable[tuple[int, str]]) -> list[tuple[str, str]]:
    """(what to call it, reason) of the first few contents that could not be used."""
    return [
        (str(contents[item]) if isinstance(contents[item], str | Path) else f"item {item}", reason)
        for item, reason in sorted(bad)[:_NAMED]
    ]


def bad_sentence(named: Sequence[tuple[str, str]], count: int, total: int) -> str:
    """What is told of `count` contents out of `total` that could not be used, of which the first few are named."""
    told = [f"{label!r} ({reason})" for label, reason in named[:_NAMED]]
    more = f" and {count - len(told)} more" if count > len(told) else ""
    return (
        f"{count} of {total} pictures or texts cannot be used: {', '.join(told)}{more}; "
        "replace them, clear their column, or let bad ones count as missing (on_bad=skip)"
    )
