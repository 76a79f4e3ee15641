"""Everybody's histories: out of the warehouse in this process, or out of its day files on a cluster, bucket by bucket of users.

- A bucket's shard reads its users' behaviors of all days and nothing else, and runs the statements that the warehouse runs
  (`assets.stores.history_rows`). It leaves its users in a file.
- The parts are merged by what their manifest names, on a worker: users go between each other by their ids, behaviors straight to
  their place in files on disk. Neither goes through the process that plans.
- The files are the same to the byte whoever made them.

Not covered: histories too large for one file; training reads all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.compute import Engine, Shard
from assets.stores.day_files import DayFiles
from assets.stores.history_rows import read_histories
from assets.stores.warehouse import Warehouse
from model.files import read_npz, write_npz
from model.histories import Histories

__all__ = ["GatherShard", "MergeShards", "gathered"]


class GatherShard:
    """Work on a shard {"files", "part"}: a bucket's day files by name, and the file that takes its users."""

    def __init__(self, uri: str, items: str) -> None:
        """uri: of the day files; items: the catalogue's Parquet file."""
        self._uri, self._items = uri, items

    def __call__(self, shard: Shard) -> Shard:
        """Gather; answers with how many users there are."""
        import duckdb
        import pyarrow.dataset as ds

        from model.cores import cpu_threads

        system, root = DayFiles(self._uri).place()
        connection = duckdb.connect(config={"threads": cpu_threads()})
        try:
            listed = ds.dataset([f"{root}/{name}" for name in shard["files"]], filesystem=system, format="parquet")
            connection.register("listed", listed)
            connection.execute(
                "CREATE TEMP TABLE behaviors AS SELECT user_id, item_id, event, timestamp, position FROM listed"
            )
            catalogue = self._items.replace("'", "''")
            connection.execute(f"CREATE VIEW items AS SELECT item_id FROM read_parquet('{catalogue}')")
            found, user_ids, days = read_histories(connection)
        finally:
            connection.close()
        part = {"offsets": found.offsets, "items": found.items, "n_items": np.array(found.n_items)}
        write_npz(Path(shard["part"]), part | {"user_id": user_ids, "day": days})
        return {"users": len(found)}


class MergeShards:
    """Work on a shard {"parts"}: the files of all buckets into histories.npz, days.npz and users.npz."""

    def __init__(self, target: str, work: str) -> None:
        self._target, self._work = Path(target), Path(work)

    def __call__(self, shard: Shard) -> Shard:
        """Merge; answers with `summary`."""
        parts = [Path(part) for part in shard["parts"]]
        users = [read_npz(part, "user_id")["user_id"] for part in parts]
        lengths = [np.diff(read_npz(part, "offsets")["offsets"]) for part in parts]
        order = np.argsort(np.concatenate(users), kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths)[order])]).astype(np.int64)
        place = np.empty(len(order), np.int64)  # of each part's users, one after another, among all
        place[order] = np.arange(len(order))
        items, days = (
            np.lib.format.open_memmap(self._work / f"{name}.npy", mode="w+", dtype=np.int32, shape=(int(offsets[-1]),))
            for name in ("items", "days")
        )
        begin = 0
        for part, count in zip(parts, lengths, strict=True):
            stored = read_npz(part)
            here = offsets[:-1][place[begin : begin + len(count)]]
            rows = np.arange(len(stored["items"])) + np.repeat(here - stored["offsets"][:-1], count)
            items[rows], days[rows] = stored["items"], stored["day"]
            begin += len(count)
        found = Histories(offsets=offsets, items=items, n_items=int(stored["n_items"]))
        return save(found, np.concatenate(users)[order], days, self._target)


def save(found: Histories, user_ids: NDArray[np.str_], days: NDArray[np.int32], folder: Path) -> dict[str, Any]:
    """Write histories.npz, days.npz and users.npz; what there is to tell of them."""
    found.save(folder / "histories.npz")
    write_npz(folder / "days.npz", {"day": days})
    write_npz(folder / "users.npz", {"user_id": user_ids})
    lengths = found.lengths
    return {
        "rows": len(found.items),
        "users": len(found),
        "items_touched": int((found.counts() > 0).sum()),
        "longest_history": int(lengths.max(initial=0)),
        "mean_history": round(float(lengths.mean()), 2) if len(lengths) else 0.0,
    }


def gathered(
    engine: Engine, warehouse: Warehouse, day_files: DayFiles, items: Path, *, work: Path, target: Path
) -> dict[str, Any]:
    """All histories of the warehouse, in files of `target`; what there is to tell of them.

    items: the catalogue's Parquet file; work: a folder for parts, which all workers see. Day files are brought up to date and
    read only where the engine is not this process.
    """
    written = None if engine.name == "local" else warehouse.to_day_files(day_files)
    if written is None or not written.files:
        return save(*warehouse.histories(), target)
    shards = [
        {"files": files, "part": str(work / f"bucket-{bucket}.npz")}
        for bucket in range(written.buckets)
        if (files := written.of_bucket(bucket))
    ]
    engine.each(GatherShard, (day_files.uri, str(items)), shards, "histories")
    parts = [shard["part"] for shard in shards]
    return engine.each(MergeShards, (str(target), str(work)), [{"parts": parts}], "histories, together")[0]
