"""Searching the tree against scoring every item, and against dot products: time, memory, and what is found.

- Every way answers the same users with the best 100 items that they have not seen, through `recommend` as the service calls it, on
  the same model in ONNX Runtime with two threads. `benchmarks.beam_peers` says how the peers are built and what is not equal.
- Recall is the share of the 100 best by the full score of every item that is among the 100 answered, for the users whom every item
  is scored for, with histories read as by the search that is compared (`benchmarks.beam_prepare`).
- A row is timed request by request, one user after another or all 64 at once, for so many requests or so many seconds.
- Peak memory is that of a process that does nothing else, re-scored rows on top of those of the same index that are not.
- A flat scan of dot products answers a poorer question; where it is faster than the tree the row says so.
- `TABLES` and `BRANCHINGS` compare ways to store and to grow the tree.

Growth with the number of items is fitted twice over the p50 of one user: the exponent of a power of N, and milliseconds a doubling.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.beam_floor import floor_ms, speed
from benchmarks.beam_peers import INDICES, DotProduct, Everything, dot_products
from benchmarks.beam_prepare import (
    BATCH,
    BEAM,
    BRANCHINGS,
    CODED,
    LENGTH,
    LENGTHS,
    TABLES,
    THREADS,
    TRAINED,
    K,
    Users,
    graph,
    prepare,
    progress,
)
from benchmarks.measured import ROOT, apart, at_most, peak_mib, write
from model.files import read_json, write_npz
from model.onnx_search import OnnxSearch
from model.retriever import Retriever

SIZES, BEAMS, BRANCHED = (3416, 100_000, 1_000_000), (100, 200, 400), 100_000
"""`BRANCHED`: items at which branchings are compared."""
REQUESTS, TARGET_REQUESTS, SECONDS, TARGET_SECONDS = 41, 201, 0.8, 12.0
"""Of a row, and of the rows that targets are about; whichever is reached first."""
P99_MS, LONGER, SCORED, EXPONENT, RECALL_LOST = 20.0, 1.3, 0.05, 0.3, 0.005

Row = dict[str, Any]


# -- in processes of their own -----------------------------------------------------------------------------------------


def ways(users: Users) -> list[tuple[int, int]]:
    """(length, batch) of the rows."""
    return [(length, batch) for length in users.lengths for batch in (1, BATCH)]


def row_of(
    users: Users, retriever: Retriever, way: str, length: int, batch: int, *, beam: int, target: bool = False
) -> Row:
    """Time one way with one length of histories; beam: of the search that users are read as by."""
    requests, limit = (TARGET_REQUESTS, TARGET_SECONDS) if target else (REQUESTS, SECONDS)
    found, taken = _timed(retriever, users.histories(length), batch, requests, limit=limit)
    return told(users, way, length, batch, taken) | {"recall": users.recall(length, beam, found)}


def told(users: Users, way: str, length: int, batch: int, taken: Sequence[float]) -> Row:
    """A row of what was asked, and of the milliseconds that each request took."""
    row: Row = {"data": users.about["data"], "items": users.n_items, "way": way}
    row |= {"branching": users.about["branching"], "history": length, "batch": batch, "requests": len(taken)}
    row |= {"p50 ms": float(np.median(taken)), "p99 ms": float(np.percentile(taken, 99))}
    return row | {"queries/s": 1000 * batch * len(taken) / sum(taken)}


def _timed(
    retriever: Retriever, histories: Sequence[NDArray[np.int64]], batch: int, requests: int, *, limit: float
) -> tuple[dict[int, NDArray[np.int64]], list[float]]:
    """Answers (K,) of the users asked for, and milliseconds of each request but the first, which warms up where there are more."""
    k, users = min(K, retriever.n_items), len(histories)
    found: dict[int, NDArray[np.int64]] = {}
    taken: list[float] = []
    at_once = [list(range(users))] if batch > 1 else [[user] for user in range(users)]
    begun = time.perf_counter()
    while not taken or (len(taken) < requests and time.perf_counter() - begun < limit):
        rows = at_once[len(taken) % len(at_once)]
        asked = [histories[user] for user in rows]
        started = time.perf_counter()
        items, _ = retriever.recommend(asked, k)
        taken.append(1000 * (time.perf_counter() - started))
        found |= dict(zip(rows, items, strict=True))
    return found, taken[1:] or taken


def everything(folder: Path) -> list[Row]:
    """Every item by the full score; the answers are what recall is measured against."""
    users = Users(folder)
    retriever = Everything(folder, users.n_items, threads=THREADS)
    rows = []
    for length in users.lengths:
        histories = users.references(length, BEAM)
        found, taken = _timed(retriever, histories, 1, len(histories), limit=float("inf"))
        write_npz(users.reference(length, BEAM), {"items": np.stack([found[user] for user in range(len(found))])})
        row = told(users, retriever.name, length, 1, taken)
        rows.append(row | {"recall": 1.0, "full scores": users.n_items, "peak MiB": peak_mib()})
    return rows


def searched(folder: Path, *, beam: int, tables: str) -> list[Row]:
    """Down the tree."""
    users = Users(folder)
    retriever = OnnxSearch(graph(folder, beam, tables), n_items=users.n_items, beam=beam, threads=THREADS)
    scored = users.about["scored"][str(beam)]
    rows = []
    for length, batch in ways(users):
        target = (beam, batch) == (BEAM, 1) and length >= LENGTH and users.n_items == max(SIZES)
        row = row_of(users, retriever, "MISS tree", length, batch, beam=beam, target=target)
        row |= {"beam": beam, "tables": tables, "full scores": scored, "nodes scored": scored / users.about["nodes"]}
        if batch == 1:
            mflop = users.about["operations"][str(beam)][users.lengths.index(length)] / 1e6
            row |= {"MFLOP": mflop, "MiB read": 4 * users.about["row"] * (scored + length) / 2**20}
        rows.append(row | {"peak MiB": peak_mib()})
    return rows


def dotted(folder: Path, *, kind: str) -> list[Row]:
    """By dot product, then re-scored."""
    users = Users(folder)
    rows = []
    for rescored in (False, True):
        retriever = DotProduct(folder, users.n_items, kind=kind, rescored=rescored, threads=THREADS)
        since = dot_products(kind, users.n_items)
        for length, batch in ways(users):
            since()
            some = users.histories(length)[:8]
            retriever.recommend(some, K)
            products = since() / (1 if kind == "flat" else len(some))
            row = row_of(users, retriever, retriever.name, length, batch, beam=BEAM)
            row |= {"dot products": round(products), "full scores": min(retriever.shortlist, users.n_items)}
            rows.append(row | {"peak MiB": peak_mib()})
    return rows


def machine(folder: Path) -> Row:
    """What the cores can do."""
    return speed(folder, THREADS)


# -- all of them -------------------------------------------------------------------------------------------------------


def one(step: str, folder: Path, **options: Any) -> Any:
    """A step in a process of its own."""
    started = time.perf_counter()
    result = apart("beam", "--one", json.dumps({"step": step, "folder": str(folder), "options": options}))["result"]
    progress(f"{step} {options}: {time.perf_counter() - started:.0f} s")
    return result


def prepared(models: Sequence[dict[str, Any]], folder: Path, home: str) -> Iterator[Path]:
    """A folder a model, made two at a time: an export keeps one core busy. One that is not to be had is left out."""
    folders = [folder / str(place) for place in range(len(models))]

    def prepare_one(place: int) -> bool:
        folders[place].mkdir()
        return bool(one("prepare", folders[place], home=home, **models[place]))

    with ThreadPoolExecutor(2) as pool:
        # the largest first, that no core waits for it in the end
        order = sorted(range(len(models)), key=lambda place: -models[place]["items"])
        found = dict(zip(order, pool.map(prepare_one, order), strict=True))
    for place, model in enumerate(models):
        if found[place]:
            yield folders[place]
        else:
            progress(f"{model['data']}: there is no such model under {home} (make quality trains it); left out")


def rows_of(folder: Path) -> Iterator[Row]:
    """All rows of one model, each way in a process of its own."""
    about = read_json(folder / "about.json")
    if about["branching"] == BRANCHINGS[0]:
        yield from one("everything", folder)
    for beam, stored in about["tables"].items():
        for tables in stored:
            yield from one("searched", folder, beam=int(beam), tables=tables)
    if about["branching"] == BRANCHINGS[0]:
        for kind in INDICES:
            yield from one("dotted", folder, kind=kind)


def compared(rows: list[Row], machine: Row) -> list[Row]:
    """Each row of the tree beside the flat scan of the same users, and beside what the machine would need at best."""
    flat = {_same(row): row["p50 ms"] for row in rows if row["way"] == "flat"}
    for row in rows:
        scan = flat.get(_same(row))
        if row["way"] == "MISS tree" and scan is not None:
            row |= {"times the flat scan": row["p50 ms"] / scan, "flat scan faster": scan < row["p50 ms"]}
        if "MFLOP" in row:
            row["floor ms"] = floor_ms(row["MFLOP"], row["MiB read"], machine)
    return [*rows, machine]


def _same(row: Row) -> tuple[Any, ...]:
    return row["data"], row["items"], row["history"], row["batch"]


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is asked of the search, as far as the rows tell."""
    label, told = next(iter(TABLES)), []
    ours = {
        (row["items"], row["history"]): row
        for row in rows
        if (row["way"], row["batch"], row.get("beam"), row.get("tables")) == ("MISS tree", 1, BEAM, label)
        and row["branching"] == BRANCHINGS[0]
        and row["data"] != TRAINED
    }
    sizes = sorted({items for items, _ in ours})
    n = sizes[-1]
    short, long = ours[n, LENGTH], ours[n, LENGTHS[-1]]
    told.append(at_most(f"p99 ms, one user, {n:,} items, {LENGTH:,} behaviors, beam {BEAM}", short["p99 ms"], P99_MS))
    told.append(at_most(f"{LENGTHS[-1]:,} behaviors against {LENGTH:,}, p50", long["p50 ms"] / short["p50 ms"], LONGER))
    told.append(at_most(f"share of nodes scored, {n:,} items, beam {BEAM}", short["nodes scored"], SCORED))
    if len(sizes) > 1:
        exponent, doubling = growth(sizes, [ours[size, LENGTH]["p50 ms"] for size in sizes])
        told.append(at_most(f"exponent of time in items, {sizes[0]:,} to {n:,}, beam {BEAM}", exponent, EXPONENT))
        told[-1]["ms a doubling"] = doubling
    for row in rows:
        # a batch asks for every user whom every item was scored for
        narrow = row.get("tables", label) not in (label, CODED)
        if row["batch"] > 1 and narrow and row["recall"] is not None:
            exact = next(each for each in rows if _setting(each) == {**_setting(row), "tables": label})
            name = f"recall lost, {row['tables']}, {row['data']}, {row['items']:,} items, {row['history']:,} behaviors"
            told.append(at_most(name, exact["recall"] - row["recall"], RECALL_LOST))
    return told


