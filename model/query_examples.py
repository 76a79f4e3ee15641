"""Queries to train the search space on, encoded: sentences that were taken out of descriptions, and altered pictures.

- Which items, which sentence and which change follow from the seed and the item's row, and the vectors are kept by content in the
  encoders' cache: on the next day only what changed is encoded.
- A picture that cannot be altered is left out; that it cannot be read has been said where the catalogue was encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.encoders import ImageEncoder, TextEncoder, encode_catalogue, item_text
from model.errors import BadInput
from model.queries import Change, altered, held_out_sentence
from model.search_space import SearchSpaceConfig
from model.search_space_training import Examples

__all__ = ["CHANGES", "made_queries"]

CHANGES: tuple[Change, ...] = ("cropped", "cropped", "recompressed", "recoloured")
"""What pictures are trained on; crops are the hardest, and twice as many."""


def made_queries(
    titles: Sequence[str | None],
    descriptions: Sequence[str | None],
    categories: Sequence[str | None],
    images: Sequence[str | None],
    *,
    text_encoder: TextEncoder,
    image_encoder: ImageEncoder,
    cache: Path,
    config: SearchSpaceConfig,
) -> Examples:
    """Examples of at most `config.queries` items of a catalogue of N, all columns in its order; images are paths."""
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(len(titles))[: config.queries])
    asked: list[str | None] = []
    left: list[str | None] = []
    pictures: list[Path | bytes | None] = []
    for row in chosen.tolist():
        own = np.random.default_rng([config.seed, row])
        found = held_out_sentence(descriptions[row], own)
        asked.append(found and found[0])
        left.append(found and item_text(titles[row], found[1], categories[row]))
        path, picture = images[row], None
        if path is not None:
            try:
                picture = altered(image_encoder.read(Path(path)), CHANGES[int(own.integers(len(CHANGES)))], own)
            except BadInput:
                picture = None
        pictures.append(picture)
    text, has_text, _ = encode_catalogue(text_encoder, asked, cache)
    without, _, _ = encode_catalogue(text_encoder, left, cache)
    image, has_image, _ = encode_catalogue(image_encoder, pictures, cache, on_bad="skip")
    return Examples(
        item=chosen, text=text, text_present=has_text, text_left=without, image=image, image_present=has_image
    )
