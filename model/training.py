"""Train a scorer over a tree: the dense stage, then the lifelong stage (each in a file of its own).

With `TrainingConfig.reassign` the tree is learnt too, before the two stages (`model.alternation`).

`TrainingConfig` is everything that decides what comes out besides data and tree; its digest is part of a model's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from model.alternation import ReassignConfig, alternate
from model.dense_training import DenseConfig, train_dense
from model.errors import BadInput
from model.files import read_npz, write_npz
from model.histories import EvaluationSet, Histories
from model.index_tree import IndexTree
from model.lifelong_training import LifelongTraining, tail_lengths, train_lifelong
from model.scorer import MISS, ScorerConfig
from model.stage import Progress

__all__ = [
    "Trained",
    "TrainingConfig",
    "adopt_parameters",
    "dense_alone",
    "dense_histories",
    "load_parameters",
    "new_model",
    "save_parameters",
    "train_model",
]

SMALL = 300_000
"""Training behaviors below which the model is smaller by default."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The whole of training."""

    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    """The model."""
    dense: DenseConfig = field(default_factory=DenseConfig)
    """First stage."""
    lifelong: LifelongTraining = field(default_factory=LifelongTraining)
    """Second stage; skipped where the scorer has no lifelong unit."""
    beam: int = 200
    """Beam of the search that validates and serves."""
    seed: int = 0
    """Seed of everything random."""
    pseudo_targets: bool = False
    """Dense stage: a level learns from the targets alone that a greedy descent from their ancestor would find (OTM)."""
    reassign: ReassignConfig = field(default_factory=ReassignConfig)
    """Items trading places in the tree before the stages; none by default."""


class Trained(NamedTuple):
    """What a training leaves."""

    model: MISS
    """The scorer, ready to search with."""
    tree: IndexTree
    """The tree its parameters belong to: the one that was given, or with `reassign` another of the same shape."""
    curves: Mapping[str, list[dict[str, float]]]
    """Stage -> a point for each epoch: "reassign" where the tree is learnt, "dense", "lifelong"."""


def options_for(behaviors: int) -> dict[str, Any]:
    """Options that suit so many training behaviors, for a caller to lay its own over; none where the defaults do.

    Fewer than `SMALL` behaviors do not feed a model of d = 128, and those who try the product out wait for it.
    """
    if behaviors >= SMALL:
        return {}
    return {
        "scorer": {"d": 64, "heads": 2, "layers": 2, "window": 100, "dropout": 0.2},
        "dense": {"epochs": 20},
    }


def new_model(tree: IndexTree, config: TrainingConfig) -> MISS:
    """A model with the parameters it starts from: a function of the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return MISS(tree, config.scorer)


def dense_alone(config: TrainingConfig) -> TrainingConfig:
    """The same without lifelong units: the dense path of its model, which starts as it would beside them."""
    off = replace(config.scorer.lifelong, co_gsu=False, mm_gsu=False)
    return replace(config, scorer=replace(config.scorer, lifelong=off))


def dense_histories(train: Histories, config: TrainingConfig) -> Histories:
    """What the dense stage learns from: everything, less the tails that are the lifelong stage's where there is one."""
    if not (config.scorer.lifelong.units and config.lifelong.epochs):
        return train
    return train.drop_last(tail_lengths(train, config.lifelong))


def train_model(
    tree: IndexTree,
    train: Histories,
    validation: EvaluationSet,
    config: TrainingConfig,
    *,
    work: Path | None = None,
    progress: Progress = print,
) -> Trained:
    """Train from scratch, or from the checkpoints found in `work`.

    With `config.reassign.rounds` the result is that of a training without, on the tree that comes out of them.

    Raises BadInput where the histories are over another catalogue than the tree.
    """
    if train.n_items != tree.n_items:
        raise BadInput(
            f"the tree holds {tree.n_items} items, the histories {train.n_items}; materialize index_tree again"
        )
    curves: dict[str, list[dict[str, float]]] = {}
    if config.reassign.rounds:
        tree, curves["reassign"] = alternate(
            tree,
            dense_histories(train, config),
            validation,
            config.reassign,
            start=lambda grown: new_model(grown, dense_alone(config)),
            dense=config.dense,
            seed=config.seed,
            pseudo=config.pseudo_targets,
            work=work,
            progress=progress,
        )
    model = new_model(tree, config)
    dense_file, lifelong_file = (None, None) if work is None else (work / "dense.pt", work / "lifelong.pt")
    curves["dense"] = train_dense(
        model,
        tree,
        dense_histories(train, config),
        validation,
        config.dense,
        seed=config.seed,
        pseudo=config.pseudo_targets,
        checkpoint=dense_file,
        progress=progress,
    )
    if config.scorer.lifelong.units and config.lifelong.epochs:
        curves["lifelong"] = train_lifelong(
            model,
            tree,
            train,
            validation,
            config.lifelong,
            beam=config.beam,
            seed=config.seed,
            checkpoint=lifelong_file,
            progress=progress,
        )
    return Trained(model.eval(), tree, curves)


def save_parameters(model: MISS, path: Path) -> None:
    """Write the parameters to one .npz."""
    write_npz(path, {name: value.detach().numpy() for name, value in model.state_dict().items()})


def adopt_parameters(model: MISS, path: Path) -> None:
    """Take from a file every parameter the model has too: a dense path that others have trained.

    Raises BadInput where one of them has another shape.
    """
    own = model.state_dict()
    for name, value in read_npz(path).items():
        if name in own:
            if own[name].shape != value.shape:
                raise BadInput(f"{path} holds {name} of shape {value.shape}, this model {tuple(own[name].shape)}")
            own[name].copy_(torch.from_numpy(np.asarray(value)))


def load_parameters(tree: IndexTree, config: TrainingConfig, path: Path) -> MISS:
    """Read a model back; BadInput where the file is of another tree or configuration."""
    model = new_model(tree, config)
    state = {name: torch.from_numpy(np.asarray(value)) for name, value in read_npz(path).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(
            f"{path} holds another model than the tree and the configuration ask for; train again"
        ) from error
    return model.eval()
