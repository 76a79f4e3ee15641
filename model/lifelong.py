"""The lifelong readings of a user: Co-GSU, MM-GSU and the ESU over what they keep (MISS sections 3.2-3.3, MUSE, SIM).

Shape legend: B users, T behaviors, M kept behaviors, n nodes, d width, c multi-modal width.

- A search is two-step, coarse to fine. Once a user: a few probe nodes (the dense path's best at the first level) look
  at all T behaviors, and each unit keeps the M that any probe ranks highest. Then every node of every level searches among those
  M with one dense product: top-k is a mask on it, never a gather.
- Co-GSU ranks by (W_q e_n) . (W_k e_b) / sqrt(d), and attends with the very same score; MM-GSU ranks by cos(z_n, c_b).
- The ESU of MM-GSU is the ID attention with the similarity added to its logits (SA-TA), or the ID attention alone.
- Edges are soft: top-k and the tiers fall off within a small width of similarity, so that a score is continuous in the
  similarities and two runtimes that differ in a last bit still agree. Ties between kept behaviors go to the newer one.
- Softmax attention forgets how strongly a node matches: the log-sum-exp, maximum and mean of the kept similarities and
  SimTier counts (how many behaviors lie above each similarity threshold, all equal and weighted by recency) go on beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from model.errors import BadInput
from model.transitions import TransitionConfig

__all__ = ["MMGSU", "CoGSU", "LifelongConfig", "LifelongReading", "keep_relevant"]

_HIDDEN = -1e4
_EDGE = 0.05
"""Width of the edge of top-k and of the tiers, in similarity."""
_TIE = 1e-5
"""What a behavior gains over the one before it when behaviors are kept."""
_RECENCY = (8.0, 40.0)
"""Decay lengths in behaviors: a session, and a few sessions."""


@dataclass(frozen=True, kw_only=True)
class LifelongConfig:
    """What is read of the whole history; both units off leaves the short reading alone."""

    co_gsu: bool = True
    """Search by the collaborative (ID) score."""
    mm_gsu: bool = True
    """Search by the multi-modal similarity."""
    esu: Literal["sata-simtier", "id"] = "sata-simtier"
    """How MM-GSU's finds are attended to: similarity-biased with SimTier counts (MUSE), or by ID attention alone."""
    top_k: int = 32
    """Behaviors a node attends to, per unit."""
    kept: int = 64
    """M: behaviors each unit keeps of the whole history before the levels are walked."""
    probes: int = 64
    """Nodes of the first level that look at the whole history."""
    transitions: bool = True
    """Co-GSU also reads how often what lies under a node followed what the user had, counted in the logs."""
    counts: TransitionConfig = field(default_factory=TransitionConfig)
    """How it is counted."""

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.kept:
            raise BadInput(f"top_k = {self.top_k} must lie between 1 and kept = {self.kept}")
        if self.esu not in ("sata-simtier", "id"):
            raise BadInput(f"esu = {self.esu!r} is not known: choose sata-simtier or id")

    @property
    def units(self) -> int:
        """Search units switched on."""
        return int(self.co_gsu) + int(self.mm_gsu)


@dataclass(frozen=True)
class LifelongReading:
    """What one unit says of n nodes."""

    value: Tensor
    """(B, n, d) attended behaviors."""
    strength: Tensor
    """(B, n, f) how strongly the node matches; f is the unit's `features`."""


def keep_relevant(similarity: Tensor, valid: Tensor, kept: int) -> Tensor:
    """Columns of the `kept` behaviors that any probe ranks highest.

    similarity (B, p, T) of p probe nodes, valid (B, T) bool, T >= kept; returns (B, kept) int64, best first (invalid ones last).
    """
    # an item seen twice ties with itself but for the last bit: a little recency keeps the newer one, in every runtime
    recency = _TIE * torch.arange(similarity.shape[2], dtype=similarity.dtype)
    relevance = torch.where(valid, similarity.amax(dim=1) + recency, -torch.inf)
    return torch.topk(relevance, kept, dim=1).indices


def _top_k(similarity: Tensor, valid: Tensor, k: int) -> Tensor:
    """(B, n, M) weight in 0..1: 1 for the k best valid behaviors of each node, falling to 0 within `_EDGE` below the k-th."""
    hidden = torch.where(valid[:, None, :], similarity, _HIDDEN)
    threshold = torch.topk(hidden, k, dim=-1).values[..., -1:]
    return ((hidden - threshold) / _EDGE + 1).clamp(0, 1) * valid[:, None, :]


