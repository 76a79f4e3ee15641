"""Queries for `benchmarks.search`: MovieLens-1M's posters and descriptions, encoded, and what is asked of them.

- The items that figures are told of (`REPORTED`) are kept from training altogether: no head has seen their text, their poster
  or a query made of them. All items of the catalogue are there to be found.
- A sentence that is asked is not in the text that its item is encoded as. It is never the first one, which names the film;
  that it may hold the title all the same is told in `named`.
- What training alters is cropped, re-compressed or recoloured. Turned and covered posters are asked as well, and no training
  has seen such.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.encoders import ImageEncoder, TextEncoder, encode_catalogue, item_text
from model.queries import Change, altered, held_out_sentence
from model.query_examples import made_queries
from model.search_space import SearchSpaceConfig
from model.search_space_training import Examples

__all__ = ["CHANGES", "Asked", "gather"]

REPORTED = 600
CHANGES: tuple[Change, ...] = get_args(Change)
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The catalogue (N items) and the queries (Q) made of reported items."""

    title: list[str]
    text: Floats
    """(N, dt); of reported items without the sentence that is asked."""
    text_present: Flags
    image: Floats
    image_present: Flags
    train: Examples
    """Of items that no figure is told of."""
    item: NDArray[np.int64]
    """(Q,) rows of the catalogue; each has a text, a sentence and a poster."""
    sentence: Floats
    """(Q, dt)."""
    named: Flags
    """(Q,) whether the sentence holds a word of the title."""
    pictures: dict[str, Floats]
    """Change -> (Q, di)."""
    posters: list[bytes]
    """A few posters, as files."""
    sentences: list[str]
    """As many sentences."""


def gather(data: Path, cache: Path, config: SearchSpaceConfig, texts: TextEncoder, images: ImageEncoder) -> Asked:
    """Encode all that is needed; what lies in `cache` is not encoded again."""
    table = pq.read_table(data / "items.parquet").sort_by("item_id").to_pydict()
    n = len(table["item_id"])
    paths = [data / each if each else None for each in table["image"]]
    image, has_image, _ = encode_catalogue(images, paths, cache)
    whole = [item_text(*row) for row in zip(table["title"], table["description"], table["categories"], strict=True)]
    text, has_text, _ = encode_catalogue(texts, whole, cache)
    held = {row: held_out_sentence(table["description"][row], np.random.default_rng([2, row])) for row in range(n)}
    usable = np.array([row for row in range(n) if held[row] and paths[row] and has_image[row]])
    item = np.sort(np.random.default_rng(1).permutation(usable)[:REPORTED])
    found = [each for each in (held[int(row)] for row in item) if each is not None]
    sentence, _, _ = encode_catalogue(texts, [asked for asked, _ in found], cache)
    left = [
        item_text(table["title"][row], rest, table["categories"][row])
        for row, (_, rest) in zip(item.tolist(), found, strict=True)
    ]
    text = text.copy()
    text[item], _, _ = encode_catalogue(texts, left, cache)
    files = [(data / table["image"][row]).read_bytes() for row in item.tolist()]
    pictures = {}
    for number, change in enumerate(CHANGES):
        made = [
            altered(file, change, np.random.default_rng([3, number, row]))
            for row, file in zip(item.tolist(), files, strict=True)
        ]
        pictures[change], _, _ = encode_catalogue(images, made, cache)
    hidden = set(item.tolist())

    def kept(name: str) -> list[str | None]:
        return [None if row in hidden else each for row, each in enumerate(table[name])]

    train = made_queries(
        table["title"],
        kept("description"),
        table["categories"],
        [str(path) if path and row not in hidden else None for row, path in enumerate(paths)],
        text_encoder=texts,
        image_encoder=images,
        cache=cache,
        config=config,
    )
    return Asked(
        title=table["title"],
        text=text,
        text_present=has_text,
        image=image,
        image_present=has_image,
        train=train.part(np.flatnonzero(~np.isin(train.item, item))),
        item=item,
        sentence=sentence,
        named=np.array(
            [_names(table["title"][row], asked) for row, (asked, _) in zip(item.tolist(), found, strict=True)]
        ),
        pictures=pictures,
        posters=files[:60],
        sentences=[asked for asked, _ in found[:60]],
    )


def _names(title: str, sentence: str) -> bool:
    """Whether a word of the title, of four letters or more, is in the sentence."""
    words = re.findall(r"\w{4,}", re.sub(r"\(\d{4}\)", "", title).casefold())
    return any(re.search(rf"\b{re.escape(word)}\b", sentence.casefold()) for word in words)
