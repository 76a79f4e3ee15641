"""What every benchmark prints and writes: rows, targets, and where they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model.files import write_json

__all__ = ["RESULTS", "ROOT", "apart", "at_least", "at_most", "meta", "peak_mib", "table", "write"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("numpy", "torch", "onnxruntime", "faiss-cpu", "duckdb", "scikit-learn")


def git(*arguments: str) -> str:
    """What git says in the repository; "unknown" outside of one."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def meta(command: str) -> dict[str, Any]:
    """{"commit", "date", "machine", "command"}."""
    from model.device import accelerator_name  # torch: what `apart` measures has its own memory

    return {
        "commit": git("rev-parse", "HEAD"),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores, {accelerator_name() or 'no accelerator'}",
        "command": command,
    }


def at_least(name: str, value: float, bound: float) -> dict[str, Any]:
    """A target that wants much."""
    return {"name": name, "value": value, "bound": bound, "wants": "much", "met": value >= bound}


def at_most(name: str, value: float, bound: float) -> dict[str, Any]:
    """A target that wants little."""
    return {"name": name, "value": value, "bound": bound, "wants": "little", "met": value <= bound}


def apart(name: str, *arguments: str) -> dict[str, Any]:
    """What `python -m benchmarks.NAME ARGUMENTS` prints last, JSON: a process of its own, for its peak memory."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mib() -> float:
    """The largest resident memory this process has had, MiB; of the one that started it nothing, which getrusage counts."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def write(name: str, rows: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> None:
    """Print both, and write benchmarks/results/NAME.json: {"meta", "rows", "targets"}."""
    about = meta(f"python -m benchmarks.{name}") | {"versions": {each: version(each) for each in LIBRARIES}}
    write_json(RESULTS / f"{name}.json", {"meta": about, "rows": list(rows), "targets": list(targets)})
    print(table(rows))
    print()
    print(table(targets))
    if missed := [each["name"] for each in targets if not each["met"]]:
        print(f"\nmissed: {', '.join(missed)}", file=sys.stderr)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as an aligned Markdown table; columns are those of all rows in the order they come."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    told = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([told[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *told[1:]])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)
