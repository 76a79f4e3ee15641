"""Shards on a Ray cluster: as tasks of its workers, or by Ray Data over actors where each has something large to load first.

- The cluster of `RAY_ADDRESS`, or one of this machine's cores where none is named. This process stays connected to it until it
  ends: the workers that a step has started are warm in the next.
- Tasks and actors take a core each. Ray does again what a lost worker had begun.
- What work raises on purpose comes back as an answer and is raised here, as it was; anything else ends the step with Ray's account
  of it.

Not covered: bringing files to machines that do not see the home.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assets.compute import Progress, Shard, Work
from assets.compute.account import Account, since_last, telling
from model import errors
from model.errors import MissError, NotReady

__all__ = ["RayEngine", "connected"]

RETRIES = 5
"""Of a task whose worker is lost; a shard on which every worker dies ends its step."""
AHEAD = 4
"""Tasks a core that are with Ray at a time: none waits for the driver, and a million shards are not a million tasks."""


@contextlib.contextmanager
def connected() -> Iterator[int]:
    """Within a cluster; how many cores it has. That of this process, of `RAY_ADDRESS`, or one that ends with this process.

    After anything that is not raised on purpose this process is connected anew by the next: the cluster may be another then.
    """
    import ray

    address, own = os.environ.get("RAY_ADDRESS"), not ray.is_initialized()
    if own:
        alone: dict[str, Any] = {} if address else {"include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **alone)
        _ours.add(ray.get_runtime_context().get_job_id())
    try:
        yield max(int(ray.cluster_resources().get("CPU", 1)), 1)
    except MissError:
        raise
    except BaseException:
        if ray.is_initialized() and ray.get_runtime_context().get_job_id() in _ours:
            ray.shutdown()
        raise


_ours: set[str] = set()
"""Ray's numbers of the connections that were opened here."""


def _answer(work: Callable[[], Work], shard: str) -> str:
    """What the work answers or raises on purpose, and what it took; JSON."""
    import ray

    answer: dict[str, Any] = {}
    try:
        answer = {"said": work()(json.loads(shard))}
    except MissError as error:
        answer = {"raised": type(error).__name__, "sentence": str(error)}
    return json.dumps(answer | {"worker": since_last() | {"node": ray.get_runtime_context().get_node_id()}})


def _task(number: int, shard: str, asked: tuple[Callable[..., Work], tuple[Any, ...]]) -> tuple[int, str]:
    make, arguments = asked
    return number, _answer(lambda: make(*arguments), shard)


class _Actor:
    """A worker that keeps what it has loaded."""

    def __init__(self, make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
        # made when it is asked, and not here: what cannot be made is to be told like all else
        self._work = functools.cache(functools.partial(make, *arguments))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "answer": _answer(self._work, row["shard"])}


Rows = Iterator[tuple[int, str]]
"""Numbers of shards, and what was answered to them, as the answers come."""


def _by_tasks(make: Callable[..., Work], arguments: tuple[Any, ...], shards: Sequence[Shard], cores: int) -> Rows:
    import ray

    asked = ray.put((make, arguments))
    task = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_task)
    left = (task.remote(number, json.dumps(shard), asked) for number, shard in enumerate(shards))
    begun = list(itertools.islice(left, AHEAD * cores))
    while begun:
        done, begun = ray.wait(begun)
        yield from ray.get(done)
        begun += itertools.islice(left, len(done))


def _by_actors(make: Callable[..., Work], arguments: tuple[Any, ...], shards: Sequence[Shard], cores: int) -> Rows:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    # its plans and paths, where `telling` says what is done
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    rows = [{"number": number, "shard": json.dumps(shard)} for number, shard in enumerate(shards)]
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=min(len(rows), cores))
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    for row in data.map(_Actor, fn_constructor_args=(make, arguments), compute=pool, num_cpus=1).iter_rows():
        yield row["number"], row["answer"]


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
        self,
        make: Callable[..., Work],
        arguments: tuple[Any, ...],
        shards: Sequence[Shard],
        what: str,
        *,
        loads: bool = False,
    ) -> list[Shard]:
        """See `assets.compute.Engine.each`."""
        if not shards:
            return []
        found: dict[int, dict[str, Any]] = {}
        begun = time.monotonic()
        with connected() as cores:
            done = (_by_actors if loads else _by_tasks)(make, arguments, shards, cores)
            for number, answer in telling(done, len(shards), what, self._progress):
                found[number] = json.loads(answer)
                self._account.add(found[number]["worker"])
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
