"""The short reading of a user: a causal transformer over the last S behaviors (SASRec's layout, ICDM 2018).

Shape legend: B users, S positions, d width, a heads.

- Positions are relative (one learned bias a head and distance, as in T5), so that a window cut anywhere in a history
  means the same as one cut at its end, and padding on the left changes nothing.
- Nothing before the first behavior is one learned token, visible just left of it: an empty history is a prediction
  the model was trained for.
- Attention is written out in four dimensions: it exports to ONNX at opset 18 as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ShortInterest"]

_HIDDEN = -1e9


class _Dropout(nn.Module):
    """Dropout from one random byte a value: eight times fewer random numbers than `nn.Dropout`, which took a fifth of a step."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.hidden = round(p * 256)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.hidden:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.hidden
        return x * (kept * (256 / (256 - self.hidden)))


def _projected(
    linear: nn.Linear, x: Tensor, own: int, last: bool, activation: Callable[[Tensor], Tensor] | None = None
) -> list[Tensor]:
    """Parts of width d of what linear makes of x (B, S, d); last: the first `own` of the last place alone."""
    d = x.shape[-1]
    if last:
        sizes = [own * d, linear.out_features - own * d]
        rows = zip((x[:, -1:], x), torch.split(linear.weight, sizes), torch.split(linear.bias, sizes), strict=True)
        made = [F.linear(*each) for each in rows]
    else:
        made = [linear(x)]
    return [part for each in made for part in torch.split(activation(each) if activation else each, d, dim=-1)]


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, a, S, d / a) from (B, S, d)."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _by_distance(bias: Tensor, s: int, last: bool = False) -> Tensor:
    """(a, S, S) with bias[:, i - j] at (i, j) and the future hidden, from bias (a, >= S); last: its last row alone, (a, 1, S).

    S rows that repeat one line of 2 S - 1, read again in rows of 2 S - 2: a shift a row, whose gradient is a sum and no scatter.
    """
    if last or s == 1:  # who is last sees everything
        return bias[:, None, :s].flip(2)
    line = F.pad(
        bias[:, :s].flip(1), (0, s - 1), value=_HIDDEN
    )  # distance S - 1 first, distance 0 at S - 1, the future
    rows = line[:, None, :].expand(-1, s, -1).reshape(len(bias), -1)
    return rows[:, s - 1 : s - 1 + s * (2 * s - 2)].reshape(len(bias), s, 2 * s - 2)[:, :, :s]


class _Layer(nn.Module):
    def __init__(self, d: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.distance_bias = nn.Parameter(torch.zeros(heads, window))
        self.dropout = _Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor, last: bool = False) -> Tensor:
        # x (B, S, d); visible (B, S) bool, not padding; last: (B, 1, d) of the last place alone
        b, s, d = x.shape
        q, k, v = (_heads(y, self.heads) for y in _projected(self.qkv, self.norm_attention(x), 1, last))
        scores = (q / math.sqrt(d // self.heads)) @ k.transpose(-1, -2)  # (B, a, S, S)
        hidden = torch.where(visible, 0.0, _HIDDEN)[:, None, None, :]
        weights = torch.softmax(scores + _by_distance(self.distance_bias, s, last) + hidden, dim=-1)
        x = x[:, -1:] if last else x
        x = x + self.dropout(self.out((weights @ v).transpose(1, 2).reshape(b, -1, d)))
        out: Tensor = x + self.dropout(self.down(F.gelu(self.up(self.norm_mlp(x)))))
        return out


class _PointwiseLayer(nn.Module):
    """Attention without a softmax, gated: HSTU (Zhai et al., ICML 2024, eq. 1-3), at five d x d products a position."""

    def __init__(self, d: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm_in, self.norm_attended = nn.LayerNorm(d), nn.LayerNorm(d)
        self.uqkv, self.out = nn.Linear(d, 4 * d), nn.Linear(d, d)
        self.distance_bias = nn.Parameter(torch.zeros(heads, window))
        self.dropout = _Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor, last: bool = False) -> Tensor:
        # as _Layer's
        b, s, d = x.shape
        u, *qkv = _projected(self.uqkv, self.norm_in(x), 2, last, F.silu)
        q, k, v = (_heads(y, self.heads) for y in (*qkv[:2], qkv[2] * visible[:, :, None]))
        # no softmax shares anything out, so what is hidden need only have nothing to give: v is 0 there
        weights = F.silu(q @ k.transpose(-1, -2) + _by_distance(self.distance_bias, s, last))
        attended = (weights @ v).transpose(1, 2).reshape(b, -1, d) / self.window
        x = x[:, -1:] if last else x
        out: Tensor = x + self.out(self.dropout(self.norm_attended(attended) * u))
        return out


class ShortInterest(nn.Module):
    """h for every position of a window: h_t sees positions up to t."""

    def __init__(
        self, *, d: int, heads: int, layers: int, window: int, dropout: float, attention: str = "softmax"
    ) -> None:
        super().__init__()
        self.window = window
        self.nothing = nn.Parameter(torch.randn(d) * 0.02)
        layer = {"softmax": _Layer, "pointwise": _PointwiseLayer}[attention]
        self.layers = nn.ModuleList(layer(d, heads, window, dropout) for _ in range(layers))
        self.norm_in, self.norm_out = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = _Dropout(dropout)

    def forward(self, embedded: Tensor, valid: Tensor, last: bool = False) -> Tensor:
        """embedded (B, S, d) behaviors, valid (B, S) bool with invalid ones on the left; returns (B, S, d).

        last: returns (B, 1, d), the last position's alone, and spares the last layer the others.
        """
        x = torch.where(valid[:, :, None], embedded, self.nothing)
        x = self.dropout(self.norm_in(x))
        # the place just left of the first behavior stays visible, and the last place always
        visible = torch.cat([valid[:, 1:], torch.ones_like(valid[:, :1])], dim=1) | valid
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, visible, last and number == len(self.layers))
        if last:
            x = x[:, -1:]
        return self.norm_out(x)  # type: ignore[no-any-return]
