"""What somebody might search an item with, made of the item itself: sentences of its description, its picture altered.

- A sentence that is a query is taken out of the text that the item is encoded as: what is asked must not lie in the index word
  for word, neither in training nor where a search is measured.
- Everything is drawn from the seed and the item's number alone: same catalogue, same queries, whatever else is in it; so the
  cache of `encode_catalogue` finds them again the next day.
- Not covered: how people really ask. Sentences of a description are longer and better spelt than what is typed into a box.
"""

from __future__ import annotations

import io
import re
from typing import Literal

import numpy as np

from model.errors import BadInput

__all__ = ["Change", "altered", "held_out_sentence", "random_box", "sentences"]

Change = Literal["cropped", "recompressed", "recoloured", "turned", "covered"]
"""A part of 40 to 80 % each way; a tenth of the bytes; other light and colours; turned a few degrees on a grey ground, mirrored
every other time; a bar across it."""
SHORTEST = 25
"""Characters of a sentence that says something."""


def sentences(text: str | None) -> list[str]:
    """The sentences of a description, in order; those too short to mean anything left out."""
    parts = re.split(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])", " ".join((text or "").split()))
    return [part for part in parts if len(part) >= SHORTEST]


def held_out_sentence(text: str | None, rng: np.random.Generator) -> tuple[str, str] | None:
    """(a sentence that is not the first, the text without it); None where there is no second sentence.

    The first one mostly names the item, and a query that names what it looks for finds it by the name.
    """
    found = sentences(text)
    if text is None or len(found) < 2:
        return None
    chosen = found[1 + int(rng.integers(len(found) - 1))]
    left = " ".join(" ".join(text.split()).replace(chosen, " ").split())
    return chosen, left


def random_box(rng: np.random.Generator, *, least: float = 0.4, most: float = 0.8) -> tuple[float, float, float, float]:
    """A part of a picture, `least` to `most` of each side: left, top, right, bottom as fractions."""
    width, height = rng.uniform(least, most, 2)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return float(left), float(top), float(left + width), float(top + height)


def altered(data: bytes, change: Change, rng: np.random.Generator) -> bytes:
    """Another picture of the same item, as JPEG. Raises BadInput for what is no picture."""
    from PIL import Image, ImageEnhance, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGBA")
    except Exception as error:  # torn files make Pillow's decoders raise a dozen classes
        raise BadInput(f"it is not a picture that can be read: {error}") from error
    ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(ground, image).convert("RGB")
    quality = 85
    if change == "cropped":
        left, top, right, bottom = random_box(rng)
        edges = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        image = image.crop(tuple(int(each) for each in edges))  # type: ignore[arg-type]
        image = image.resize((max(image.width, 8), max(image.height, 8)))
    elif change == "recompressed":
        scale = rng.uniform(0.25, 0.5)
        image = image.resize((max(int(image.width * scale), 8), max(int(image.height * scale), 8)))
        quality = int(rng.integers(12, 35))
    elif change == "recoloured":
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(float(rng.uniform(0.5, 1.6)))
    elif change == "turned":
        image = image.rotate(float(rng.uniform(-15, 15)), expand=True, fillcolor=(128, 128, 128))
        image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    elif change == "covered":
        top = rng.uniform(0, 0.75)
        bar = Image.new("RGB", (image.width, max(image.height // 4, 1)), tuple(int(c) for c in rng.integers(0, 256, 3)))
        image.paste(bar, (0, int(top * image.height)))
    else:
        raise BadInput(f"{change!r} is no change to a picture")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
