"""Files that are whole or absent: temporary sibling, fsync, rename; every file known by its sha256.

- `write_bytes`, `write_json`, `write_npz` replace one file atomically.
- `publish_dir` builds a folder beside its final place, writes `manifest.json` (name, sha256, size of every file) and
  renames it in one step; `verify_dir` reads such a folder back and refuses changed, missing or extra files.
- Arrays are stored as .npz without pickle: object arrays are refused on the way in and on the way out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from model.errors import Corrupt

__all__ = [
    "MANIFEST",
    "ArrayHeader",
    "canonical_json",
    "digest_file",
    "digest_json",
    "npz_length",
    "opened_npz",
    "publish_dir",
    "read_json",
    "read_npz",
    "replacing",
    "verify_dir",
    "write_bytes",
    "write_json",
    "write_npz",
]

MANIFEST = "manifest.json"


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal text; NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_json(value: object) -> str:
    """sha256 (64 hex digits) of `canonical_json(value)`: the identity of a configuration or a set of inputs."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well: a reader sees the old bytes or the new ones, also after a
    power cut. Nothing is left behind where the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` atomically (`replacing`)."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; `Corrupt` where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path} is not readable JSON ({error}); delete it and run `miss materialize` again") from error


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to an uncompressed .npz, atomically; same arrays, same bytes.

    Raises TypeError for object arrays (they would need pickle); strings are stored as fixed-width unicode.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects; store strings as fixed-width unicode")
    with replacing(path) as file:  # array by array: one that lies on disk is never in memory as a whole
        np.savez(file, **{name: arrays[name] for name in sorted(arrays)})  # type: ignore[arg-type]


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read what `write_npz` wrote, or the arrays of these names; `Corrupt` where the file is torn."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return {name: data[name] for name in data.files if not names or name in names}
    except (ValueError, OSError, EOFError, KeyError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Corrupt(
            f"{path} is not a readable array file ({error}); delete it and run `miss materialize` again"
        ) from error
    except Exception as error:  # zipfile.BadZipFile is not an OSError
        raise Corrupt(f"{path} is torn ({error}); delete it and run `miss materialize` again") from error


@dataclass(frozen=True)
class ArrayHeader:
    """What the file of an array says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    """Whether it lies column by column."""
    crc: int
    """Of its bytes, as zip files have it."""


@contextlib.contextmanager
def opened_npz(path: Path, name: str) -> Iterator[tuple[IO[bytes], ArrayHeader]]:
    """One array's bytes in an .npz, as they come, and its header: nothing else of the file is read. `Corrupt` where it is torn."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            yield file, ArrayHeader(shape, dtype, fortran, archive.getinfo(f"{name}.npy").CRC)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise Corrupt(
            f"{path} is not a readable array file ({error}); delete it and run `miss materialize` again"
        ) from error


def npz_length(path: Path, name: str) -> int:
    """Rows of an array in an .npz, from its header."""
    with opened_npz(path, name) as (_, header):
        return header.shape[0] if header.shape else 0


def publish_dir(target: Path, build: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """Build a folder in a temporary sibling and rename it to `target`; returns the manifest.

    `build(folder)` fills the folder and returns metadata (JSON values). The manifest holds
    `{"files": {name: {"sha256", "bytes"}}, "digest": sha256 over the files' names and digests, "meta": ...}`.
    An existing `target` is replaced. Nothing is left behind when `build` raises.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        meta = build(folder)
        files = {
            str(path.relative_to(folder)): {"sha256": digest_file(path), "bytes": path.stat().st_size}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        digest = digest_json({name: entry["sha256"] for name, entry in files.items()})
        manifest: dict[str, Any] = {"files": files, "digest": digest, "meta": dict(meta)}
        write_json(folder / MANIFEST, manifest)
        for path in folder.rglob("*"):
            _sync(path)
        folder.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sync(target.parent)
    return manifest


def verify_dir(folder: Path) -> dict[str, Any]:
    """Read a published folder's manifest and check every file against it; returns the manifest.

    Raises FileNotFoundError where there is no manifest, `Corrupt` where a file is missing, changed or not listed.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise Corrupt(f"{folder / MANIFEST} has no list of files; delete {folder} and run `miss materialize` again")
    listed = manifest["files"]
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    if odd := sorted(found.symmetric_difference(listed)):
        raise Corrupt(f"{folder} does not hold the files of its manifest: {odd[0]!r} is missing or not listed")
    for name, entry in listed.items():
        if digest_file(folder / name) != entry["sha256"]:
            raise Corrupt(f"{folder / name} is not the file that was published: its sha256 differs from the manifest's")
    if digest_json({name: entry["sha256"] for name, entry in listed.items()}) != manifest.get("digest"):
        raise Corrupt(f"{folder / MANIFEST} has a digest that does not follow from its files")
    return manifest
