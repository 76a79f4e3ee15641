"""Second stage of training: the lifelong path as a residual over a frozen dense path (DESIGN 4).

Shape legend: B sampled (user, position) pairs, n candidates, T behaviors read.

- One level a batch: the leaves half of the time, else one of the levels that the search scores.
- Negatives are all the nodes that a search would score there: the children of the dense path's own beam (after OTM, ICML 2020).
  A target the beam has lost teaches nothing. Taking only the best of those nodes as negatives is a trap: a target
  outside them is then known by its low dense score, the residual lifts whatever scores low, and a search collapses (validation
  NDCG@10 went from .172 to .0005 on MovieLens-1M while the loss fell, 2026-11-22). Uniform negatives are an option.
- What this path learns from must look as it will in service. The dense path is too sure of the targets it was trained on, and
  transitions counted over a history know its future; beside both, the lifelong path learns to say nothing (MovieLens-1M, d = 128:
  .2024 to .2048 through the tree, where the best linear blend on unseen targets gave five per cent; 2026-11-22). So the newest
  few training behaviors of every user are its own: the dense path never has them as targets, and the counts it
  reads leave them out until it validates. So learnt it went from .1947 to .2073 (docs/quality.md).
- Leaves a user has already seen are no negatives (of the last `max_history` behaviors): a search never returns them.
- What decides between epochs is the real beam search on validation users, and the starting point takes part: a lifelong path
  that does not help is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from model.beam_search import BeamSearch, start_level
from model.dense_training import pad_left
from model.device import accelerated, tensor
from model.histories import EvaluationSet, Histories, length_batches
from model.index_tree import IndexTree
from model.parallel import group
from model.scorer import MISS, NodeTables
from model.stage import Progress, Stage, parameter_norms, stage_rng
from model.transitions import followers

__all__ = ["LifelongTraining", "search_ndcg", "tail_lengths", "train_lifelong"]


@dataclass(frozen=True, kw_only=True)
class LifelongTraining:
    """Lifelong stage."""

    epochs: int = 6
    """Passes over the users at most."""
    patience: int = 2
    """Epochs without a better validation NDCG@10 before it stops."""
    batch: int = 32
    """Users a step."""
    tail: int = 2
    """Newest training behaviors of a user that the dense path does not learn from and this stage does."""
    tail_after: int = 10
    """Behaviors that a history keeps before any of its tail is held out."""
    negatives: Literal["beam", "uniform"] = "beam"
    """All children of the dense path's own beam, or any nodes of the level."""
    uniform: int = 160
    """Negatives a target where they are uniform."""
    learning_rate: float = 2e-3
    """Peak of a cosine schedule."""
    max_history: int = 512
    """Behaviors before the target that training reads (a search reads all)."""
    validation_users: int = 1000
    """Users whose beam search decides which epoch is best."""


@torch.no_grad()
def search_ndcg(model: MISS, tree: IndexTree, evaluation: EvaluationSet, *, beam: int, users: int) -> float:
    """NDCG@10 through the tree for the first `users` evaluated users; each process of a group searches for some of them."""
    search, together = BeamSearch(model, tree, beam=beam), group()
    users = min(users, len(evaluation))
    rows = np.arange(together.rank, users, together.size)
    total = 0.0
    for places in length_batches(evaluation.seen.lengths[rows].tolist()):
        chunk = rows[places]
        history = pad_left([evaluation.seen[int(r)] for r in chunk])
        items = search.search(history, history).items[:, :10]
        hit = items == tensor(evaluation.targets[chunk].astype(np.int64))[:, None]
        total += float((hit / torch.log2(torch.arange(items.shape[1]) + 2.0)).sum())
    return float(together.totals(np.array([total]))[0]) / max(users, 1)


def tail_lengths(train: Histories, config: LifelongTraining) -> NDArray[np.int64]:
    """(U,) newest behaviors of each history that are the lifelong stage's own; the dense stage trains on the rest."""
    return np.clip(train.lengths - config.tail_after, 0, config.tail)