def _setting(row: Row) -> Row:
    names = ("data", "items", "way", "branching", "history", "batch", "beam", "tables")
    return {name: row.get(name) for name in names}


def growth(sizes: Sequence[int], ms: Sequence[float]) -> tuple[float, float]:
    """The exponent a of ms = c N^a, and the slope of ms = c + b log2 N, both by least squares."""
    exponent = np.polyfit(np.log(sizes), np.log(ms), 1)[0]
    return float(exponent), float(np.polyfit(np.log2(sizes), ms, 1)[0])


def main() -> None:
    """Every size, the trained model, and the branchings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="items, comma-separated; others for a quick try"
    )
    parser.add_argument("--home", default=str(ROOT / ".miss-bench"), help="where the quality table's models are kept")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        told = json.loads(chosen.one)
        step = {each.__name__: each for each in (prepare, everything, searched, dotted, machine)}[told["step"]]
        print(json.dumps({"result": step(Path(told["folder"]), **told["options"])}))
        return
    sizes = [int(size) for size in chosen.sizes.split(",")]
    exact = [next(iter(TABLES))]
    usual: dict[str, Any] = {"data": "synthetic", "branching": BRANCHINGS[0], "beams": list(BEAMS)}
    narrow = ["float32", "int8"]  # a million items: each way takes a minute to export
    stored = {items: exact if items < BRANCHED else list(TABLES) if items == BRANCHED else narrow for items in sizes}
    models = [usual | {"items": items, "tables": stored[items]} for items in sizes]
    if min(SIZES) in sizes:
        models.append(usual | {"data": TRAINED, "items": min(SIZES), "beams": [BEAM], "tables": list(TABLES)})
    if BRANCHED in sizes:
        grown = usual | {"items": BRANCHED, "beams": [BEAM], "tables": exact}
        models += [grown | {"branching": branching} for branching in BRANCHINGS[1:]]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="miss-search-") as name:
        found = one("machine", Path(name))
        for folder in prepared(models, Path(name), chosen.home):
            rows += rows_of(folder)
            shutil.rmtree(folder)
    write("beam", compared(rows, found), targets(rows))


if __name__ == "__main__":
    main()
