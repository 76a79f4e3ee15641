"""Where work over shards runs: in this process, or on a Ray cluster (`MISS_COMPUTE`); the same work either way.

- A step is planned as shards, each a small JSON value that names what to read and where to write. Work on a shard reads files,
  writes files and answers with a small JSON value; what was written is merged from those answers. Nothing large goes through the
  process that plans.
- So an engine is a method for shards, whose answers do not depend on the engine, and one for those who train a model together.
- Files lie where every machine of the cluster sees them: the home is on storage they share.

Not covered: what the work is (each step's own module).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Engine", "Progress", "Shard", "Work", "engine"]

Progress = Callable[[str], None]
"""Told a line about what has been done."""

Shard = dict[str, Any]
"""JSON values."""
Work = Callable[[Shard], Shard]
"""What is done with a shard."""


class Engine(Protocol):
    """A place to work."""

    name: str
    """As `MISS_COMPUTE` has it."""

    def each(
        self,
        make: Callable[..., Work],
        arguments: tuple[Any, ...],
        shards: Sequence[Shard],
        what: str,
        *,
        loads: bool = False,
    ) -> list[Shard]:
        """What `make(*arguments)` answers to each shard, in their order; `what` names it to those who wait.

        loads: making it takes long, as it loads a network say; a worker then keeps it from shard to shard.
        Raises what the work raises on purpose (`model.errors`), for the first shard that it does so.
        """

    def together(self, work: Callable[[Shard, Progress], None], asked: Shard, *, folder: Path) -> None:
        """Run `work(asked, progress)` in all processes that are to train one model (`model.parallel`), side by side.

        folder: for what they have to tell; all of them see it. Raises what the work raises on purpose.
        """

    def used(self) -> dict[str, Any]:
        """What its work has taken so far, for an asset's metadata (`assets.compute.account.Account`)."""


def engine(compute: str, progress: Progress | None = None) -> Engine:
    """The engine that is set. Raises NotReady where Ray is asked for and not installed.

    progress: told a line now and then, in Dagster's log say; people at a terminal where None.
    """
    if compute == "ray":
        from assets.compute.on_ray import RayEngine

        return RayEngine(progress)
    from assets.compute.local import LocalEngine

    return LocalEngine(progress)
