"""First stage of training: the dense path, every position of a window against whole levels (DESIGN 4).

- One random window a user and epoch; full softmax over each level of at least `min_level_nodes` nodes, leaves weighted double.
- Validation scores every leaf exactly (no tree), which is a product per user: NDCG@10 of all validation users in seconds.
- Pseudo-targets (an option, OTM): a level learns from the targets that a greedy descent would find beneath it, since a beam
  that keeps a node from which the target is not found has gained nothing. What does not count on a level adds nothing there, and
  losses stay means over all targets: a level's loss falls with the share of targets that count on it too, which is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from model.device import accelerated, reduced_precision, tensor
from model.histories import EvaluationSet, Histories, left_padded
from model.index_tree import IndexTree
from model.level_loss import level_softmax_loss, pseudo_targets
from model.parallel import group
from model.scorer import MISS, NodeTables
from model.stage import Progress, Report, Stage, parameter_norms, stage_rng

__all__ = ["DenseConfig", "exact_ndcg", "pad_left", "seen_before", "train_dense", "windows"]


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """Dense stage."""

    epochs: int = 24
    """Passes over the users at most."""
    patience: int = 4
    """Epochs without a better validation NDCG@10 before it stops."""
    batch_users: int = 64
    """Windows a step, at most."""
    min_steps: int = 190
    """Steps an epoch has at least: on few users the batch shrinks, down to 8 windows."""
    learning_rate: float = 2e-3
    """Peak of a cosine schedule with a short warm-up."""
    weight_decay: float = 1e-4
    """AdamW's."""
    min_level_nodes: int = 32
    """Levels with fewer nodes are not trained (a search never scores them one by one)."""
    leaf_weight: float = 2.0
    """Weight of the leaf level; the others weigh 1."""
    hide_seen: bool = True
    """Items of the window before the target are no alternatives to it: a search never returns them."""


def pad_left(histories: Sequence[NDArray[np.integer]], width: int | None = None) -> Tensor:
    """`model.histories.left_padded` as a tensor on the default device."""
    return tensor(left_padded(histories, width))


def windows(
    train: Histories, window: int, batch: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """One random window of each user, in batches of similar length: inputs and targets (B, S), both -1 on the left.

    The input at a position is the behavior before its target; the first target of a history has no input at all.
    """
    lengths = train.lengths
    users = np.flatnonzero(lengths > 0)
    take = np.minimum(lengths[users], window)
    first = train.offsets[users]
    start = first + rng.integers(0, lengths[users] - take + 1)
    # similar lengths together, in random order: little padding, yet no curriculum
    order = np.argsort(take + rng.uniform(0, 8, len(take)))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    for index in rng.permutation(len(batches)):
        rows = batches[index]
        width = int(take[rows].max())
        column = np.arange(width) - (width - take[rows])[:, None]  # (B, S) place within the window, below 0 for padding
        flat = start[rows][:, None] + column
        targets = np.where(column >= 0, train.items[np.maximum(flat, 0)], -1)
        inputs = np.where((column >= 0) & (flat > first[rows][:, None]), train.items[np.maximum(flat - 1, 0)], -1)
        yield inputs.astype(np.int64), targets.astype(np.int64)


@torch.no_grad()
def exact_ndcg(model: MISS, evaluation: EvaluationSet, *, batch: int = 256) -> float:
    """NDCG@10 of the dense path over all leaves, seen items excluded; each process of a group asks for some of the users."""
    if not len(evaluation):
        return 0.0
    together = group()
    model.eval()
    tables = model.tables()
    leaves, bias = tables.leaf_e[:-1], tables.bias[model.item_leaf]
    total = 0.0
    order = np.argsort(evaluation.seen.lengths, kind="stable")[together.rank :: together.size]
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        seen = [evaluation.seen[int(r)] for r in rows]
        width = min(model.config.window, max(map(len, seen)) + 1)  # one more place: nothing was before
        h = model.window(pad_left(seen, width), tables, last=True)[:, 0]
        scores = torch.addmm(bias, h, leaves.T)
        for row, items in enumerate(seen):
            scores[row, tensor(items.astype(np.int64))] = -torch.inf
        target = tensor(evaluation.targets[rows].astype(np.int64))
        rank = (~(scores <= scores.gather(1, target[:, None]))).sum(1)  # what is no number ranks last
        total += float(torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0.0).sum())
    return float(together.totals(np.array([total]))[0]) / len(evaluation)


def seen_before(inputs: Tensor) -> Tensor:
    """(B, S, S) items before each target, -1 for none, from inputs (B, S)."""
    s = inputs.shape[1]
    return torch.where(torch.ones(s, s, dtype=torch.bool).tril(), inputs[:, None, :], -1)


