"""Every target of the benchmarks in one table, as the last run of each left it: printed, and put into the README.

`python -m benchmarks.performance`; `make bench` ends with it. A benchmark without results has no rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import RESULTS, ROOT, table
from model.files import read_json, write_bytes

__all__ = ["NAMES", "place", "targets"]

NAMES = ("tree", "beam", "serving", "search", "embedding", "logs", "training", "imports", "scale")
"""In the order of the table."""


def targets(folder: Path) -> list[dict[str, Any]]:
    """A row for each target of each results file in `folder`."""
    rows = []
    for name in NAMES:
        if (path := folder / f"{name}.json").is_file():
            report = read_json(path)
            for each in report["targets"]:
                bound = f"{'≥' if each['wants'] == 'much' else '≤'} {each['bound']:,g}"
                told = {"benchmark": name, "target": each["name"], "measured": each["value"], "bound": bound}
                rows.append(told | {"met": each["met"], "commit": report["meta"]["commit"][:10]})
    return rows


def place(text: str, rows: Sequence[dict[str, Any]]) -> str:
    """`text` with what stands between `<!-- performance -->` and `<!-- end -->` made anew."""
    filled = f"<!-- performance -->\n{table(rows)}\n<!-- end -->"
    return re.sub(r"<!-- performance -->\n.*?<!-- end -->", lambda _: filled, text, flags=re.DOTALL)


def main() -> None:
    """Print the table and renew the README."""
    rows, readme = targets(RESULTS), ROOT / "README.md"
    print(table(rows))
    write_bytes(readme, place(readme.read_text(encoding="utf-8"), rows).encode())


if __name__ == "__main__":
    main()
