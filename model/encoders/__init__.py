"""Frozen content encoders: one small interface, text and image readers behind it, an incremental catalogue pass.

- Weights come from installed packages or from a folder the user names; no hub is ever asked.
- Nothing heavy is imported until an encoder is built.
"""

from __future__ import annotations

from model.encoders.base import CatalogueStats, Encoder, bad_sentence, encode_catalogue, named_bad
from model.encoders.image import ImageEncoder
from model.encoders.text import TextEncoder, item_text

__all__ = [
    "CatalogueStats",
    "Encoder",
    "ImageEncoder",
    "TextEncoder",
    "bad_sentence",
    "encode_catalogue",
    "item_text",
    "named_bad",
]
