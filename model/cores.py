"""How many threads a step of this process takes."""

from __future__ import annotations

import os

__all__ = ["cpu_threads"]


def cpu_threads(*, most: int | None = None) -> int:
    """Cores this process may use, or as many as OMP_NUM_THREADS says, which Ray sets to a worker's own; at most `most`."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    found = int(told) if told.isdigit() and int(told) else len(os.sched_getaffinity(0))
    return min(found, most or found)
