"""The small pictures of a bundle: read by their place in one file, when they are asked for.

- The file stays open: pictures are there as long as the engine is, also where the bundle's folder has been removed meanwhile.
- Nothing is decoded here; bytes were verified with the bundle.

Not covered: making them (`model.thumbnails`).
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import Corrupt
from model.files import read_npz

__all__ = ["Pictures"]

FILE, PLACES = "pictures.bin", "pictures.npz"


class Pictures:
    """N items, some with a picture."""

    def __init__(self, path: Path, offsets: NDArray[np.int64]) -> None:
        """Raises Corrupt where the offsets do not fit the file."""
        self._offsets, self._file = offsets, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)  # with the engine: whoever swaps engines closes nothing
        size = os.fstat(self._file).st_size
        if offsets.ndim != 1 or not len(offsets) or offsets[-1] != size or (np.diff(offsets) < 0).any():
            raise Corrupt(f"{path} of {size} bytes is not what its table says; run `miss materialize` again")

    @classmethod
    def load(cls, folder: Path, *, n_items: int) -> Pictures | None:
        """The bundle's; None where it has none. Raises Corrupt where they are of another catalogue."""
        if not (folder / PLACES).exists():
            return None
        offsets = read_npz(folder / PLACES).get("offsets", np.zeros(0, np.int64))
        if len(offsets) != n_items + 1:
            raise Corrupt(f"{folder} has {len(offsets) - 1} pictures of {n_items} items; run `miss materialize` again")
        return cls(folder / FILE, offsets)

    def has(self, item: int) -> bool:
        """Whether an item has one."""
        return bool(self._offsets[item + 1] > self._offsets[item])

    def read(self, item: int) -> bytes | None:
        """The file of an item's picture, WebP; None where it has none. Safe from several threads."""
        begin, end = int(self._offsets[item]), int(self._offsets[item + 1])
        return os.pread(self._file, end - begin, begin) if end > begin else None
