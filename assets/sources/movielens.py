"""GroupLens' own MovieLens layouts: `ratings.dat`/`movies.dat` with '::' and `ratings.csv`/`movies.csv`.

- .dat files are latin-1, have no header and no quoting: a quotation mark is part of a title.
- Genres become comma-separated categories; "(no genres listed)" becomes none.
- The files give no order within a second: the order of the file breaks ties.

Not covered: tags, links, users' demographics, the older tab-separated u.data.
"""

from __future__ import annotations

import duckdb

from assets.sources.base import FolderSource, Staged, Table

__all__ = ["MovieLensSource"]

CSV = "read_csv(?, header = true, all_varchar = true, delim = ',', quote = '\"', escape = '\"', hive_partitioning = false)"
MOVIES = ("movieId", "title", "genres")
RATINGS = ("userId", "movieId", "rating", "timestamp")


def _dat(columns: tuple[str, ...]) -> str:
    names = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
    return (
        "read_csv(?, header = false, auto_detect = false, delim = '::', quote = '', escape = '', encoding = 'latin-1', "
        f"hive_partitioning = false, columns = {{{names}}})"
    )


class MovieLensSource(FolderSource):
    """Reads `movies` and `ratings` of either GroupLens layout."""

    def stage(self, connection: duckdb.DuckDBPyConnection) -> Staged:
        """Stage both files; raises `BadInput` for missing columns and unreadable files."""
        dat = self.items.suffix == ".dat"
        movies = Table(connection, self.items, _dat(MOVIES) if dat else CSV)
        movies.require(MOVIES)
        genres = f"nullif(replace({movies.text('genres')}, '|', ', '), '(no genres listed)')"
        movies.stage_items(
            {
                "item_id": movies.text("movieId"),
                "title": movies.text("title"),
                "description": movies.text("description"),
                "categories": genres,
                "image": "CAST(NULL AS VARCHAR)",
            }
        )
        ratings = Table(connection, self.behaviors, _dat(RATINGS) if dat else CSV)
        ratings.require(RATINGS)
        names = {"user_id": "userId", "item_id": "movieId", "value": "rating"}
        return Staged(positions_given=ratings.stage_behaviors(names, event="rating"))