def _strength(similarity: Tensor, weight: Tensor, sharpness: float) -> Tensor:
    """(B, n, 4) log-sum-exp, maximum, mean of the weighted similarities, and whether there are any."""
    best = torch.where(weight > 0, similarity, _HIDDEN).amax(-1)
    any_ = weight.amax(-1)
    best = best * any_
    # the best has weight 1, so the sum is at least 1 where there is anything at all
    total = (weight * torch.exp((similarity - best[..., None]).clamp(max=0) * sharpness)).sum(-1)
    lse = best + torch.log(total.clamp(min=1)) / sharpness
    mean = (similarity * weight).sum(-1) / weight.sum(-1).clamp(min=1)
    return torch.stack([lse, best, mean, any_], dim=-1)


def _attend(logits: Tensor, weight: Tensor, values: Tensor) -> Tensor:
    attention = torch.softmax(torch.where(weight > 0, logits, _HIDDEN), dim=-1) * weight
    return (attention / attention.sum(-1, keepdim=True).clamp(min=1e-9)) @ values  # nothing to attend to: zeros


def _tiers(similarity: Tensor, valid: Tensor, age: Tensor, thresholds: Tensor) -> Tensor:
    """(B, n, 3 x tiers) log(1 + count of behaviors above each threshold), plain and weighted by recency."""
    weights = torch.stack([torch.ones_like(age), *(torch.exp(-age / tau) for tau in _RECENCY)], dim=-1)
    weights = weights * valid[:, :, None]  # (B, M, 3)
    counts = [((similarity - t) / _EDGE + 0.5).clamp(0, 1) @ weights for t in thresholds.unbind()]
    return torch.log1p(torch.cat(counts, dim=-1))


class CoGSU(nn.Module):
    """Collaborative search: score and attention are the same product."""

    features = 4

    def __init__(self, *, d: int, config: LifelongConfig) -> None:
        super().__init__()
        self.config = config
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))

    def similarity(self, nodes: Tensor, behaviors: Tensor) -> Tensor:
        """nodes (B, n, d), behaviors (B, T, d) embeddings; (B, n, T)."""
        return self.query(nodes) @ self.key(behaviors).transpose(1, 2) / math.sqrt(nodes.shape[-1])  # type: ignore[no-any-return]

    def forward(self, nodes: Tensor, behaviors: Tensor, valid: Tensor) -> LifelongReading:
        """nodes (B, n, d); behaviors (B, M, d) kept ones; valid (B, M)."""
        similarity = self.similarity(nodes, behaviors)
        mask = _top_k(similarity, valid, self.config.top_k)
        return LifelongReading(_attend(similarity, mask, self.value(behaviors)), _strength(similarity, mask, 1.0))


class MMGSU(nn.Module):
    """Multi-modal search: cosine finds, ID attention biased by the cosine weighs, SimTier counts."""

    def __init__(self, *, d: int, config: LifelongConfig) -> None:
        super().__init__()
        self.config = config
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.bias_scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("thresholds", torch.tensor([0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9]), persistent=False)
        self.thresholds: Tensor

    @property
    def features(self) -> int:
        """Width of the strength."""
        return 4 + (3 * 8 if self.config.esu == "sata-simtier" else 0)

    def forward(
        self, nodes: Tensor, z: Tensor, behaviors: Tensor, contents: Tensor, valid: Tensor, age: Tensor
    ) -> LifelongReading:
        """nodes (B, n, d), z (B, n, c); behaviors (B, M, d), contents (B, M, c), valid (B, M), age (B, M) behaviors ago."""
        similarity = z @ contents.transpose(1, 2)
        mask = _top_k(similarity, valid, self.config.top_k)
        logits = self.query(nodes) @ self.key(behaviors).transpose(1, 2) / math.sqrt(nodes.shape[-1])
        strength = _strength(similarity, mask, 8.0)
        if self.config.esu == "sata-simtier":
            logits = logits + self.bias_scale * similarity
            strength = torch.cat([strength, _tiers(similarity, valid, age, self.thresholds)], dim=-1)
        return LifelongReading(_attend(logits, mask, self.value(behaviors)), strength)
