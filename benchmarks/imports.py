"""How long a user waits for `miss --help`, and a service for its imports: fresh processes, start of Python included.

- The clock runs in the process that starts them, from before the start to after the end; one run before, not counted, leaves
  compiled files and warm caches, as they are on any machine that ran it once.
- Modules are those loaded by the end; torch and dagster must not be among them. A bare Python is the floor.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.measured import ROOT, at_most, write

__all__ = ["COMMANDS", "FOREIGN", "fresh", "loaded"]

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "miss --help": ("-m", "orchestration.cli", "--help"),
    "import serving.app": ("-c", "import serving.app"),
}
FOREIGN = ("torch", "dagster")
TIMES = 7


def fresh(command: str, *, times: int) -> list[float]:
    """Seconds of a command in so many fresh processes, after one that is not counted."""
    found = []
    for _ in range(times + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *COMMANDS[command]], cwd=ROOT, check=True, capture_output=True)
        found.append(time.perf_counter() - started)
    return found[1:]


def loaded(command: str) -> set[str]:
    """Names of all modules that a command imports, as Python tells them (-X importtime)."""
    arguments = [sys.executable, "-X", "importtime", *COMMANDS[command]]
    done = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}  # the first is the header


def measure(*, times: int = TIMES) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and targets."""
    rows = []
    for command in COMMANDS:
        seconds, modules = fresh(command, times=times), loaded(command)
        row = {"command": command, "seconds, least": min(seconds), "seconds, median": statistics.median(seconds)}
        rows.append(row | {"modules": len(modules)} | {name: name in modules for name in FOREIGN})
    of = {row["command"]: row for row in rows}
    return rows, [
        at_most("miss --help, seconds", of["miss --help"]["seconds, median"], 0.5),
        at_most("import serving.app, seconds", of["import serving.app"]["seconds, median"], 1.0),
        at_most("torch or dagster in either", sum(row[name] for row in rows for name in FOREIGN), 0),
    ]


def main() -> None:
    """Measure and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write("imports", *measure())


if __name__ == "__main__":
    main()
