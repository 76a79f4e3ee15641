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

__all__ = ["MMGSU", "Attention", "CoGSU", "LifelongConfig", "LifelongReading", "keep_relevant"]

_HIDDEN = -1e4
_EDGE = 0.05
"""Width of the edge of top-k and of the tiers, in similarity."""
_SHARPNESS = 8.0
"""Of the log-sum-exp of cosines."""
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
    kept: int = 32
    """M: behaviors each unit keeps of the whole history before the levels are walked."""
    probes: int = 16
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


@dataclass(frozen=True)
class _Found:
    """The best behaviors of each node: what attention, strengths and tiers have in common."""

    similarity: Tensor
    """(B, n, M), lower by `_HIDDEN` where there is no behavior."""
    weight: Tensor
    """(B, n, M) in 0..1: 1 for the k best valid behaviors of each node, falling to 0 within `_EDGE` below the k-th."""
    best: Tensor
    """(B, n, 1) the largest similarity."""
    any_: Tensor
    """(B, 1, 1) 1 where there are behaviors, else 0."""


def _find(similarity: Tensor, valid: Tensor, k: int) -> _Found:
    """similarity (B, n, M) of nodes to behaviors, valid (B, M)."""
    similarity = similarity + _HIDDEN * (~valid)[:, None, :]  # a sum takes a fifth of a choice
    any_ = valid.any(-1)[:, None, None].to(similarity.dtype)
    if k == similarity.shape[-1]:  # what was kept is what is attended to
        weight = valid[:, None, :].expand_as(similarity).to(similarity.dtype)
        return _Found(similarity, weight, similarity.amax(-1, keepdim=True), any_)
    top = torch.topk(similarity, k, dim=-1, sorted=False).values  # a selection, where a sort takes twice as long
    edge = top.amin(-1, keepdim=True).clamp(min=_HIDDEN / 2) - _EDGE  # with fewer than k, all that are there
    weight = ((similarity - edge) * (1 / _EDGE)).clamp(0, 1)
    return _Found(similarity, weight, top.amax(-1, keepdim=True), any_)


def _strength(found: _Found, total: Tensor, sharpness: float) -> Tensor:
    """(B, n, 4) log-sum-exp, maximum, mean of the weighted similarities, and whether there are any.

    total: (B, n, 1) sum of weight x exp(sharpness x (similarity - best)), at least 1 where there is anything at all.
    """
    best = found.best * found.any_
    lse = best + torch.log(total.clamp(min=1)) / sharpness
    mean = (found.similarity * found.weight).sum(-1, keepdim=True) / found.weight.sum(-1, keepdim=True).clamp(min=1)
    return torch.cat([lse, best, mean, found.any_.expand_as(mean)], dim=-1)


@dataclass(frozen=True)
class Attention:
    """How n nodes share their attention among the M behaviors a unit kept."""

    weight: Tensor
    """(B, n, M) not negative, 0 for what a node does not attend to."""
    total: Tensor
    """(B, n, 1) sum of the weights."""

    def shares(self) -> Tensor:
        """(B, n, M) the weights over their sum; all 0 where there is nothing."""
        return self.weight / self.total.clamp(min=1e-9)

    def mean(self, values: Tensor) -> Tensor:
        """(B, n, d) means of values (B, M, d) by these shares; zeros where there is nothing."""
        return (self.weight @ values) / self.total.clamp(min=1e-9)


def _tiers(similarity: Tensor, valid: Tensor, age: Tensor, thresholds: Tensor) -> Tensor:
    """(B, n, 3 x tiers) log(1 + count of behaviors above each threshold), plain and weighted by recency."""
    weights = torch.stack([torch.ones_like(age), *(torch.exp(-age / tau) for tau in _RECENCY)], dim=-1)
    weights = weights * valid[:, :, None]  # (B, M, 3)
    b, n, m = similarity.shape
    steps = (similarity * (1 / _EDGE) + 0.5)[:, None] - (thresholds / _EDGE)[:, None, None]  # (B, tiers, n, M)
    counts = steps.clamp(0, 1).reshape(b, -1, m) @ weights
    return torch.log1p(counts.reshape(b, len(thresholds), n, 3).transpose(1, 2).reshape(b, n, -1))