class _TrainedLevels:
    """The levels of a tree that the dense path learns, and their loss."""

    def __init__(self, tree: IndexTree, config: DenseConfig) -> None:
        widths = np.diff(tree.level_offsets)
        self.levels = [h for h in range(1, tree.depth) if widths[h] >= config.min_level_nodes] + [tree.depth]
        self.first = int(tree.level_offsets[self.levels[0]])
        self.starts = [0, *(int(x) for x in np.cumsum(widths[self.levels]))]
        self.weights = [1.0] * (len(self.levels) - 1) + [config.leaf_weight]
        # (N, L) column of each item's ancestor within each level
        self.column = tensor(tree.paths()[:, self.levels] - tree.level_offsets[self.levels])
        # per level (nodes, b) columns of all children of each node's parent
        children = [tree.children[tree.parent[tree.nodes(h)]] for h in self.levels]
        first = [int(tree.level_offsets[h]) for h in self.levels]
        self.families = [tensor(np.where(c >= 0, c - a, -1)) for c, a in zip(children, first, strict=True)]

    def _hidden(self, seen: Tensor | None) -> Tensor | None:
        return None if seen is None else torch.where(seen >= 0, self.column[seen.clamp(min=0), -1], -1)

    def loss(
        self, h: Tensor, target: Tensor, seen: Tensor | None, tables: NodeTables, positives: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weighted loss and the (L,) loss of each level, nats.

        h (P, d), target items (P,), items already seen (P, m) or -1; positives (P, L) bool, levels a target counts on, all where
        None.
        """
        return level_softmax_loss(
            h,
            tables.e[self.first :],
            tables.bias[self.first :],
            self.column[target],
            starts=self.starts,
            weights=self.weights,
            hidden=self._hidden(seen),
            positives=positives,
        )

    def pseudo_targets(self, h: Tensor, target: Tensor, seen: Tensor | None, tables: NodeTables) -> Tensor:
        """(P, L) bool: levels on which each target's ancestor is a pseudo-target; arguments as for `loss`."""
        return pseudo_targets(
            h,
            tables.e[self.first :],
            tables.bias[self.first :],
            self.column[target],
            starts=self.starts,
            families=self.families,
            hidden=self._hidden(seen),
        )


class _DenseStep(nn.Module):
    """What a step of the dense stage computes."""

    def __init__(self, model: MISS, levels: _TrainedLevels, *, hide_seen: bool, pseudo: bool) -> None:
        super().__init__()
        self.model, self._levels, self._hide_seen, self._pseudo = model, levels, hide_seen, pseudo

    def forward(self, items: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss, (L,) loss of each level, and with pseudo-targets (P, L) which count; items and target (B, S), -1 where none."""
        tables = self.model.tables()
        with reduced_precision():
            h = self.model.window(items, tables)
        chosen = target >= 0
        seen = seen_before(items)[chosen] if self._hide_seen else None
        known = h[chosen], target[chosen], seen, tables
        positives = self._levels.pseudo_targets(*known) if self._pseudo else None
        return *self._levels.loss(*known, positives), positives


@accelerated
def train_dense(
    model: MISS,
    tree: IndexTree,
    train: Histories,
    validation: EvaluationSet,
    config: DenseConfig,
    *,
    seed: int,
    name: str = "dense",
    pseudo: bool = False,
    checkpoint: Path | None = None,
    progress: Progress = print,
    report: Report | None = None,
) -> list[dict[str, float]]:
    """Train the dense path in place; the model ends with the parameters of its best epoch. Returns the curve.

    name: of the stage, which its random numbers hang on. pseudo: a level learns from pseudo-targets alone (`TrainingConfig`).
    Points hold `loss`, `loss_level_<h>` (nats, mean over all targets), `gradient_norm`, `parameter_norm` and that of each group
    (`model.stage.parameter_norms`), `validation_ndcg@10`, and with `pseudo` the share of targets that count on each level,
    `pseudo_targets_level_<h>`.
    """
    levels = _TrainedLevels(tree, config)
    users = int((train.lengths > 0).sum())
    batch = min(config.batch_users, max(8, users // config.min_steps))
    steps = -(-users // batch)
    stage = Stage(
        name,
        model=model,
        seed=seed,
        parameters=[p for p in model.parameters() if p.requires_grad],
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        steps=steps,
        checkpoint=checkpoint,
        progress=progress,
    )

    alone = _DenseStep(model, levels, hide_seen=config.hide_seen, pseudo=pseudo)
    together = group()
    step = together.together(alone)

    def epoch(number: int) -> dict[str, float]:
        model.train()
        together.own_dropout()
        rng = stage_rng(seed, name, number)
        sums, norms, shares = np.zeros(1 + len(levels.levels)), 0.0, np.zeros(len(levels.levels))
        batches = windows(train, model.config.window, batch, rng)
        named = {"desc": f"{name} {number + 1}/{config.epochs}", "leave": False, "disable": together.rank > 0}
        bar = tqdm(batches, total=steps, mininterval=1.0, **named)
        for inputs, targets in bar:
            rows, share = together.share((targets >= 0).sum(1))
            loss, by_level, positives = step(tensor(inputs[rows]), tensor(targets[rows]))
            norms += stage.step(loss if together.size == 1 else loss * share)
            sums += share * np.array([loss.item(), *by_level.tolist()])
            if positives is not None:
                shares += share * positives.double().mean(0).cpu().numpy()
            bar.set_postfix({"loss": f"{loss.item():.3f}"} | stage.postfix, refresh=False)
        sums, shares = (together.totals(each) / together.size for each in (sums, shares))
        point = {"loss": sums[0] / steps, "gradient_norm": norms / steps}
        point |= {f"loss_level_{h}": value / steps for h, value in zip(levels.levels, sums[1:], strict=True)}
        if pseudo:
            point |= {f"pseudo_targets_level_{h}": x / steps for h, x in zip(levels.levels, shares, strict=True)}
        return point | parameter_norms(model) | {"validation_ndcg@10": exact_ndcg(model, validation)}

    return stage.run(epoch, report=report)
