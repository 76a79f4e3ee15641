"""The engine that serves now: one reference, replaced whole, so that a request sees the old bundle or the new one and no mixture.

- A request reads `live.engine` once and answers wholly from what it got; a swap meanwhile changes later requests only.
- Assigning an attribute is atomic; the lock is for those who swap, so that each engine is handed back once.
- Nothing here keeps the engine of before: its memory goes with the last request that holds it.

Not covered: where the next engine comes from and whether it is any good; who swaps has verified it and asked it its golden ones.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from model.errors import NotReady

if TYPE_CHECKING:
    from serving.engine import Engine

__all__ = ["Live"]


class Live:
    """Holds what serves; empty until the first bundle is there."""

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine
        self.absent = "no bundle is loaded yet; run `miss materialize`, which makes and promotes one"
        """Why there is no engine, and the way out: one sentence."""
        self._swapping = threading.Lock()

    @property
    def engine(self) -> Engine:
        """What serves now. Raises NotReady where nothing has been promoted yet."""
        engine = self._engine
        if engine is None:
            raise NotReady(self.absent)
        return engine

    @property
    def ready(self) -> bool:
        """Whether there is an engine."""
        return self._engine is not None

    def swap(self, engine: Engine) -> Engine | None:
        """Serve `engine` from the next request on; returns the one of before, None where there was none."""
        with self._swapping:
            before, self._engine = self._engine, engine
        return before