class _Unit(nn.Module):
    """What both searches are made of."""

    def __init__(self, *, d: int, config: LifelongConfig) -> None:
        super().__init__()
        self.config = config
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))

    def keys_and_values(self, behaviors: Tensor) -> tuple[Tensor, Tensor]:
        """Of kept behaviors (B, M, d), once a user, in the space of nodes: e_n . key is the score of attention, scale and all.

        (W_q e_n) . (W_k e_b) / sqrt(d) = e_n . (W_q^T W_k e_b) / sqrt(d): no node is projected.
        """
        return self.key(behaviors) @ self.query.weight / math.sqrt(behaviors.shape[-1]), self.value(behaviors)


class CoGSU(_Unit):
    """Collaborative search: score and attention are the same product."""

    features = 4

    def seeking(self, nodes: Tensor) -> Tensor:
        """What nodes (B, n, d) look for, in the space of behaviors: the score the other way round, for a long history."""
        return self.query(nodes) @ self.key.weight / math.sqrt(nodes.shape[-1])  # type: ignore[no-any-return]

    def attention(self, nodes: Tensor, keys: Tensor, valid: Tensor) -> tuple[Attention, _Found]:
        """What nodes (B, n, d) attend to of the behaviors behind keys (B, M, d), valid (B, M)."""
        found = _find(nodes @ keys.transpose(1, 2), valid, self.config.top_k)
        weight = found.weight * torch.exp(found.similarity - found.best)
        return Attention(weight, weight.sum(-1, keepdim=True)), found

    def forward(self, nodes: Tensor, keys: Tensor, values: Tensor, valid: Tensor) -> LifelongReading:
        """nodes (B, n, d); what `keys_and_values` makes of kept behaviors, (B, M, d) each; valid (B, M)."""
        attention, found = self.attention(nodes, keys, valid)
        return LifelongReading(attention.mean(values), _strength(found, attention.total, 1.0))


class MMGSU(_Unit):
    """Multi-modal search: cosine finds, ID attention biased by the cosine weighs, SimTier counts."""

    def __init__(self, *, d: int, config: LifelongConfig) -> None:
        super().__init__(d=d, config=config)
        self.bias_scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("thresholds", torch.tensor([0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9]), persistent=False)
        self.thresholds: Tensor

    @property
    def features(self) -> int:
        """Width of the strength."""
        return 4 + (3 * 8 if self.config.esu == "sata-simtier" else 0)

    def attention(
        self, nodes: Tensor, z: Tensor, keys: Tensor, contents: Tensor, valid: Tensor
    ) -> tuple[Attention, _Found]:
        """What nodes (B, n, d) of content z (B, n, c) attend to; the rest as in `forward`."""
        found = _find(z @ contents.transpose(1, 2), valid, self.config.top_k)
        logits = nodes @ keys.transpose(1, 2)
        if self.config.esu == "sata-simtier":
            logits = logits + self.bias_scale * found.similarity
        logits = logits + _HIDDEN * (~valid)[:, None, :]
        weight = found.weight * torch.exp(logits - logits.amax(-1, keepdim=True))
        return Attention(weight, weight.sum(-1, keepdim=True)), found

    def forward(
        self, nodes: Tensor, z: Tensor, keys: Tensor, values: Tensor, contents: Tensor, valid: Tensor, age: Tensor
    ) -> LifelongReading:
        """nodes (B, n, d), z (B, n, c); keys, values (B, M, d), contents (B, M, c), valid (B, M), age (B, M) behaviors ago."""
        attention, found = self.attention(nodes, z, keys, contents, valid)
        total = (found.weight * torch.exp((found.similarity - found.best) * _SHARPNESS)).sum(-1, keepdim=True)
        strength = _strength(found, total, _SHARPNESS)
        if self.config.esu == "sata-simtier":
            strength = torch.cat([strength, _tiers(found.similarity, valid, age, self.thresholds)], dim=-1)
        return LifelongReading(attention.mean(values), strength)
