"""Full softmax over every trained level of the tree in one pass: the dense path's loss (DESIGN 4).

- Loss and gradients are made together, chunk by chunk of positions, so that logits (P x nodes) are never kept: three
  matrix products and one exponential per logit, which is what two cores are short of.
- One matrix product serves all levels: the trained levels' nodes lie side by side, and each level takes its own columns.

Source of the idea: fused linear cross-entropy, as in Liger Kernel (arXiv 2410.10989); here over levels, on a CPU.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

__all__ = ["level_softmax_loss"]

_CHUNK = 256


class _LevelSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, e: Tensor, bias: Tensor, targets: Tensor, starts: list[int], weights: list[float]
    ) -> tuple[Tensor, Tensor]:
        grad_h, grad_e, grad_bias = torch.empty_like(h), torch.zeros_like(e), torch.zeros_like(bias)
        losses = torch.zeros(len(weights), device=h.device)
        scale = 1.0 / max(len(h), 1)
        weight = torch.tensor(weights, device=h.device) * scale
        first_column = torch.tensor(starts[:-1], device=h.device)
        for begin in range(0, len(h), _CHUNK):
            h_chunk, target = h[begin : begin + _CHUNK], targets[begin : begin + _CHUNK]
            p = torch.addmm(bias, h_chunk, e.T)  # (C, nodes) logits, then probabilities, in place
            picked = target + first_column
            chosen = p.gather(1, picked)  # (C, L)
            highest = p.amax(1, keepdim=True)
            p.sub_(highest).exp_()
            sums = torch.stack([p[:, a:b].sum(1) for a, b in pairwise(starts)], dim=1)  # (C, L)
            # one shift for the whole row may starve a level far below the row's best: 1e-30 keeps its gradient finite
            sums.clamp_(min=1e-30)
            losses += (sums.log() + highest - chosen).sum(0)
            factor = weight / sums
            for level, (a, b) in enumerate(pairwise(starts)):
                p[:, a:b].mul_(factor[:, level : level + 1])
            p.scatter_add_(1, picked, -weight.expand_as(chosen))
            torch.mm(p, e, out=grad_h[begin : begin + _CHUNK])
            grad_e.addmm_(p.T, h_chunk)
            grad_bias += p.sum(0)
        ctx.save_for_backward(grad_h, grad_e, grad_bias)
        total = (losses * weight).sum()
        losses *= scale
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_e, grad_bias = ctx.saved_tensors
        return grad_h * grad_total, grad_e * grad_total, grad_bias * grad_total, None, None, None


def level_softmax_loss(
    h: Tensor, e: Tensor, bias: Tensor, targets: Tensor, *, starts: list[int], weights: list[float]
) -> tuple[Tensor, Tensor]:
    """Weighted sum over levels of the mean softmax cross-entropy of h . e_n + bias_n.

    h: (P, d) user vectors; e: (n, d) node embeddings of the trained levels side by side; bias: (n,).
    targets: (P, L) int64, column of the target's ancestor within its level. starts: L + 1 first columns of each level.
    Returns (scalar loss, (L,) unweighted loss of each level in nats, detached).
    """
    return _LevelSoftmax.apply(h, e, bias, targets, starts, weights)  # type: ignore[no-any-return, no-untyped-call]
