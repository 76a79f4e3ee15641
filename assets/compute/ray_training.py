"""Processes that train one model together on a Ray cluster: Ray Train's TorchTrainer, torch.distributed between them.

- A worker a GPU where the cluster has any (nccl), else a worker a node with all of its cores (gloo).
- Ray starts all of them again when one is lost, up to `RESTARTS` times; they go on from the last epoch's checkpoint.
- The first worker writes what it has to tell line by line into a file, which the process that waits reads while it waits: the
  lines are in its log, whatever becomes of the worker.

Not covered: fewer workers than were begun with. While a machine is missing, Ray waits for another.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from assets.compute import Progress, Shard
from assets.compute.account import since_last
from model import errors
from model.errors import MissError
from model.files import read_json, write_json

__all__ = ["RESTARTS", "train_together"]

RESTARTS = 3


def _line(path: Path, sentence: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(sentence) + "\n")


def _work(config: dict[str, Any]) -> None:
    """What each worker does; runs in its process."""
    import torch

    from model.parallel import group

    if torch.cuda.is_available():
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())
    folder, together = Path(config["folder"]), group()
    tell: Progress = (lambda sentence: _line(folder / "told", sentence)) if together.rank == 0 else (lambda _: None)
    try:
        config["work"](config["asked"], tell)
        write_json(folder / f"worker-{together.rank}.json", since_last() | {"node": together.rank})
    except MissError as error:  # what is raised on purpose would be raised again
        if together.rank == 0:
            write_json(folder / "raised.json", {"raised": type(error).__name__, "sentence": str(error)})


@contextlib.contextmanager
def _told(path: Path, progress: Progress) -> Iterator[None]:
    """While within, hand on every line that comes into the file."""
    done = threading.Event()

    def follow() -> None:
        with path.open(encoding="utf-8") as file:
            rest = ""
            while True:
                ended = done.wait(0.5)
                rest += file.read()
                *lines, rest = rest.split("\n")
                for line in lines:
                    progress(json.loads(line))
                if ended:
                    return

    path.write_text("", encoding="utf-8")
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _workers() -> tuple[int, dict[str, float]]:
    """How many there are to be, and what each of them takes; within a cluster."""
    import ray

    if gpus := int(ray.cluster_resources().get("GPU", 0)):
        return gpus, {"CPU": 1, "GPU": 1}
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cores = [count for count in cores if count]
    return len(cores), {"CPU": min(cores)}


def train_together(
    work: Callable[[Shard, Progress], None], asked: Shard, *, folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Run `work(asked, progress)` in all workers at once, within a cluster; what each of them took (`since_last`).

    folder: one that all workers see, for what they have to tell. Raises what the work raises on purpose.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    raised = folder / "raised.json"
    raised.unlink(missing_ok=True)
    number, resources = _workers()
    progress(f"training: {number} workers of {', '.join(f'{count:g} {what}' for what, count in resources.items())}")
    trainer = TorchTrainer(
        _work,
        train_loop_config={"work": work, "asked": asked, "folder": str(folder)},
        scaling_config=ScalingConfig(
            num_workers=number,
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name="training", storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=RESTARTS)
        ),
    )
    with _told(folder / "told", progress):
        trainer.fit()
    if raised.exists():
        found = read_json(raised)
        raise getattr(errors, found["raised"])(found["sentence"])
    return [read_json(folder / f"worker-{rank}.json") for rank in range(number)]
