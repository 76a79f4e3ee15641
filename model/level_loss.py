"""Full softmax over every trained level of the tree, loss and gradients in one pass: the dense path's loss (DESIGN 4).

- Chunk by chunk of positions, so that logits (P x nodes) are never kept: a level costs a chunk three matrix products and
  one fused softmax, which is what two cores are short of. Weights scale the products, never the probabilities.
- The trained levels' nodes lie side by side in one table; each level takes its own rows.

Source of the idea: fused linear cross-entropy, as in Liger Kernel (arXiv 2410.10989); here over levels, on a CPU.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

__all__ = ["level_softmax_loss"]

_HIDDEN = -1e9
_CHUNK = 256
"""Positions at a time: a chunk's logits stay within the processor's caches."""


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
    ) -> tuple[Tensor, Tensor]:
        grad_h, grad_e, grad_bias = torch.zeros_like(h), torch.zeros_like(e), torch.zeros_like(bias)
        losses = torch.zeros(len(weights), device=h.device)
        scale = 1.0 / max(len(h), 1)
        for level, (a, b) in enumerate(pairwise(starts)):
            nodes, columns, shift = e[a:b], e[a:b].T.contiguous(), bias[a:b]
            weight = weights[level] * scale
            logits, p = (h.new_empty(min(_CHUNK, len(h)), b - a) for _ in range(2))
            for begin in range(0, len(h), _CHUNK):
                h_chunk, target = h[begin : begin + _CHUNK], targets[begin : begin + _CHUNK, level, None]
                rows = len(h_chunk)
                x, q = logits[:rows], p[:rows]
                torch.addmm(shift, h_chunk, columns, out=x)
                if hidden is not None and level == len(weights) - 1:
                    own = x.gather(1, target)
                    gone = hidden[begin : begin + _CHUNK]
                    x.scatter_add_(1, gone.clamp(min=0), torch.where(gone >= 0, _HIDDEN, 0.0))
                    x.scatter_(1, target, own)
                torch.softmax(x, dim=1, out=q)
                chosen = q.gather(1, target)
                # a target of probability 0 in float32 costs 87 nats in the report; its gradient is exact all the same
                losses[level] -= chosen.clamp(min=1e-38).log().sum()
                q.scatter_(1, target, chosen - 1)
                grad_h[begin : begin + _CHUNK].addmm_(q, nodes, alpha=weight)
                grad_e[a:b].addmm_(q.T, h_chunk, alpha=weight)
                grad_bias[a:b].add_(q.sum(0), alpha=weight)
        ctx.save_for_backward(grad_h, grad_e, grad_bias)
        losses *= scale
        total = (losses * torch.tensor(weights, device=h.device)).sum()
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_e, grad_bias = ctx.saved_tensors
        return grad_h * grad_total, grad_e * grad_total, grad_bias * grad_total, None, None, None, None


def level_softmax_loss(
    h: Tensor,
    e: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    starts: list[int],
    weights: list[float],
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over levels of the mean softmax cross-entropy of h . e_n + bias_n.

    h: (P, d) user vectors; e: (n, d) node embeddings of the trained levels side by side; bias: (n,).
    targets: (P, L) int64, column of the target's ancestor within its level. starts: L + 1 first columns of each level.
    hidden: (P, m) int64 columns of the last level that are no alternatives, -1 for none; a target never hides itself.
    Returns (scalar loss, (L,) unweighted loss of each level in nats, detached).
    """
    return _LevelSoftmax.apply(h, e, bias, targets, starts, weights, hidden)  # type: ignore[no-any-return, no-untyped-call]
