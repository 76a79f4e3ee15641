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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ShortInterest"]


class _Layer(nn.Module):
    def __init__(self, d: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.distance_bias = nn.Parameter(torch.zeros(heads, window))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, distance: Tensor) -> Tensor:
        # x (B, S, d); mask (B or 1, 1, S, S) additive; distance (S, S) int64, clamped at 0 above the diagonal
        b, s, d = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).reshape(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)  # (B, a, S, S)
        weights = torch.softmax(scores + self.distance_bias[:, distance] + mask, dim=-1)
        attended = (weights @ v).transpose(1, 2).reshape(b, s, d)
        x = x + self.dropout(self.out(attended))
        out: Tensor = x + self.dropout(self.down(F.gelu(self.up(self.norm_mlp(x)))))
        return out


class ShortInterest(nn.Module):
    """h for every position of a window: h_t sees positions up to t."""

    def __init__(self, *, d: int, heads: int, layers: int, window: int, dropout: float) -> None:
        super().__init__()
        self.window = window
        self.nothing = nn.Parameter(torch.randn(d) * 0.02)
        self.layers = nn.ModuleList(_Layer(d, heads, window, dropout) for _ in range(layers))
        self.norm_in, self.norm_out = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)
        position = torch.arange(window)
        self.register_buffer("distance", (position[:, None] - position[None, :]).clamp(min=0), persistent=False)
        causal = torch.full((window, window), -1e9).triu(1)
        self.register_buffer("causal", causal, persistent=False)
        self.distance: Tensor
        self.causal: Tensor

    def forward(self, embedded: Tensor, valid: Tensor) -> Tensor:
        """embedded (B, S, d) behaviors, valid (B, S) bool with invalid ones on the left; returns (B, S, d)."""
        s = embedded.shape[1]
        x = torch.where(valid[:, :, None], embedded, self.nothing)
        x = self.dropout(self.norm_in(x))
        # the place just left of the first behavior stays visible, and the last place always
        visible = torch.cat([valid[:, 1:], torch.ones_like(valid[:, :1])], dim=1) | valid
        hidden = torch.where(visible, 0.0, -1e9)[:, None, None, :]
        mask = self.causal[:s, :s] + hidden  # (B, 1, S, S)
        for layer in self.layers:
            x = layer(x, mask, self.distance[:s, :s])
        return self.norm_out(x)  # type: ignore[no-any-return]
