"""Logs: 20 million behaviors from Parquet into the warehouse, and from there to histories and training positions, beside peers.

- What is ingested: one Parquet file in the order of time, 90 days, 200,000 users, 100,000 items with a long tail, no positions
  given: user_id, item_id, event, timestamp. It comes from hashes of the row's number, so it is the same everywhere.
- Both sides do the same work. Ingest: read, hold to the same eleven rules, drop what repeats, number each user's behaviors in the
  order of time, write down what came in (Parquet, zstd) and the table. Histories: users and items as indices in the order of
  their ids, behaviors by user and position, leave-one-out. The arrays that come out are compared byte by byte.
- Not the same, at our cost: rules are Great Expectations', which count and name what breaks them; the table is DuckDB's, written in
  a transaction; the source's sha256 is taken, and what was there before is looked for. The peers keep plain Parquet files.
- Every side runs in a process of its own, for its peak memory.
- The floor: DuckDB alone, doing what cannot be left out (read the file; read and store it; store it with the positions).
- A day later: one million behaviors onto those that are there, some of them late.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from benchmarks.measured import ROOT, apart, at_least, at_most, peak_mib, write
from model.histories import Histories, leave_one_out

ROWS, DAY_ROWS = 20_000_000, 1_000_000
DAYS, START = 90, 1_700_000_000
WORK = ROOT / ".miss-bench" / "logs"
LONGEST = 256


def generate(folder: Path, rows: int, day_rows: int) -> None:
    """`shop/items.parquet` and `shop/behaviors.parquet`, and `day.parquet` of a day later; nothing where they are there."""
    if (folder / "made.json").exists() and json.loads((folder / "made.json").read_text()) == [rows, day_rows]:
        return
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "shop").mkdir(parents=True)
    users, items = max(rows // 100, 10), max(rows // 200, 10)
    connection = duckdb.connect()

    def log(path: Path, first: int, count: int, start: int, seconds: int) -> None:
        connection.execute(
            f"COPY (SELECT 'u' || (hash(i * 3 + 1) % {users}) AS user_id, "
            f"'i' || CAST(floor({items} * pow((hash(i * 7 + 2) % 1000003) / 1000003.0, 2.5)) AS BIGINT) AS item_id, "
            f"CASE WHEN hash(i * 5 + 3) % 10 = 0 THEN 'like' ELSE 'view' END AS event, "
            f"{start} + CAST(floor(i * ({seconds} / {count})) AS BIGINT) AS timestamp "
            f"FROM (SELECT unnest(generate_series(CAST(0 AS BIGINT), {count - 1})) AS i) AS n "
            f"ORDER BY i) TO '{path}' (FORMAT parquet, COMPRESSION zstd)".replace("hash(i", f"hash(i + {first}")
        )

    connection.execute(
        f"COPY (SELECT 'i' || i AS item_id, 'Item ' || i AS title FROM range({items}) AS r(i)) TO '{folder}/shop/items.parquet'"
    )
    log(folder / "shop" / "behaviors.parquet", 0, rows, START, DAYS * 86_400)
    # the last hour of the old log again: some of what comes in is older than what is there
    log(folder / "day.parquet", rows, day_rows, START + DAYS * 86_400 - 3_600, 86_400)
    (folder / "made.json").write_text(json.dumps([rows, day_rows]))


def digest(users: NDArray[np.str_], histories: Histories) -> str:
    """16 digits of the sha256 of the users and of all that training and evaluation are given."""
    train, validation, test = leave_one_out(histories)
    arrays = [train.offsets, train.items, validation.users, validation.targets, test.users, test.targets]
    found = hashlib.sha256("\n".join(users.tolist()).encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it returned)."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def measured(ingest: Callable[[], Any], histories: Callable[[], tuple[Histories, NDArray[np.str_]]]) -> dict[str, Any]:
    """What every side tells: both steps, and the training positions made of what they leave."""
    taken, _ = timed(ingest)
    read, (found, users) = timed(histories)
    split, _ = timed(lambda: leave_one_out(found))
    return {
        "ingest, s": taken,
        "histories and positions, s": read + split,
        "peak, MiB": peak_mib(),
        "digest": digest(users, found),
    }


# -- the sides -------------------------------------------------------------------------------------------------------------


def ours(folder: Path) -> dict[str, Any]:
    """`miss ingest` without its command line: the contract, the landing, the warehouse; and a day onto it."""
    from assets.sources import detect
    from assets.sources.neutral import LogSource
    from assets.stores import contract
    from assets.stores.warehouse import Warehouse

    contract.library()  # imports: seconds that have nothing to do with rows
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    warehouse = Warehouse(home / "warehouse.duckdb")
    told = measured(lambda: warehouse.ingest(detect(folder / "shop")), lambda: warehouse.histories()[:2])
    day, report = timed(lambda: warehouse.ingest(LogSource(folder / "day.parquet")))
    shutil.rmtree(home)
    return told | {"a day onto it, s": day, "rows of the day": report.behaviors_new}


def by_pandas(folder: Path) -> dict[str, Any]:
    """The same with pandas."""
    import pandas as pd

    out = emptied(folder / "pandas")

    def ingest() -> None:
        items, log = (pd.read_parquet(folder / "shop" / f"{name}.parquet") for name in ("items", "behaviors"))
        for column in ("user_id", "item_id", "event"):
            assert log[column].str.len().between(1, LONGEST).all(), column
        assert items["item_id"].is_unique
        assert log["item_id"].isin(items["item_id"]).all()
        assert log["timestamp"].between(0, time.time() + 86_400).all()
        repeated = log.duplicated(["user_id", "item_id", "event", "timestamp"])
        assert repeated.mean() <= 0.01
        log = log[~repeated]
        log.to_parquet(out / "landed.parquet", compression="zstd")
        log = log.sort_values(["user_id", "timestamp"], kind="stable")
        log["position"] = log.groupby("user_id", sort=False).cumcount().astype(np.int32)
        log.to_parquet(out / "behaviors.parquet", compression="zstd")

    def histories() -> tuple[Histories, NDArray[np.str_]]:
        ids = pd.read_parquet(folder / "shop" / "items.parquet")["item_id"].sort_values()
        log = pd.read_parquet(out / "behaviors.parquet").sort_values(["user_id", "position"], kind="stable")
        counts = log.groupby("user_id").size()
        found = log["item_id"].map(pd.Series(np.arange(len(ids)), index=ids))
        return made(counts.to_numpy(), found.to_numpy(np.int32), len(ids)), counts.index.to_numpy(str)

    return measured(ingest, histories)


def by_polars(folder: Path) -> dict[str, Any]:
    """The same with polars."""
    import polars as pl

    out = emptied(folder / "polars")

    def ingest() -> None:
        items, log = (pl.read_parquet(folder / "shop" / f"{name}.parquet") for name in ("items", "behaviors"))
        for column in ("user_id", "item_id", "event"):
            assert log[column].str.len_chars().is_between(1, LONGEST).all(ignore_nulls=False), column
        assert items["item_id"].is_unique().all()
        assert log["item_id"].is_in(items["item_id"].implode()).all()
        assert log["timestamp"].is_between(0, int(time.time()) + 86_400).all()
        kept = log.unique(["user_id", "item_id", "event", "timestamp"], keep="first", maintain_order=True)
        assert len(kept) >= 0.99 * len(log)
        kept.write_parquet(out / "landed.parquet", compression="zstd")
        placed = kept.sort("user_id", "timestamp", maintain_order=True)
        place = pl.int_range(pl.len(), dtype=pl.Int32).over("user_id").alias("position")
        placed.with_columns(place).write_parquet(out / "behaviors.parquet", compression="zstd")

    def histories() -> tuple[Histories, NDArray[np.str_]]:
        ids = (
            pl.read_parquet(folder / "shop" / "items.parquet").select("item_id").sort("item_id").with_row_index("item")
        )
        log = pl.read_parquet(out / "behaviors.parquet").join(ids, on="item_id", maintain_order="left")
        log = log.sort("user_id", "position")
        counts = log.group_by("user_id", maintain_order=True).len()
        found = made(counts["len"].to_numpy(), log["item"].to_numpy().astype(np.int32), len(ids))
        return found, np.array(counts["user_id"].to_list())

    return measured(ingest, histories)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def made(counts: NDArray[np.integer], items: NDArray[np.int32], n_items: int) -> Histories:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Histories(offsets=offsets, items=items, n_items=n_items)


def floor(folder: Path) -> dict[str, Any]:
    """DuckDB alone: what no ingest into a table with positions can leave out."""
    log, file = f"read_parquet('{folder}/shop/behaviors.parquet')", folder / "floor.duckdb"
    position = "CAST(row_number() OVER (PARTITION BY user_id ORDER BY timestamp, file_row_number) - 1 AS INTEGER)"
    numbered = log.replace("')", "', file_row_number = true)")
    steps = {
        "read": f"SELECT sum(strlen(user_id)), sum(strlen(item_id)), sum(strlen(event)), sum(timestamp) FROM {log}",
        "read and store": f"CREATE OR REPLACE TABLE plain AS SELECT * FROM {log}",
        "look for repeats": f"SELECT count(DISTINCT hash(user_id, item_id, event, timestamp)) FROM {log}",
        "read and store with positions": f"CREATE OR REPLACE TABLE placed AS SELECT *, {position} AS position FROM {numbered}",
        "write it down (Parquet, zstd)": f"COPY plain TO '{folder}/floor.parquet' (FORMAT parquet, COMPRESSION zstd)",
    }
    file.unlink(missing_ok=True)
    with duckdb.connect(str(file)) as connection:
        found = {name: timed(lambda sql=sql: connection.execute(sql).fetchall())[0] for name, sql in steps.items()}
    file.unlink()
    return found


SIDES = {"ours": ours, "pandas": by_pandas, "polars": by_polars, "floor": floor}


def measure(folder: Path, rows: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows, targets); raises where the sides do not come to the same histories."""
    told = {}
    for side in SIDES:
        print(f"{side}: {rows:,} behaviors", file=sys.stderr, flush=True)
        told[side] = apart("logs", "--side", side, "--folder", str(folder))
    found, least = told["ours"], told.pop("floor")
    if len({each["digest"] for each in told.values()}) != 1:
        raise SystemExit(f"the sides disagree: { {side: each['digest'] for side, each in told.items()} }")
    table = []
    for side, each in told.items():
        ratio = {"ingest beside ours": each["ingest, s"] / found["ingest, s"]} if side != "ours" else {}
        table.append({"side": side, "rows": rows, "rows a second": rows / each["ingest, s"]} | each | ratio)
    table += [
        {"side": f"DuckDB alone: {name}", "rows": rows, "rows a second": rows / s, "ingest, s": s}
        for name, s in least.items()
    ]
    must = sum(
        least[name] for name in ("look for repeats", "read and store with positions", "write it down (Parquet, zstd)")
    )
    table.append(
        {
            "side": "floor: repeats, positions, both copies",
            "rows": rows,
            "rows a second": rows / must,
            "ingest, s": must,
        }
    )
    return table, [
        at_least("ingest, rows a second", rows / found["ingest, s"], 1e6),
        at_most("histories and training positions, s", found["histories and positions, s"], 60.0),
        at_most("peak memory of ours, MiB", found["peak, MiB"], 4096.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=WORK, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(SIDES[asked.side](asked.folder)))
        return
    generate(asked.folder, asked.rows, min(DAY_ROWS, asked.rows // 20))
    write("logs", *measure(asked.folder, asked.rows))


if __name__ == "__main__":
    main()
