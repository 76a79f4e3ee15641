"""What work over shards tells while it runs, and what it took: lines for those who wait, numbers for those who pay.

- A line every few seconds at most, and one at the end; none for a single shard.
- Workers account for themselves: processor time and peak memory of their process, all that it has loaded included. A worker that
  was warm from other work has the peak of that too.
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

__all__ = ["TELL_S", "Account", "since_last", "telling", "this_process"]

TELL_S = 5.0
"""Seconds between two lines, at least."""
T = TypeVar("T")


def this_process() -> dict[str, Any]:
    """Which process this is, its processor time in seconds, and its peak memory in MiB so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return {"host": socket.gethostname(), "pid": os.getpid(), "cpu_s": time.process_time(), "peak_mib": peak}


_counted_s = 0.0
"""Processor time of this process that `since_last` has told of."""


def since_last() -> dict[str, Any]:
    """`this_process`, with the processor time that this function has not told of before."""
    global _counted_s
    told = this_process()
    before, _counted_s = _counted_s, told["cpu_s"]
    return told | {"cpu_s": told["cpu_s"] - before}


@dataclass
class Account:
    """What the workers of an engine have used so far."""

    seconds: float = 0.0
    """Of waiting for them."""
    workers: dict[str, dict[str, float]] = field(default_factory=dict)
    """Process -> its `cpu_s`, in all, and its largest `peak_mib`."""

    def add(self, told: dict[str, Any]) -> None:
        """Take what a worker said of itself: `this_process`, or `since_last` where it says so more than once."""
        name = f"{told['host']} {told.get('node', '')} {told['pid']}"
        known = self.workers.get(name, {"cpu_s": 0.0, "peak_mib": 0.0})
        peak = max(known["peak_mib"], told["peak_mib"])
        self.workers[name] = {"cpu_s": known["cpu_s"] + told["cpu_s"], "peak_mib": peak}

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
