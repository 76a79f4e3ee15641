"""A model trained from files into files: by this process, or by several that train together.

- Whoever trains reads the tree and the histories for itself, and goes on from the checkpoints of `work`, so that a worker that is
  lost costs what came after the last finished epoch.
- The first of them leaves what was found in the folder: parameters.npz, tree.npz, and `Found` beside the checkpoints.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assets.compute import Engine, Progress, Shard
from model.files import read_json, write_json

__all__ = ["Fit", "Found", "trained"]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is trained, on what; names only, so that it can be told to another machine."""

    tree: str
    """tree.npz that training starts from."""
    histories: str
    """Folder of train.npz and validation.npz."""
    options: dict[str, Any]
    """Of `TrainingConfig`."""
    target: str
    """Folder that takes parameters.npz and tree.npz."""
    work: str
    """Folder of the checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a training tells beside its files."""

    curves: dict[str, list[dict[str, float]]]
    """As in `model.training.Trained`."""
    parameters: int
    """How many there are."""
    items_moved: int
    """Items that `reassign` put elsewhere in the tree."""
    workers: int
    """Processes that trained together."""


def fit(asked: Shard, progress: Progress) -> None:
    """Train as `Fit` says, with all processes of the group; of them the first writes."""
    from model.configure import configure
    from model.histories import EvaluationSet, Histories
    from model.index_tree import IndexTree
    from model.parallel import group
    from model.training import TrainingConfig, save_parameters, train_model

    of = Fit(**asked)
    built, histories, work = IndexTree.load(Path(of.tree)), Path(of.histories), Path(of.work)
    model, tree, curves = train_model(
        built,
        Histories.load(histories / "train.npz"),
        EvaluationSet.load(histories / "validation.npz"),
        configure(TrainingConfig, of.options, where="training"),
        work=work,
        progress=progress,
    )
    together = group()
    if together.rank == 0:
        save_parameters(model, Path(of.target) / "parameters.npz")
        tree.save(Path(of.target) / "tree.npz")
        found = Found(
            curves={stage: list(points) for stage, points in curves.items()},
            parameters=sum(p.numel() for p in model.parameters()),
            items_moved=int((tree.item_leaf != built.item_leaf).sum()),
            workers=together.size,
        )
        write_json(work / "found.json", asdict(found))
    together.wait()


def trained(engine: Engine, asked: Fit) -> Found:
    """Train on the engine; raises as `train_model` does."""
    engine.together(fit, asdict(asked), folder=Path(asked.work))
    return Found(**read_json(Path(asked.work) / "found.json"))
