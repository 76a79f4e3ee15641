"""Shards one after another, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from assets.compute import Progress, Shard, Work
from assets.compute.account import Account, telling, this_process

__all__ = ["LocalEngine"]


class LocalEngine:
    """See `assets.compute.Engine`; work that can use several cores does so by itself."""

    name = "local"

    def __init__(self, progress: Progress | None = None) -> None:
        """progress: told a line now and then; a bar on a terminal where None."""
        self._progress, self._seconds, self._cpu_s = progress, 0.0, 0.0

    def each(
        self,
        make: Callable[..., Work],
        arguments: tuple[Any, ...],
        shards: Sequence[Shard],
        what: str,
        *,
        loads: bool = False,
    ) -> list[Shard]:
        """See `assets.compute.Engine.each`; made once whatever it takes."""
        if not shards:
            return []

        def answers() -> list[Shard]:
            work = make(*arguments)
            done: Iterable[Shard] = (work(shard) for shard in shards)
            if self._progress is None:
                quiet = len(shards) < 2
                return list(tqdm(done, desc=what, total=len(shards), unit="shard", disable=quiet, mininterval=1.0))
            return list(telling(done, len(shards), what, self._progress))

        return self._timed(answers)

    def together(self, work: Callable[[Shard, Progress], None], asked: Shard, *, folder: Path) -> None:
        """See `assets.compute.Engine.together`; this process alone."""
        self._timed(lambda: work(asked, self._progress or print))

    def used(self) -> dict[str, Any]:
        """See `assets.compute.Engine.used`; the worker is the driver."""
        account = Account(seconds=self._seconds)
        account.add(this_process() | {"cpu_s": self._cpu_s})
        return account.metadata(self.name)

    def _timed(self, work: Callable[[], Any]) -> Any:
        begun, cpu = time.monotonic(), time.process_time()
        try:
            return work()
        finally:
            self._seconds += time.monotonic() - begun
            self._cpu_s += time.process_time() - cpu
