"""Learn the tree and the scorer in turns, as JTM does (Zhu et al., NeurIPS 2019): train a little, let items trade places, again.

- A round trains the dense path for a few epochs on the tree as it is, then `model.reassignment.reassign` moves items under it.
  The next round starts from the parameters of the last one, each item's leaf following it (`Reassignment.rows`).
- What comes out is a tree alone: the training that counts starts over on it, as it would on any tree, so that a model over a
  re-assigned tree is made like every other.
- Rounds are short because a scorer trained for long defends the tree it was trained on. From a random tree over a ring of 64
  items that 120 users walk, four rounds of one epoch (15 steps, learning rate 1e-3) brought neighbours' leaves from a mean
  distance of 22.8 to 9.3; with 300 users, a rate of 1e-2 and two epochs a round nobody moved (the setting of
  tests/model/test_alternation.py, 2026-11-22). A round in which nobody moves is the last.
- A killed run goes on after its last epoch: a round that is finished leaves its tree, parameters and curve in one file, replaced
  atomically.

Cost: rounds x epochs of the dense path, and each round what re-assignment by trades costs (N^2 d). Not covered: moving items
under the lifelong path's scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.dense_training import DenseConfig, train_dense
from model.errors import BadInput
from model.histories import EvaluationSet, Histories
from model.index_tree import IndexTree, Ints
from model.parallel import group
from model.reassignment import reassign
from model.scorer import MISS
from model.stage import Checkpoint, Progress

__all__ = ["ReassignConfig", "alternate"]

_NODE_TABLES = ("node_embedding", "node_bias")


@dataclass(frozen=True, kw_only=True)
class ReassignConfig:
    """How a tree is learnt before the training on it."""

    rounds: int = 0
    """Times that a short training and a re-assignment follow each other; with 0 the tree stays as it was built."""
    epochs: int = 1
    """Epochs of the dense path a round."""
    moves: int = 256
    """Items that may trade places in a round, at most."""

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.epochs < 1 or self.moves < 2:
            raise BadInput(
                f"reassign: rounds = {self.rounds}, epochs = {self.epochs}, moves = {self.moves}: use at least 0, 1 and 2 (a pair)"
            )


def _carried(model: MISS, rows: Ints) -> dict[str, Tensor]:
    """A model's parameters as one over the new tree starts with them: row n of a node table is the old row rows[n]."""
    kept = torch.from_numpy(rows)
    state = model.state_dict()
    return {name: (value[kept] if name in _NODE_TABLES else value).clone() for name, value in state.items()}


def _tree_of(arrays: dict[str, Tensor]) -> IndexTree:
    return IndexTree(**{field.name: arrays[field.name].numpy() for field in fields(IndexTree)})


def alternate(
    tree: IndexTree,
    train: Histories,
    validation: EvaluationSet,
    config: ReassignConfig,
    *,
    start: Callable[[IndexTree], MISS],
    dense: DenseConfig,
    seed: int,
    pseudo: bool = False,
    work: Path | None = None,
    progress: Progress = print,
) -> tuple[IndexTree, list[dict[str, float]]]:
    """The tree after the rounds, of the same shape, and one curve over the epochs of all of them; `tree` itself with 0 rounds.

    start: makes the model that the first round trains, and the shape of the later ones. dense: what a round trains by, save
    its epochs. work: folder of the checkpoints. Points are those of `train_dense`; the last of a round also holds `moved_items`
    (under another parent than before) and `evidence_gain` (`Reassignment.gain`).
    """
    curve: list[dict[str, float]] = []
    state: dict[str, Tensor] | None = None
    dense = replace(dense, epochs=config.epochs, patience=config.epochs)
    for number in range(1, config.rounds + 1):
        name = f"round {number}"
        done = Checkpoint(None if work is None else work / f"round-{number}.pt")
        epochs = None if work is None else work / f"round-{number}-dense.pt"
        found: dict[str, Any] | None = done.load()
        if found is None:
            model = start(tree)
            if state is not None:
                model.load_state_dict(state)
            points = train_dense(
                model,
                tree,
                train,
                validation,
                dense,
                seed=seed,
                name=name,
                pseudo=pseudo,
                checkpoint=epochs,
                progress=progress,
            )
            placed = reassign(
                tree, model, train, moves=config.moves, min_level_nodes=dense.min_level_nodes, seed=seed + number
            )
            points[-1] |= {"moved_items": float(len(placed.moved)), "evidence_gain": placed.gain}
            progress(f"{name} of {config.rounds}: {len(placed.moved):,} items change places")
            arrays = {
                f.name: torch.from_numpy(np.ascontiguousarray(getattr(placed.tree, f.name))) for f in fields(tree)
            }
            found = {"tree": arrays, "state": _carried(model, placed.rows), "curve": points}
            done.save(found)
            if group().size > 1:  # what the first has found counts for all
                found = done.load() or found
        else:
            progress(f"{name} of {config.rounds}: done before")
        if epochs is not None:
            epochs.unlink(missing_ok=True)
        tree, state = _tree_of(found["tree"]), found["state"]
        curve += found["curve"]
        if not found["curve"][-1]["moved_items"]:
            break
    return tree, curve
