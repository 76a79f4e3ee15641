"""A page would lose: pictures of the right item, of a size a phone can load, and a bundle that a torn picture does not break."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.errors import BadInput
from model.files import read_npz
from model.thumbnails import PICTURE_PLACES, PICTURES, ThumbnailConfig, write_thumbnails


def png(color: tuple[int, ...], size: tuple[int, int] = (300, 450)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(file, "PNG")
    return file.getvalue()


def read(folder: Path) -> list[Image.Image | None]:
    offsets, data = read_npz(folder / PICTURE_PLACES)["offsets"], (folder / PICTURES).read_bytes()
    return [Image.open(io.BytesIO(data[a:b])) if b > a else None for a, b in itertools.pairwise(offsets)]


def test_each_item_keeps_its_own_picture_small(tmp_path: Path) -> None:
    (tmp_path / "blue.png").write_bytes(png((0, 0, 255)))
    images = [
        png((255, 0, 0)),
        None,
        str(tmp_path / "blue.png"),
        png((0, 255, 0, 0), (40, 20)),
        b"torn",
        str(tmp_path / "gone.png"),
    ]
    there = write_thumbnails(tmp_path, images, np.arange(6), ThumbnailConfig(side=90))
    assert there.tolist() == [True, False, True, True, False, False]
    red, none, blue, clear, *rest = read(tmp_path)
    assert none is None
    assert rest == [None, None]
    assert red is not None
    assert blue is not None
    assert clear is not None
    assert (red.size, blue.size, clear.size) == ((60, 90), (60, 90), (40, 20)), "small ones are not blown up"
    for picture, channel in ((red, 0), (blue, 2)):
        pixel = picture.convert("RGB").getpixel((30, 45))
        assert isinstance(pixel, tuple)
        assert pixel[channel] > 200
    assert clear.mode == "RGBA", "what one could see through stays so, on a dark page too"


def test_a_large_catalogue_keeps_the_pictures_of_what_is_seen_most(tmp_path: Path) -> None:
    images = [None, *(png((9 * i, 0, 0), (20, 20)) for i in range(1, 8))]
    there = write_thumbnails(tmp_path, images, np.array([99, 1, 7, 3, 9, 2, 5, 4]), ThumbnailConfig(most=3))
    assert np.flatnonzero(there).tolist() == [2, 4, 6]
    assert not write_thumbnails(tmp_path, images, np.arange(8), ThumbnailConfig(most=0)).any()
    assert (tmp_path / PICTURES).stat().st_size == 0
    with pytest.raises(BadInput, match="side = 5"):
        ThumbnailConfig(side=5)
