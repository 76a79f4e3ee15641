"""Full softmax over every trained level of the tree, loss and gradients in one pass: the dense path's loss (DESIGN 4).

- Chunk by chunk of positions, so that logits (P x nodes) are never kept: a level costs a chunk three matrix products and
  one fused softmax, which is what two cores are short of. Weights scale the products, never the probabilities.
- The trained levels' nodes lie side by side in one table; each level takes its own rows.
- A level may be learnt from some of the positions only, such as those whose ancestor is a pseudo-target (OTM): the others
  are left out of its products altogether.

Source of the idea: fused linear cross-entropy, as in Liger Kernel (arXiv 2410.10989); here over levels, on a CPU.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

__all__ = ["level_softmax_loss", "pseudo_targets"]

_HIDDEN = -1e9
_CHUNK = 256
"""Positions at a time, at least."""
_LOGITS = 2**19
"""Logits at a time on a CPU: 2 MiB of float32, which stay within a core's cache."""
_GPU_LOGITS = 2**26
"""Logits at a time on a GPU: 256 MiB of float32, which fill it."""


class _LevelSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        e: Tensor,
        bias: Tensor,
        targets: Tensor,
        starts: list[int],
        weights: list[float],
        hidden: Tensor | None,
        positives: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        grad_h, grad_e, grad_bias = torch.zeros_like(h), torch.zeros_like(e), torch.zeros_like(bias)
        losses = torch.zeros(len(weights), device=h.device)
        scale = 1.0 / max(len(h), 1)
        for level, (a, b) in enumerate(pairwise(starts)):
            nodes, columns, shift = e[a:b], e[a:b].T.contiguous(), bias[a:b]
            chunk = max(_CHUNK, (_LOGITS if h.device.type == "cpu" else _GPU_LOGITS) // (b - a))
            weight = weights[level] * scale
            gone_level = hidden if level == len(weights) - 1 else None
            h_level, own_level, grad = h, targets[:, level, None], grad_h
            live = None if positives is None else positives[:, level].nonzero().squeeze(1)
            if live is not None:
                h_level, own_level = h[live], own_level[live]
                gone_level, grad = None if gone_level is None else gone_level[live], torch.zeros_like(h_level)
            logits, p = (h.new_empty(min(chunk, len(h_level)), b - a) for _ in range(2))
            for begin in range(0, len(h_level), chunk):
                h_chunk, target = h_level[begin : begin + chunk], own_level[begin : begin + chunk]
                rows = len(h_chunk)
                x, q = logits[:rows], p[:rows]
                torch.addmm(shift, h_chunk, columns, out=x)
                if gone_level is not None:
                    own = x.gather(1, target)
                    gone = gone_level[begin : begin + chunk]
                    x.scatter_add_(1, gone.clamp(min=0), torch.where(gone >= 0, _HIDDEN, 0.0).to(x.dtype))
                    x.scatter_(1, target, own)
                torch.softmax(x, dim=1, out=q)
                chosen = q.gather(1, target)
                # a target of probability 0 in float32 costs 87 nats in the report; its gradient is exact all the same
                losses[level] -= chosen.clamp(min=1e-38).log().sum()
                q.scatter_(1, target, chosen - 1)
                grad[begin : begin + chunk].addmm_(q, nodes, alpha=weight)
                grad_e[a:b].addmm_(q.T, h_chunk, alpha=weight)
                grad_bias[a:b].add_(q.sum(0), alpha=weight)
            if live is not None:
                grad_h.index_add_(0, live, grad)
        ctx.save_for_backward(grad_h, grad_e, grad_bias)
        losses *= scale
        total = (losses * torch.tensor(weights, device=h.device)).sum()
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_e, grad_bias = ctx.saved_tensors
        return grad_h * grad_total, grad_e * grad_total, grad_bias * grad_total, None, None, None, None, None


def level_softmax_loss(
    h: Tensor,
    e: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    starts: list[int],
    weights: list[float],
    hidden: Tensor | None = None,
    positives: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over levels of the mean softmax cross-entropy of h . e_n + bias_n.

    h: (P, d) user vectors, made as precise as e; e: (n, d) node embeddings of the trained levels side by side; bias: (n,).
    targets: (P, L) int64, column of the target's ancestor within its level. starts: L + 1 first columns of each level.
    hidden: (P, m) int64 columns of the last level that are no alternatives, -1 for none; a target never hides itself.
    positives: (P, L) bool, the levels that each position is learnt from, all where None. A mean stays over all P positions, so
    that a position weighs the same wherever it counts; one that does not count adds 0 to loss and gradients.
    Returns (scalar loss, (L,) unweighted loss of each level in nats, detached).
    """
    h = h.to(torch.promote_types(h.dtype, e.dtype))
    return _LevelSoftmax.apply(h, e, bias, targets, starts, weights, hidden, positives)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def pseudo_targets(
    h: Tensor,
    e: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    starts: list[int],
    families: list[Tensor],
    hidden: Tensor | None = None,
) -> Tensor:
    """(P, L) bool: on which levels the target's ancestor is a pseudo-target of OTM (Zhuo et al., ICML 2020).

    With one target, a node above it is one where a greedy descent from it ends at the target: on every level beneath, the target's
    ancestor scores at least as high as the other children of its parent. So the last level always counts, and what does not
    count on a level counts on none above it.
    h, e, bias, targets, starts, hidden as for `level_softmax_loss`; on the last level what is hidden competes with nobody.
    families: per level (nodes, b) int64 columns of all children of each node's parent, itself among them, -1 for none.
    """
    positives = torch.ones_like(targets, dtype=torch.bool)
    last = len(families) - 1
    for level in range(last, 0, -1):
        for begin in range(0, len(h), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            own = targets[part, level, None]
            family = families[level][own.squeeze(1)]  # (C, b)
            nodes = family.clamp(min=0) + starts[level]
            # one product a child, not a matrix product: equal embeddings must score equally, to the bit
            score = (e[nodes] * h[part, None]).sum(-1) + bias[nodes]
            rival = (family >= 0) & (family != own)
            if hidden is not None and level == last:
                rival &= ~(family[:, :, None] == hidden[part, None, :]).any(-1)
            best = score.masked_fill(family != own, -torch.inf).amax(1, keepdim=True)
            wins = ((score <= best) | ~rival).all(1)
            positives[part, level - 1] = positives[part, level] & wins
    return positives
