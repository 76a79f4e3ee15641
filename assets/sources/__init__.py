"""Readers of the world's formats, one each; `detect` picks the one for a folder.

- neutral: `items.parquet` or `items.csv` with `behaviors.parquet` or `behaviors.csv`, what a data team would export.
- movielens: GroupLens' own `ratings.dat` with `movies.dat`, or `ratings.csv` with `movies.csv`.
- demo: the embedded catalogue with simulated histories; not a folder, `DemoSource()` makes it.
"""

from __future__ import annotations

from pathlib import Path

from assets.sources.base import FolderSource, Source, Staged
from model.errors import BadInput

__all__ = ["LAYOUTS", "FolderSource", "Source", "Staged", "detect"]

LAYOUTS = (
    "items.parquet|csv with behaviors.parquet|csv",
    "movies.dat with ratings.dat (GroupLens)",
    "movies.csv with ratings.csv (GroupLens)",
)


def detect(path: Path) -> Source:
    """The source in folder `path`, by the names of its files; parquet is preferred where csv lies beside it.

    Raises `BadInput` where the folder is missing, not a folder, or holds none of the known layouts.
    """
    from assets.sources.movielens import MovieLensSource
    from assets.sources.neutral import NeutralSource

    if not path.exists():
        raise BadInput(f"{path} does not exist; give a folder that holds {' or '.join(LAYOUTS)}")
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
    shown = sorted(found)[:8]
    held = ", ".join(shown) + (f" and {len(found) - 8} more" if len(found) > 8 else "") if shown else "no files"
    raise BadInput(f"{path} holds {held}, which is no layout known here: {'; '.join(LAYOUTS)}")
