"""Shards one after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from assets.compute import Progress, Shard, Work

__all__ = ["LocalEngine"]


class LocalEngine:
    """See `assets.compute.Engine`; work that can use several cores does so by itself."""

    name = "local"

    def each(
        self, make: Callable[..., Work], arguments: tuple[Any, ...], shards: Sequence[Shard], what: str
    ) -> list[Shard]:
        """See `assets.compute.Engine.each`."""
        if not shards:
            return []
        work = make(*arguments)
        bar = tqdm(shards, desc=what, unit="shard", disable=len(shards) < 2, mininterval=1.0)
        return [work(shard) for shard in bar]

    def together(
        self, work: Callable[[Shard, Progress], None], asked: Shard, *, folder: Path, progress: Progress
    ) -> None:
        """See `assets.compute.Engine.together`; this process alone."""
        work(asked, progress)
