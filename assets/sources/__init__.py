"""Readers of the world's formats, one each; `detect` picks the one for a folder or a file.

- neutral: `items.parquet` or `items.csv` with `behaviors.parquet` or `behaviors.csv`, what a data team would export; a Parquet or
  CSV file by itself is a log of behaviors for the catalogue that is there already.
- movielens: GroupLens' own `ratings.dat` with `movies.dat`, or `ratings.csv` with `movies.csv`.
- amazon: 5-core sequences, `NAME.txt` with `NAME_item2attributes.json`, named by the text file where a folder holds several.
- demo: the embedded catalogue with simulated histories; not a folder, `DemoSource()` makes it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from assets.sources.base import FolderSource, Source, Staged
from model.errors import BadInput

__all__ = ["LAYOUTS", "FolderSource", "Source", "Staged", "detect"]

LAYOUTS = (
    "items.parquet|csv with behaviors.parquet|csv",
    "movies.dat with ratings.dat (GroupLens)",
    "movies.csv with ratings.csv (GroupLens)",
    "NAME.txt with NAME_item2attributes.json (Amazon sequences)",
)


def detect(path: Path) -> Source:
    """The source in folder `path`, by the names of its files; parquet is preferred where csv lies beside it.

    Amazon sequences may be named by their text file. Raises `BadInput` where `path` is missing, is another file, or is a
    folder that holds none of the known layouts or several Amazon sequences.
    """
    from assets.sources.amazon import ATTRIBUTES, AmazonSource
    from assets.sources.movielens import MovieLensSource
    from assets.sources.neutral import READERS, LogSource, NeutralSource

    if not path.exists():
        raise BadInput(f"{path} does not exist; give a folder that holds {' or '.join(LAYOUTS)}")
    if path.is_file() and path.suffix == ".txt":
        if not (attributes := path.with_name(path.stem + ATTRIBUTES)).is_file():
            raise BadInput(f"{path} has no {attributes.name} beside it, without which it is no Amazon sequence file")
        return AmazonSource(path)
    if path.is_file() and path.suffix in READERS:
        return LogSource(path)
    if not path.is_dir():
        raise BadInput(f"{path} is not a folder; give the folder that holds it, with {' or '.join(LAYOUTS)}")
    found = {entry.name for entry in path.iterdir() if entry.is_file()}

    def first(stem: str, *endings: str) -> str | None:
        return next((f"{stem}.{ending}" for ending in endings if f"{stem}.{ending}" in found), None)

    items, behaviors = first("items", "parquet", "csv"), first("behaviors", "parquet", "csv")
    if items and behaviors:
        return NeutralSource(path, items=items, behaviors=behaviors)
    for ending in ("dat", "csv"):
        movies, ratings = first("movies", ending), first("ratings", ending)
        if movies and ratings:
            return MovieLensSource(path, items=movies, behaviors=ratings)
    texts = sorted(name for name in found if name.endswith(".txt") and name[:-4] + ATTRIBUTES in found)
    if len(texts) > 1:
        raise BadInput(
            f"{path} holds {', '.join(texts)}; name one of them, as in `miss ingest {shlex.quote(str(path / texts[0]))}`"
        )
    if texts:
        return AmazonSource(path / texts[0])
    shown = sorted(found)[:8]
    held = ", ".join(shown) + (f" and {len(found) - 8} more" if len(found) > 8 else "") if shown else "no files"
    raise BadInput(f"{path} holds {held}, which is no layout known here: {'; '.join(LAYOUTS)}")
