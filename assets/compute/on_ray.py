"""Shards over the actors of a Ray cluster, by Ray Data: it streams them, holds back what is not awaited, and does again what a lost
worker had begun.

- The cluster of `RAY_ADDRESS`, or one of this machine's cores for the time of the work where none is named.
- One actor a free core by default, each with a worker of its own: a network, say, is loaded once an actor.
- What work raises on purpose comes back as an answer and is raised here, as it was; anything else ends the step with Ray's account
  of it.

Not covered: bringing files to machines that do not see the home.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assets.compute import Progress, Shard, Work
from assets.compute.account import Account, telling, this_process
from model import errors
from model.errors import MissError, NotReady

__all__ = ["RayEngine", "connected"]


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Within a cluster: that of this process, of `RAY_ADDRESS`, or one that is started and ended."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **own)
    try:
        yield
    finally:
        ray.shutdown()


class _Actor:
    """A worker, and what it raises on purpose as an answer."""

    def __init__(self, make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
        self._make, self._arguments, self._work = make, arguments, None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        try:
            if self._work is None:  # here and not before: what cannot be made is to be told like all else
                self._work = self._make(*self._arguments)
            answer = {"said": self._work(json.loads(row["shard"]))}
        except MissError as error:
            answer = {"raised": type(error).__name__, "sentence": str(error)}
        import ray

        answer["worker"] = this_process() | {"node": ray.get_runtime_context().get_node_id()}
        return {"number": row["number"], "answer": json.dumps(answer)}


class RayEngine:
    """See `assets.compute.Engine`."""

    name = "ray"

    def __init__(self, progress: Progress | None = None) -> None:
        """progress: told a line now and then; standard error where None. Raises NotReady where Ray is not installed."""
        if importlib.util.find_spec("ray") is None:
            raise NotReady(
                "MISS_COMPUTE = ray needs Ray, which is not installed; run pip install 'miss-retrieval[ray]'"
            )
        self._progress: Progress = progress or functools.partial(print, file=sys.stderr, flush=True)
        self._account = Account()

    def each(
        self, make: Callable[..., Work], arguments: tuple[Any, ...], shards: Sequence[Shard], what: str
    ) -> list[Shard]:
        """See `assets.compute.Engine.each`."""
        if not shards:
            return []
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        found: dict[int, dict[str, Any]] = {}
        begun = time.monotonic()
        with connected():
            DataContext.get_current().enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(
                logging.WARNING
            )  # its plans and paths, where `telling` says what is done
            rows = [{"number": number, "shard": json.dumps(shard)} for number, shard in enumerate(shards)]
            cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
            pool = ActorPoolStrategy(min_size=1, max_size=min(len(rows), cores))
            data = ray.data.from_items(rows, override_num_blocks=len(rows))
            done = data.map(_Actor, fn_constructor_args=(make, arguments), compute=pool, num_cpus=1).iter_rows()
            for row in telling(done, len(rows), what, self._progress):
                found[row["number"]] = json.loads(row["answer"])
                self._account.add(found[row["number"]]["worker"])
        self._account.seconds += time.monotonic() - begun
        answers = [found[number] for number in range(len(shards))]
        for answer in answers:
            if "raised" in answer:
                raise getattr(errors, answer["raised"])(answer["sentence"])
        return [answer["said"] for answer in answers]

    def together(self, work: Callable[[Shard, Progress], None], asked: Shard, *, folder: Path) -> None:
        """See `assets.compute.Engine.together`."""
        from assets.compute.ray_training import train_together

        begun = time.monotonic()
        with connected():
            for worker in train_together(work, asked, folder=folder, progress=self._progress):
                self._account.add(worker)
        self._account.seconds += time.monotonic() - begun

    def used(self) -> dict[str, Any]:
        """See `assets.compute.Engine.used`; a worker that was lost counts with what it said last."""
        return self._account.metadata(self.name)
