"""What work over shards tells while it runs, and what it took: lines for those who wait, numbers for those who pay.

- A line every few seconds at most, and one at the end; none for a single shard.
- Workers account for themselves: processor time and peak memory of their process, all that it has loaded included.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from assets.compute import Progress

__all__ = ["TELL_S", "Account", "telling", "this_process"]

TELL_S = 5.0
"""Seconds between two lines, at least."""
T = TypeVar("T")


def this_process() -> dict[str, Any]:
    """Which process this is, its processor time in seconds, and its peak memory in MiB so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return {"host": socket.gethostname(), "pid": os.getpid(), "cpu_s": time.process_time(), "peak_mib": peak}


@dataclass
class Account:
    """What the workers of an engine have used so far."""

    seconds: float = 0.0
    """Of waiting for them."""
    workers: dict[str, dict[str, float]] = field(default_factory=dict)
    """Process -> its newest `cpu_s` and `peak_mib`."""

    def add(self, told: dict[str, Any]) -> None:
        """Take what a worker said of itself (`this_process`); what it said before is replaced."""
        name = f"{told['host']} {told.get('node', '')} {told['pid']}"
        known = self.workers.get(name, {"cpu_s": 0.0, "peak_mib": 0.0})
        self.workers[name] = {each: max(known[each], told[each]) for each in known}

    def metadata(self, engine: str) -> dict[str, Any]:
        """For an asset's metadata; the driver is the process that asks."""
        peaks = [each["peak_mib"] for each in self.workers.values()]
        return {
            "engine": engine,
            "workers": len(self.workers),
            "seconds": round(self.seconds, 3),
            "workers_cpu_seconds": round(sum(each["cpu_s"] for each in self.workers.values()), 3),
            "worker_peak_mib": round(max(peaks, default=0.0), 1),
            "driver_peak_mib": round(this_process()["peak_mib"], 1),
        }


def telling(answers: Iterable[T], total: int, what: str, progress: Progress) -> Iterator[T]:
    """The answers as they come; `progress` is told how many of `total` shards are done."""
    begun = told = time.monotonic()
    for done, answer in enumerate(answers, 1):
        yield answer
        now = time.monotonic()
        if total > 1 and (done == total or now - told >= TELL_S):
            told = now
            progress(f"{what}: {done} of {total} shards, {done / max(now - begun, 1e-3):.2g} a second")
