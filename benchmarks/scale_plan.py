"""What a catalogue and a log of any size would take, reckoned from the rates that the other benchmarks measured.

`python -m benchmarks.scale_plan` prints the table and puts it into docs/scale.md; with sizes of your own it only prints.

- Time is reckoned from rates of one core of the machine that measured them, and goes down with the number of cores: what work over
  shards that share nothing does, and training not quite. The exchange of gradients is not in it.
- Bytes follow from shapes and dtypes. What is not reckoned: networks, disks, and machines that fail.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measured import RESULTS, ROOT, table
from model.files import read_json, write_bytes

__all__ = ["PAGE", "Rates", "Size", "measured", "memory", "place", "plan"]

PAGE = ROOT / "docs" / "scale.md"
CORES = 2
"""Of the machine that measured what is not told by core."""
DIM, CONTENT_DIM = 128, 64
"""Of a node's embedding and of its multi-modal vector, by default."""
TB = 1e12
HIDDEN = {"unit", "driver's growth, MiB"}
"""Columns of `benchmarks.scale` that are not shown."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What there is, and what is to work on it."""

    items: float = 1e8
    users: float = 1e9
    behaviors: float = 1e12
    days: int = 365
    """That the behaviors are of."""
    machines: int = 100
    cores: int = 32
    """Of each machine."""

    @property
    def nodes(self) -> float:
        """Of a tree of two children a node."""
        return 2 * self.items


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Units that one core does in a second."""

    texts: float
    pictures: float
    ingested: float
    """Behaviors into the warehouse, which is one machine's."""
    gathered: float
    """Behaviors into histories."""
    grown: float
    """Items into the tree, of `grown_items`."""
    grown_items: float
    targets: float
    """Training targets of the dense path."""
    searched: float
    """Users, in a tree over `searched_items`."""
    searched_items: float
    exponent: float
    """Of a search's time in items."""


def _row(folder: Path, name: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    return next(row for row in read_json(folder / f"{name}.json")["rows"] if wanted(row))


def measured(folder: Path = RESULTS) -> Rates:
    """As the last runs left them."""

    def scale(stage: str) -> dict[str, Any]:
        return _row(
            folder, "scale", lambda r: r["stage"] == stage and r["engine"] != "this process" and r["workers"] == 1
        )

    texts = _row(folder, "embedding", lambda r: r["what"] == "texts, MISS")
    pictures = _row(folder, "embedding", lambda r: r["what"] == "images, MISS")
    beam = _row(
        folder,
        "beam",
        lambda r: (
            (r.get("items"), r.get("way"), r.get("history"), r.get("batch"), r.get("beam"), r.get("tables"))
            == (1_000_000, "MISS tree", 1000, 1, 200, "float32")
        ),
    )
    exponent = next(t for t in read_json(folder / "beam.json")["targets"] if t["name"].startswith("exponent"))
    return Rates(
        texts=texts["items/s"] / CORES,
        pictures=pictures["items/s"] / CORES,
        ingested=_row(folder, "logs", lambda r: r["side"] == "ours")["rows a second"] / CORES,
        gathered=scale("histories")["units a core-second"],
        grown=scale("tree")["units a core-second"],
        grown_items=scale("tree")["units at 10x"],
        targets=_row(folder, "training", lambda r: r["model"] == "MISS" and r["shape"] == "default")["targets a second"]
        / CORES,
        searched=1000 / beam["p50 ms"],
        searched_items=beam["items"],
        exponent=exponent["value"],
    )


def plan(size: Size, rates: Rates) -> list[dict[str, Any]]:
    """Rows: what a step takes of one core, and of all machines; `once` or every day."""
    deeper = math.log2(size.items) / math.log2(rates.grown_items)
    slower = (size.items / rates.searched_items) ** rates.exponent
    day = size.behaviors / size.days
    steps = [
        ("texts", "once", size.items, rates.texts, "cluster"),
        ("pictures", "once", size.items, rates.pictures, "cluster"),
        ("ingest", "once", size.behaviors, rates.ingested, "one machine"),
        ("ingest", "every day", day, rates.ingested, "one machine"),
        ("histories", "every day", size.behaviors, rates.gathered, "cluster"),
        ("index tree", "every day", size.items, rates.grown / deeper, "cluster"),
        ("training, one epoch of all", "once", size.behaviors, rates.targets, "cluster"),
        ("training, one epoch of a day", "every day", day, rates.targets, "cluster"),
        ("everybody's items", "every day", size.users, rates.searched / slower, "cluster"),
    ]
    rows = []
    for step, when, amount, rate, where in steps:
        core_hours = amount / rate / 3600
        cores = size.cores * (size.machines if where == "cluster" else 1)
        rows.append(
            {
                "step": step,
                "when": when,
                "units": amount,
                "a core-second": rate,
                "core-hours": core_hours,
                "where": where,
                "hours": core_hours / cores,
            }
        )
    return rows


def memory(size: Size) -> list[dict[str, Any]]:
    """Rows: what has to lie where as a whole, bytes by shape and dtype."""
    told = [
        ("vectors of the catalogue, texts 384, pictures 1280, float32", size.items * (384 + 1280) * 4, "disk"),
        ("histories.npz and days.npz, int32 each", size.behaviors * 8, "disk; memory of every worker that trains"),
        (
            "node vectors z, 64 float32",
            size.nodes * CONTENT_DIM * 4,
            "memory of whoever joins the tree, trains or serves",
        ),
        ("node embeddings E, 128 float32", size.nodes * DIM * 4, "memory of every service"),
        ("the same in training, 20 bytes a parameter", size.nodes * DIM * 20, "memory of every worker that trains"),
        ("everybody's 100 items, 12 bytes a row", size.users * 100 * 12, "disk"),
    ]
    return [{"what": what, "TB": size_bytes / TB, "where": where} for what, size_bytes, where in told]


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """What `benchmarks.scale` found, without columns that follow from others."""
    return table([{name: value for name, value in row.items() if name not in HIDDEN} for row in rows])


def place(text: str, size: Size, folder: Path = RESULTS) -> str:
    """`text` with its tables, each between `<!-- NAME -->` and `<!-- end -->`, made anew from the results."""
    tables = {
        "engines": table(read_json(folder / "engines.json")["rows"]),
        "scale": shown(read_json(folder / "scale.json")["rows"]),
        "plan": f"{table(plan(size, measured(folder)))}\n\n{table(memory(size))}",
    }
    for name, told in tables.items():
        text = re.sub(
            rf"<!-- {name} -->\n.*?<!-- end -->",
            lambda _, name=name, told=told: f"<!-- {name} -->\n{told}\n<!-- end -->",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables; renew the page where the sizes are its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in vars(Size()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    size, rates = Size(**vars(parser.parse_args(arguments))), measured()
    print(table(plan(size, rates)))
    print()
    print(table(memory(size)))
    if size == Size():
        write_bytes(PAGE, place(PAGE.read_text(encoding="utf-8"), size).encode())


if __name__ == "__main__":
    main()
