"""Histories out of DuckDB: the same statements over the warehouse's tables and over a shard's files."""

from __future__ import annotations

import duckdb
import numpy as np
from numpy.typing import NDArray

from model.histories import Histories

__all__ = ["read_histories"]


def read_histories(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[Histories, NDArray[np.str_], NDArray[np.int32]]:
    """(histories of all users of `behaviors`, (U,) their ids as <U text, (B,) int32 day of each behavior since 1970, UTC).

    Of a connection with `behaviors` and `items`, as the warehouse has them. Users in the order of their ids, items as indices in
    the order of theirs. Within a user by position, then time, then item: the order in which behaviors were inserted plays no part.
    """
    found = connection.execute(
        "WITH places AS (SELECT item_id, CAST(row_number() OVER (ORDER BY item_id) - 1 AS INTEGER) AS item FROM items) "
        "SELECT p.item, CAST(floor(b.timestamp / 86400) AS INTEGER) AS day "
        "FROM behaviors AS b JOIN places AS p USING (item_id) "
        "ORDER BY b.user_id, b.position, b.timestamp, b.item_id, b.event"
    ).fetchnumpy()
    users = connection.execute(
        "SELECT user_id, count(*) AS behaviors FROM behaviors GROUP BY user_id ORDER BY user_id"
    ).fetchnumpy()
    n_items = connection.execute("SELECT count(*) FROM items").fetchall()[0][0]
    offsets = np.concatenate([[0], np.cumsum(users["behaviors"])]).astype(np.int64)
    histories = Histories(offsets=offsets, items=np.ascontiguousarray(found["item"], np.int32), n_items=int(n_items))
    return histories, np.asarray(users["user_id"], dtype=np.str_), np.ascontiguousarray(found["day"], np.int32)