def _samples(
    train: Histories, config: LifelongTraining, rng: np.random.Generator
) -> list[tuple[list[NDArray[np.int32]], NDArray[np.int64]]]:
    """Batches of (histories before the target, targets (B,)), in random order, similar lengths together."""
    tail = tail_lengths(train, config)
    users = np.repeat(np.arange(len(train)), tail)
    # places 1, 2, .. from the end of each history
    back = np.arange(1, len(users) + 1) - np.repeat(np.cumsum(tail) - tail, tail)
    position = train.lengths[users] - back
    order = np.argsort(np.minimum(position, config.max_history) + rng.uniform(0, 16, len(users)))
    batches = []
    for index in rng.permutation(-(-len(order) // config.batch)):
        rows = order[index * config.batch : (index + 1) * config.batch]
        start = train.offsets[users[rows]]
        end = start + position[rows]
        before = [train.items[max(s, e - config.max_history) : e] for s, e in zip(start, end, strict=True)]
        batches.append((before, train.items[end].astype(np.int64)))
    return batches


class _Candidates:
    """Which nodes a target is told apart from, on a level."""

    def __init__(self, tree: IndexTree, beam: int, config: LifelongTraining) -> None:
        self.offsets = [int(x) for x in tree.level_offsets]
        self.children = tensor(tree.children)
        self.item_leaf = tensor(tree.item_leaf)
        self.beam, self.depth, self.config = beam, tree.depth, config
        self.start = start_level(tree, beam)

    def draw(
        self,
        level: int,
        h: Tensor,
        tables: NodeTables,
        history: Tensor,
        own: Tensor,
        *,
        rows: Tensor,
        batch: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes (B, n), whether each is a negative (B, n) bool, and whether the search would see the target at all (B,).

        `own` (B,) is the target's ancestor on the level; these B targets are `rows` of a batch, for which all is drawn.
        """
        first, end = self.offsets[level], self.offsets[level + 1]
        if self.config.negatives == "uniform":
            nodes = torch.randint(first, end, (batch, min(self.config.uniform, end - first)))[rows]
            reached = torch.ones_like(own, dtype=torch.bool)
        elif level == self.start:
            nodes = torch.arange(first, end).expand(len(h), -1)
            reached = torch.ones_like(own, dtype=torch.bool)
        else:
            above = slice(self.offsets[level - 1], first)
            parents = torch.addmm(tables.bias[above], h, tables.e[above].T)
            kept = torch.topk(parents, min(self.beam, parents.shape[1]), dim=1).indices + self.offsets[level - 1]
            nodes = self.children[kept].flatten(1)
            reached = (nodes == own[:, None]).any(dim=1)
        counts = (nodes >= 0) & (nodes != own[:, None])
        nodes = nodes.clamp(min=0)
        if level == self.depth:
            seen = torch.zeros(len(h), end - first + 1, dtype=torch.bool)
            leaf = torch.where(history >= 0, self.item_leaf[history.clamp(min=0)] - first, end - first)
            seen.scatter_(1, leaf, True)
            counts &= ~seen.gather(1, (nodes - first).clamp(min=0))
        return nodes, counts, reached


class _LifelongStep(nn.Module):
    """What a step of the lifelong stage computes."""

    def __init__(self, model: MISS, tree: IndexTree, tables: NodeTables, draw: _Candidates) -> None:
        """tables: of the dense path, which does not change in this stage."""
        super().__init__()
        self.model, self._tables, self._draw = model, tables, draw
        self._paths = tensor(tree.paths())
        self._first_level = draw.offsets[draw.start], draw.offsets[draw.start + 1]

    def forward(
        self, history: Tensor, target: Tensor, level: int, *, rows: Tensor, batch: int, share: float
    ) -> tuple[Tensor, Tensor]:
        """Loss, with and without the residual, over the targets that a search would see: this process' part of the group's mean.

        history (B, T) and target (B,) of `rows` of a batch; share 0: none of them is this process' own, and it adds nothing.
        """
        model, tables, together = self.model, self._tables, group()
        user = model.read(history, tables, self._first_level)
        own = self._paths[target, level]
        nodes, counts, reached = self._draw.draw(level, user.h.detach(), tables, history, own, rows=rows, batch=batch)
        reached &= share > 0
        weight = reached.to(user.h.dtype) / together.total(reached.sum()).clamp(min=1) * together.size
        nodes = torch.cat([own[:, None], nodes], dim=1)
        counts = F.pad(counts, (1, 0), value=True)
        e = tables.e[nodes]
        with torch.no_grad():
            dense = torch.where(counts, model.dense(user, e, tables.bias[nodes]), -1e4)
            dense_loss = ((torch.logsumexp(dense, 1) - dense[:, 0]) * weight).sum()
        logits = dense + model.residual(user, nodes, e, model.z[nodes], dense)
        loss = ((torch.logsumexp(torch.where(counts, logits, -1e4), 1) - logits[:, 0]) * weight).sum()
        return loss, dense_loss


@accelerated
def train_lifelong(
    model: MISS,
    tree: IndexTree,
    train: Histories,
    validation: EvaluationSet,
    config: LifelongTraining,
    *,
    beam: int,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress = print,
) -> list[dict[str, float]]:
    """Train the lifelong path in place over the model's dense path; returns the curve, whose first point is the dense path.

    Points hold `loss` and `loss_dense` (nats, the same candidates with and without the residual), `loss_level_<h>` (mean over the
    batches that were of that level), `gradient_norm`,
    `parameter_norm` and that of each group (`model.stage.parameter_norms`), and `validation_ndcg@10` through the tree.
    """
    draw = _Candidates(tree, beam, config)
    levels = list(range(draw.start, tree.depth + 1))
    width = max(model.config.window, model.config.lifelong.kept)
    tail = tail_lengths(train, config)
    steps = -(-int(tail.sum()) // config.batch)
    counted = None
    if model.transitions is not None:
        counts = model.config.lifelong.counts
        counted = followers(train.drop_last(tail), counts), followers(train, counts)
        model.transitions.fill(*counted[1])
    stage = Stage(
        "lifelong",
        model=model,
        seed=seed,
        parameters=model.lifelong_parameters(),
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        weight_decay=1e-4,
        steps=steps,
        checkpoint=checkpoint,
        progress=progress,
    )
    if not steps:
        stage.progress(
            f"lifelong: no history is longer than tail_after = {config.tail_after}, so there is nothing to learn from"
        )
    with torch.no_grad():
        tables = model.eval().tables()
    dense_score = search_ndcg(model, tree, validation, beam=beam, users=config.validation_users)
    together, alone = group(), _LifelongStep(model, tree, tables, draw)

    def epoch(number: int) -> dict[str, float]:
        rng = stage_rng(seed, "lifelong", number)
        model.eval()  # the dense path has not seen these targets: no dropout stands in for that
        if model.transitions is not None and counted is not None:
            model.transitions.fill(*counted[0])
        sums, by_level = np.zeros(3), {h: [0.0, 0] for h in levels}
        bar = tqdm(
            _samples(train, config, rng),
            desc=f"lifelong {number + 1}/{config.epochs}",
            leave=False,
            mininterval=1.0,
            disable=together.rank > 0,
        )
        for done, (before, target) in enumerate(bar, 1):
            level = tree.depth if rng.random() < 0.5 else int(rng.choice(levels))
            rows, share = together.share(np.ones(len(target), np.int64))
            history = pad_left([before[row] for row in rows], max(width, max(map(len, before))))
            asked = {"rows": tensor(rows), "batch": len(target), "share": share}
            loss, dense_loss = step(history, tensor(target[rows]), level, **asked)
            norm = stage.step(loss)
            sums += [loss.item(), dense_loss.item(), norm]
            by_level[level][0] += loss.item()
            by_level[level][1] += 1
            told = {"loss": f"{sums[0] / done:.3f}", "gain": f"{(sums[1] - sums[0]) / done:.3f}"}
            bar.set_postfix(told | stage.postfix, refresh=False)
        if model.transitions is not None and counted is not None:
            model.transitions.fill(*counted[1])
        found = together.totals(np.array([*sums, *[total for total, _ in by_level.values()]])) / together.size
        loss_, dense_, norm_ = (float(x) for x in found[:3] / max(steps, 1))
        score = search_ndcg(model, tree, validation, beam=beam, users=config.validation_users)
        point = {"loss": loss_, "loss_dense": dense_, "gradient_norm": norm_}
        of_levels = zip(by_level.items(), found[3:], strict=True)
        point |= {f"loss_level_{h}": float(total) / batches for (h, (_, batches)), total in of_levels if batches}
        return point | parameter_norms(model) | {"validation_ndcg@10": score}

    for p in model.parameters():
        p.requires_grad_(False)
    for p in model.lifelong_parameters():
        p.requires_grad_(True)
    step = together.together(alone)
    try:
        return stage.run(epoch, start=dense_score) if steps else [{"validation_ndcg@10": dense_score}]
    finally:
        for p in model.parameters():
            p.requires_grad_(True)
