"""How many threads a step of this process takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["cpu_threads", "fixed_threads"]


def cpu_threads(*, most: int | None = None) -> int:
    """Cores this process may use, or as many as OMP_NUM_THREADS says, which Ray sets to a worker's own; at most `most`."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    found = int(told) if told.isdigit() and int(told) else len(os.sched_getaffinity(0))
    return min(found, most or found)


@contextlib.contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """torch and numpy's BLAS with as many threads within, whatever the machine has: how a product is cut decides its last bits."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
