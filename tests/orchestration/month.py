"""MovieLens-1M's own days as a team would have seen them: an export of the catalogue, then a file of behaviors a week."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb

DATA = Path(__file__).parents[3] / "shared" / "data" / "movielens-1m"
FIRST, ITEMS = "2000-08-01", 600
WEEKS = ["2000-08-08", "2000-08-15", "2000-08-22", "2000-08-29", "2000-09-05"]
"""Where weeks begin; what is before the first of them is the history that the home begins with."""
OPTIONS = {
    "MISS_TRAINING": json.dumps(
        {
            "scorer": {"d": 32, "heads": 2, "layers": 2, "window": 64, "hidden": 32, "dropout": 0.2},
            "dense": {"epochs": 12, "batch_users": 32, "learning_rate": 0.01},
            "lifelong": {"epochs": 4, "max_history": 128, "validation_users": 200},
            "beam": 100,
        }
    ),
    "MISS_ALIGNMENT": json.dumps({"epochs": 4, "dim": 32, "width": 32}),
    "MISS_TEMPORAL": json.dumps({"users": 150, "share": 0.2}),
    "OMP_NUM_THREADS": "2",
}


class Logs:
    """The behaviors of the month, of the items that had most of them."""

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self.connection.execute(
            "CREATE TABLE log AS SELECT *, strftime(make_timestamp((timestamp * 1000000)::BIGINT), '%Y-%m-%d') AS day "
            f"FROM read_parquet('{DATA}/behaviors.parquet') WHERE day BETWEEN '{FIRST}' AND '{WEEKS[-1]}'"
        )
        self.connection.execute(
            "CREATE TABLE kept AS SELECT item_id, row_number() OVER (ORDER BY count(*) DESC, item_id) AS rank FROM log "
            f"GROUP BY item_id QUALIFY rank <= {ITEMS}"
        )
        ranks = self.connection.execute("SELECT item_id FROM kept ORDER BY rank").fetchall()
        pairs = zip(ranks, reversed(ranks), strict=True)
        self.opposite = "map {" + ", ".join(f"'{a}': '{b}'" for (a,), (b,) in pairs) + "}[item_id]"
        """SQL of the item that is as popular from the other end."""

    def days(self, first: str, last: str) -> list[str]:
        """Days with behaviors from `first` up to and without `last`."""
        rows = self.connection.execute(
            "SELECT DISTINCT day FROM log SEMI JOIN kept USING (item_id) WHERE day >= ? AND day < ? ORDER BY day",
            [first, last],
        )
        return [row[0] for row in rows.fetchall()]

    def catalogue(self, folder: Path, *, until: str) -> Path:
        """An export in the neutral layout: items with pictures and texts, and behaviors before `until`."""
        (folder / "images").mkdir(parents=True)
        items = f"(SELECT i.* FROM read_parquet('{DATA}/items.parquet') AS i SEMI JOIN kept USING (item_id))"
        self.connection.execute(f"COPY {items} TO '{folder}/items.parquet' (FORMAT parquet)")
        for (image,) in self.connection.execute(f"SELECT image FROM {items} WHERE image IS NOT NULL").fetchall():
            shutil.copyfile(DATA / image, folder / image)
        self.week(folder / "behaviors.parquet", FIRST, until)
        return folder

    def week(self, path: Path, first: str, last: str, *, item: str = "item_id", more: str = "") -> Path:
        """Behaviors from `first` up to and without `last`; item: SQL of the item, for a week that is not as it was."""
        query = (
            f"SELECT user_id, {item} AS item_id, event, timestamp, position FROM log SEMI JOIN kept USING (item_id) "
            f"WHERE day >= '{first}' AND day < '{last}' {more}"
        )
        self.connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
        return path
