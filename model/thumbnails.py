"""Small pictures of a catalogue's items in two files, so that a page can show them wherever the originals are.

- `pictures.bin`: WebP files one after the other; `pictures.npz`: offsets (N + 1,) int64: item i is bytes offsets[i]..offsets[i+1],
  none where they are equal. A picture is read by its place, whatever the size of the catalogue.
- Decoded with the same limits as for the encoder; one that cannot be read is left out, as is every one beyond `most`: those with
  most behaviors are kept.
- The two are written into a folder that is published whole (`model.files.publish_dir`).

Not covered: several sizes, pictures that move (the first frame counts).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cores import cpu_threads
from model.encoders.image import opened, rgb
from model.errors import BadInput
from model.files import write_npz

__all__ = ["PICTURES", "PICTURE_PLACES", "ThumbnailConfig", "write_thumbnails"]

PICTURES, PICTURE_PLACES = "pictures.bin", "pictures.npz"
MAX_PIXELS = 50_000_000


@dataclass(frozen=True, kw_only=True)
class ThumbnailConfig:
    """What a bundle keeps of its catalogue's pictures."""

    side: int = 200
    """Longer side in pixels at most; a smaller picture stays as it is."""
    most: int = 50_000
    """Items that get one, those with most behaviors; 0 for none. 50,000 posters take some 300 MB."""
    quality: int = 80
    """WebP's."""

    def __post_init__(self) -> None:
        if not (16 <= self.side <= 1024 and self.most >= 0 and 1 <= self.quality <= 100):
            raise BadInput(
                f"thumbnails of side = {self.side}, most = {self.most}, quality = {self.quality} cannot be made: side 16 to 1024, "
                "most 0 (none) or more, quality 1 to 100"
            )


def write_thumbnails(
    folder: Path, images: Sequence[str | bytes | None], counts: NDArray[np.integer], config: ThumbnailConfig
) -> NDArray[np.bool_]:
    """Write both files for N items, by path or by their bytes, None without picture; returns (N,) which ones have one."""
    there = np.array([bool(image) for image in images], dtype=bool)
    order = np.lexsort((-np.asarray(counts), ~there))  # pictured ones first, by behaviors
    kept = np.zeros(len(images), bool)
    kept[order[: min(config.most, int(there.sum()))]] = True
    sizes = np.zeros(len(images), np.int64)
    with (folder / PICTURES).open("wb") as file:
        for item, small in enumerate(_small(images, kept, config)):
            sizes[item] = file.write(small)
    write_npz(folder / PICTURE_PLACES, {"offsets": np.concatenate([[0], np.cumsum(sizes)])})
    return sizes > 0


def _small(images: Sequence[Any], kept: NDArray[np.bool_], config: ThumbnailConfig) -> Iterator[bytes]:
    def one(item: int) -> bytes:
        if not kept[item]:
            return b""
        image = images[item]
        try:
            return _thumbnail(image if isinstance(image, bytes) else Path(image).read_bytes(), config)
        except (BadInput, OSError):  # the encoder has told of it, or refused the run
            return b""

    with ThreadPoolExecutor(cpu_threads()) as pool:
        for start in range(0, len(images), 256):  # not all at once: what is written need not stay in memory
            yield from pool.map(one, range(start, min(start + 256, len(images))))


def _thumbnail(data: bytes, config: ThumbnailConfig) -> bytes:
    from PIL import Image

    image = opened(data, max_pixels=MAX_PIXELS, least=2 * config.side)
    see_through = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    small = image.convert("RGBA") if see_through else rgb(image)
    small.thumbnail((config.side, config.side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    written = io.BytesIO()
    small.save(written, "WEBP", quality=config.quality, method=2)
    return written.getvalue()
