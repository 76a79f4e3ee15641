"""Training of the alignment head: symmetric in-batch InfoNCE over item-to-item pairs.

- Known partners, the item itself and repeats in the batch are masked, never negatives.
- Early stopping on pairs held out by (unordered) pair; the best epoch's parameters are what is kept.
- Optional hard negatives: the nearest non-partners under the present head, refreshed every epoch. On MovieLens-1M eight of
  them moved the share of co-occurrence mass from .060 to .063 for items trained on and from .026 to .024 for items kept
  out (8 epochs, 2026-11-22), so they are off by default.
- The items of a step are embedded once each, however often the batch names them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from model.alignment import INPUT_SCALE, AlignmentConfig
from model.item_pairs import ItemPairs
from model.neighbours import nearest

__all__ = ["Head", "train"]

ROWS = 65_536


class Head(nn.Module):
    """f(t, v) -> c: a projection each, learned tokens for what is missing, MLP plus a linear path."""

    def __init__(self, text_width: int, image_width: int, config: AlignmentConfig) -> None:
        super().__init__()
        self.text, self.image = nn.Linear(text_width, config.width), nn.Linear(image_width, config.width)
        self.no_text = nn.Parameter(0.02 * torch.randn(config.width))
        self.no_image = nn.Parameter(0.02 * torch.randn(config.width))
        self.norm = nn.LayerNorm(2 * config.width)
        self.inner = nn.Linear(2 * config.width, 2 * config.width)
        self.outer = nn.Linear(2 * config.width, config.dim)
        self.straight = nn.Linear(2 * config.width, config.dim, bias=False)
        self.config = config

    def forward(self, T: Tensor, has_text: Tensor, I: Tensor, has_image: Tensor) -> Tensor:  # noqa: E741
        dropout, rate = self.config.dropout, self.config.modality_dropout
        if self.training and rate > 0:
            draw = torch.rand(len(T))
            both = has_text & has_image
            has_text, has_image = has_text & ~(both & (draw < rate)), has_image & ~(both & (draw > 1 - rate))
        t = torch.where(has_text[:, None], self.text(INPUT_SCALE * T), self.no_text)
        i = torch.where(has_image[:, None], self.image(INPUT_SCALE * I), self.no_image)
        x = F.dropout(torch.cat([t, i], dim=1), dropout, self.training)  # (B, 2 width)
        hidden = F.dropout(F.silu(self.inner(self.norm(x))), dropout, self.training)
        return F.normalize(self.straight(x) + self.outer(hidden), dim=1)


def train(
    T: NDArray[np.float32],
    text_present: NDArray[np.bool_],
    I: NDArray[np.float32],  # noqa: E741
    image_present: NDArray[np.bool_],
    pairs: ItemPairs,
    config: AlignmentConfig,
    *,
    progress: bool,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays of the trained head, and its curves."""
    from tqdm import tqdm

    rng = np.random.default_rng(config.seed)
    n_items = pairs.n_items
    cold = np.sort(rng.permutation(n_items)[: int(config.cold_items * n_items)])
    source, target, held_source, held_target = _split(pairs, cold, config, rng)
    partners = sparse.csr_matrix((np.ones(len(source), np.float32), (source, target)), shape=(n_items, n_items))
    partners = (
        partners + partners.T + sparse.identity(n_items, np.float32, format="csr")
    ).tocsr()  # itself never a negative

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = Head(T.shape[1], I.shape[1], config)
        inputs = [torch.from_numpy(array) for array in (T, text_present, I, image_present)]
        steps = max(1, len(source) // config.batch)
        epochs = max(1, min(config.epochs, config.max_steps // steps))
        optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        total = max(epochs * min(steps, config.max_steps), 2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=total + 1, pct_start=0.1
        )
        losses: list[float] = []
        held: list[float] = []
        best_epoch, best = 0, {name: value.detach().clone() for name, value in net.state_dict().items()}
        bar = tqdm(
            total=epochs * min(steps, config.max_steps), desc="item alignment", unit="step", disable=not progress
        )
        for epoch in range(epochs):
            hard = _hard_negatives(net, inputs, partners, config) if config.hard_negatives else None
            net.train()
            order = rng.permutation(len(source))
            summed = 0.0
            for step in range(min(steps, config.max_steps)):
                rows = order[step * config.batch : (step + 1) * config.batch]
                loss = _info_nce(net, inputs, source[rows], target[rows], partners, config, hard=hard)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                summed += float(loss.detach())
                bar.update()
            losses.append(round(summed / min(steps, config.max_steps), 5))
            held.append(round(_held_out_loss(net, inputs, held_source, held_target, partners, config), 5))
            bar.set_postfix(loss=losses[-1], held_out=held[-1])
            if held[-1] <= min(held):
                best_epoch, best = epoch, {name: value.detach().clone() for name, value in net.state_dict().items()}
            elif epoch - best_epoch >= config.patience:
                break
        bar.close()
    state: dict[str, NDArray[Any]] = {name: value.numpy().copy() for name, value in best.items()}
    state["default"] = np.eye(1, config.dim, config.dim - 1, dtype=np.float32)[0]
    curves = {"loss": losses, "held_out_loss": held, "best_epoch": best_epoch + 1, "held_out_pairs": len(held_source)}
    return state, curves | {"trained_pairs": len(source), "cold": cold.tolist()}


def _split(
    pairs: ItemPairs, cold: NDArray[Any], config: AlignmentConfig, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Training and held-out (source, target); (i, j) and (j, i) always fall on the same side, cold items on neither."""
    warm = ~np.isin(pairs.source, cold) & ~np.isin(pairs.target, cold)
    source, target = pairs.source[warm], pairs.target[warm]
    unordered = np.minimum(source, target).astype(np.int64) * pairs.n_items + np.maximum(source, target)
    unique, which = np.unique(unordered, return_inverse=True)
    out = (rng.random(len(unique)) < config.held_out)[which] if len(unique) >= 20 else np.zeros(len(which), bool)
    return source[~out], target[~out], source[out], target[out]


def _info_nce(
    net: Head,
    inputs: list[Tensor],
    source: NDArray[np.int32],
    target: NDArray[np.int32],
    partners: Any,
    config: AlignmentConfig,
    *,
    hard: NDArray[np.int64] | None,
) -> Tensor:
    """Symmetric InfoNCE over B pairs; -inf where a column is a known partner of the row, or the row itself."""
    items = np.concatenate([source, target] + ([hard[source].ravel()] if hard is not None else []))
    unique, where = np.unique(items, return_inverse=True)
    rows = torch.from_numpy(unique.astype(np.int64))
    c = net(*(part[rows] for part in inputs))[torch.from_numpy(where)]
    size = len(source)
    a, b = c[:size], c[size : 2 * size]
    logits = a @ b.T / config.temperature  # (B, B)
    known = torch.from_numpy(partners[source][:, target].toarray() > 0)
    known |= torch.from_numpy(partners[target][:, source].toarray().T > 0)
    known |= torch.from_numpy(target[:, None] == target[None, :]) | torch.from_numpy(source[:, None] == source[None, :])
    known.fill_diagonal_(False)
    logits = logits.masked_fill(known, -torch.inf)
    goal = torch.arange(size)
    forward = logits
    if hard is not None:
        negatives = c[2 * size :].view(size, -1, c.shape[1])
        extra = torch.einsum("bd,bhd->bh", a, negatives) / config.temperature
        absent = torch.from_numpy(hard[source] < 0)
        forward = torch.cat([logits, extra.masked_fill(absent, -torch.inf)], dim=1)
    return (F.cross_entropy(forward, goal) + F.cross_entropy(logits.T, goal)) / 2


@torch.no_grad()
def _all(net: Head, inputs: list[Tensor]) -> Tensor:
    net.eval()
    parts = [net(*(part[i : i + ROWS] for part in inputs)) for i in range(0, len(inputs[0]), ROWS)]
    return torch.cat(parts)


def _hard_negatives(net: Head, inputs: list[Tensor], partners: Any, config: AlignmentConfig) -> NDArray[np.int64]:
    """(N, hard_negatives) nearest items under the present head that are no partners; -1 where there are too few."""
    near, _ = nearest(_all(net, inputs).numpy(), 4 * config.hard_negatives)
    n_items = len(near)
    known = (
        np.asarray(partners[np.repeat(np.arange(n_items), near.shape[1]), np.maximum(near, 0).ravel()]).reshape(
            near.shape
        )
        > 0
    )
    ranked = np.where(known, -1, near)
    order = np.argsort(ranked < 0, axis=1, kind="stable")
    out = np.take_along_axis(ranked, order, axis=1)[:, : config.hard_negatives]
    return np.pad(out, ((0, 0), (0, config.hard_negatives - out.shape[1])), constant_values=-1)


@torch.no_grad()
def _held_out_loss(
    net: Head,
    inputs: list[Tensor],
    source: NDArray[np.int32],
    target: NDArray[np.int32],
    partners: Any,
    config: AlignmentConfig,
    limit: int = 4096,
) -> float:
    """Cross-entropy of held-out pairs against up to `limit` items, the training partners left out; 0.0 without such pairs."""
    if not len(source):
        return 0.0
    c = _all(net, inputs)
    rng = np.random.default_rng(config.seed)  # the same sample every epoch
    pick = rng.permutation(len(source))[: limit // 2]
    source, target = source[pick], target[pick]
    others = rng.permutation(len(c))[:limit]
    logits = c[source.astype(np.int64)] @ c[others].T / config.temperature
    known = partners[source][:, others].toarray() > 0
    known |= others[None, :] == target[:, None]
    logits = logits.masked_fill(torch.from_numpy(known), -torch.inf)
    positive = (c[source.astype(np.int64)] * c[target.astype(np.int64)]).sum(dim=1) / config.temperature
    return float((torch.logaddexp(positive, logits.logsumexp(dim=1)) - positive).mean())
