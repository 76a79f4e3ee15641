"""TIGER's network: a history in semantic IDs goes in, the codes of the next item's ID come out one after the other.

- The history is read item by item: a position's input is the sum of its item's D code embeddings (no item has an embedding
  of its own), and a causal transformer with relative positions, as in TIGER's T5, gives h at each position.
- A small decoder spells the next ID from h: its state starts as h, a GRU takes in each code already chosen, and each level has
  its own full softmax. TIGER's one transformer over the flattened codes costs more. CPU seconds of a training step over 64
  random windows, one core, d = 64, two layers, forward, backward and AdamW, 2026-11-22: this one .30 for 6,400 targets, `sasrec`
  .34 (softmax over 3,416 items); without AdamW, the reader .11, this decoder .15, a transformer layer in its place .40, and
  .36 for half as many targets where 50 items are flattened to 200 tokens. A beam is a step of the GRU a code, with nothing cached.
- Not covered: TIGER's user token, and sampling in the place of a beam.

Shape legend: B users, S positions, d width, D codes of an ID, P positions with a target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.errors import BadInput
from model.short_interest import ShortInterest

__all__ = ["CodeNet", "TIGERConfig"]


@dataclass(frozen=True, kw_only=True)
class TIGERConfig:
    """IDs, sizes, training and search; the defaults of training are `DenseConfig`'s but for the epochs."""

    levels: int = 3
    """Codes of an ID, the one that tells collisions apart not counted."""
    codes: int = 256
    """Codes of a level, at most."""
    d: int = 64
    """Width."""
    heads: int = 2
    """Attention heads."""
    layers: int = 2
    """Transformer layers over the history."""
    window: int = 100
    """S: behaviors read, the newest."""
    dropout: float = 0.2
    """Dropout over the history and before the softmaxes."""
    beam: int = 200
    """IDs, and fronts of IDs, kept a level; the most items that can be asked for."""
    epochs: int = 40
    """Passes over the users at most; shared codes learn slower than an item's own embedding, and 20 were too few."""
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
    validation_beam: int = 50
    """Beam of the search that validates."""
    validation_users: int = 2000
    """Users that validate, at most, evenly among them."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        for name in ("d", "heads", "layers", "window", "beam", "batch_users", "min_steps", "validation_beam"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} = {getattr(self, name)} is out of range: give 1 or more")
        if self.d % self.heads:
            raise BadInput(f"d = {self.d} is not a multiple of heads = {self.heads}")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout = {self.dropout} is out of range: give a number from 0 to below 1")


class CodeNet(nn.Module):
    """h of a history, and the softmax over each code of the next ID given those before it."""

    def __init__(self, ids: NDArray[np.int64], config: TIGERConfig) -> None:
        """ids: (N, D) int64 with D >= 2, from `semantic_ids`."""
        super().__init__()
        d = config.d
        sizes = [int(size) for size in ids.max(axis=0) + 1]
        # the codes of all levels side by side in one table
        start = np.cumsum([0, *sizes[:-1]])
        self.register_buffer("codes", torch.from_numpy(ids), persistent=False)
        self.register_buffer("tokens", torch.from_numpy(ids + start), persistent=False)
        self.codes: Tensor
        self.tokens: Tensor
        self.read = nn.Parameter(torch.randn(sum(sizes), d) * (d * len(sizes)) ** -0.5)
        self.spelt = nn.Parameter(torch.randn(sum(sizes), d) * d**-0.5)
        self.short = ShortInterest(
            d=d, heads=config.heads, layers=config.layers, window=config.window, dropout=config.dropout
        )
        self.decoder = nn.GRU(d, d, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleList(nn.Linear(d, size) for size in sizes)
        self.starts = [int(x) for x in start]

    def window(self, items: Tensor) -> Tensor:
        """items (B, S) int64 indices, -1 on the left where there is none; h (B, S, d)."""
        valid = items >= 0
        codes = self.tokens[items.clamp(min=0).reshape(-1)]  # (B S, D)
        embedded = F.embedding_bag(codes, self.read, mode="sum").reshape(*items.shape, -1)
        h: Tensor = self.short(embedded, valid)
        return h

    def loss(self, h: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """h (P, d) and target items (P,); the sum over codes of their mean cross-entropies, and each of them (D,), nats."""
        later, _ = self.decoder(F.embedding(self.tokens[targets, :-1], self.spelt), h[None].contiguous())
        states = self.dropout(torch.cat([h[:, None], later], dim=1))  # (P, D, d), h itself gives the first code
        wanted = self.codes[targets]
        losses = torch.stack([F.cross_entropy(head(states[:, i]), wanted[:, i]) for i, head in enumerate(self.heads)])
        return losses.sum(), losses.detach()

    def step(self, states: Tensor, codes: Tensor, level: int) -> Tensor:
        """States (B, w, d) after the codes (B, w) int64 of `level` were chosen; (B, w, d)."""
        chosen = F.embedding(codes + self.starts[level], self.spelt).reshape(-1, 1, states.shape[-1])
        _, after = self.decoder(chosen, states.reshape(1, -1, states.shape[-1]))
        moved: Tensor = after.reshape(states.shape)
        return moved

    def log_probabilities(self, states: Tensor, level: int) -> Tensor:
        """Log-softmax over the codes of `level`, given states (B, w, d); (B, w, codes)."""
        return torch.log_softmax(self.heads[level](states), dim=-1)
