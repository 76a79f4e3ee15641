"""Turns at work that a thread does: so many at a time, so many more that wait.

Not covered: the graph's own queue (`serving.batching`), which puts requests together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from model.errors import Busy

__all__ = ["Turns"]

T = TypeVar("T")


class Turns:
    """So many at a time on threads beside the event loop, so many more that wait."""

    def __init__(self, workers: int, queue: int) -> None:
        self._turn, self._room = asyncio.Semaphore(workers), workers + queue

    async def take(self, answer: Callable[[], T]) -> T:
        """What `answer()` returns. Raises Busy where too many wait."""
        if self._room <= 0:
            raise Busy("too many searches wait already; ask again in a moment")
        self._room -= 1
        try:
            async with self._turn:
                return await asyncio.to_thread(answer)
        finally:
            self._room += 1
