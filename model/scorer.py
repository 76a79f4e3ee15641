"""MISS: the score of a tree node for a user, from a short and two lifelong readings (DESIGN 4; arXiv 2508.14515).

    e_n = E[n] + W z_n
    score(n) = (1 + a_h) h . e_n + bias_n                              dense path: every position, whole levels
             + g_co v_co . e_n + g_mm v_mm . e_n + MLP([...]) + b_h . t_n    lifelong path: a residual on top

a_h, b_h belong to the node's level h; t_n are the strengths of the transitions that lead to what lies under n.

Shape legend: B users, T behaviors, S window, M_ nodes of the tree, n nodes scored, d width, c multi-modal width.

- One table of node embeddings serves nodes and behaviors: a behavior is its item's leaf.
- The last layer of the MLP and the gates start at zero, so that the lifelong path begins as exactly the dense path.
- Each unit can be switched off by the configuration; with both off the residual is gone, not zeroed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import BadInput
from model.index_tree import IndexTree
from model.lifelong import MMGSU, Attention, CoGSU, LifelongConfig, keep_relevant
from model.node_rows import Rows
from model.product_codes import Codes
from model.short_interest import ShortInterest
from model.transitions import TransitionStrength

__all__ = ["MISS", "Kept", "NodeTables", "ScorerConfig", "User"]


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """Sizes of the model."""

    d: int = 128
    """Width."""
    heads: int = 4
    """Attention heads of the short reading."""
    layers: int = 4
    """Layers of the short reading."""
    attention: Literal["softmax", "pointwise"] = "pointwise"
    """Layers of the short reading: a transformer's (SASRec), or gated without a softmax (HSTU)."""
    window: int = 128
    """S: behaviors of the short reading."""
    dropout: float = 0.25
    """Dropout of the short reading."""
    hidden: int = 64
    """Hidden width of the lifelong MLP."""
    multi_modal_score: bool = True
    """Whether W z_n is part of a node's embedding; off, embeddings are of ids alone."""
    lifelong: LifelongConfig = field(default_factory=LifelongConfig)
    """The lifelong readings."""

    def __post_init__(self) -> None:
        if self.attention not in ("softmax", "pointwise"):
            raise BadInput(f"attention = {self.attention!r} is not known: choose softmax or pointwise")
        if self.d % self.heads:
            raise BadInput(f"d = {self.d} is not a multiple of heads = {self.heads}")


@dataclass(frozen=True)
class NodeTables:
    """Node embeddings and biases, computed once for a batch (training) or once for all (search)."""

    e: Tensor | Rows
    """(M_, d)"""
    bias: Tensor
    """(M_,)"""
    leaf_e: Tensor | Rows
    """(N + 1, d) embedding of each item's leaf; the last row, for padding, is zero."""
    z: Tensor | Rows
    """(M_, c) content."""
    leaf_z: Tensor | Rows
    """(N + 1, c) content of each item; the last row is zero."""
    codes: Codes | None = None
    """What MM-GSU searches the whole history by, where not by `leaf_z`."""


@dataclass(frozen=True)
class Kept:
    """The M behaviors that a unit kept of each history, read once a user."""

    columns: Tensor
    """(B, M) where they stand in the history, most relevant first."""
    valid: Tensor
    """(B, M) bool, False where the history was too short."""
    keys: Tensor
    """(B, M, d)"""
    values: Tensor
    """(B, M, d)"""


@dataclass(frozen=True)
class User:
    """What is known of B users once their histories are read."""

    h: Tensor
    """(B, d) short reading."""
    co: Kept | None
    """Co-GSU's."""
    strength: Tensor | None
    """(B, C, n) strengths of transitions to the n nodes from `first` on."""
    first: int
    """First node of the level where a search starts."""
    mm: tuple[Kept, Tensor, Tensor] | None
    """MM-GSU's, with their contents (B, M, c) and age (B, M) behaviors ago."""


def _pick(table: Tensor, columns: Tensor) -> Tensor:
    """Rows of table (B, T, w) at columns (B, M); (B, M, w)."""
    return table.gather(1, columns[:, :, None].expand(-1, -1, table.shape[2]))


class MISS(nn.Module):
    """The scorer over one tree."""

    def __init__(self, tree: IndexTree, config: ScorerConfig) -> None:
        super().__init__()
        self.config = config
        self.n_items = tree.n_items
        d, c = config.d, tree.z.shape[1]
        self.node_embedding = nn.Parameter(torch.randn(tree.n_nodes, d) * 0.02)
        self.node_bias = nn.Parameter(torch.zeros(tree.n_nodes))
        self.content = nn.Linear(c, d, bias=False)
        nn.init.normal_(self.content.weight, std=0.02)
        self.short = ShortInterest(
            d=d,
            heads=config.heads,
            layers=config.layers,
            window=config.window,
            dropout=config.dropout,
            attention=config.attention,
        )
        self.register_buffer("z", torch.from_numpy(tree.z), persistent=False)
        self.register_buffer("node_level", torch.from_numpy(tree.level), persistent=False)
        self.node_level: Tensor
        self.register_buffer("item_leaf", torch.from_numpy(tree.item_leaf), persistent=False)
        self.z: Tensor
        self.item_leaf: Tensor
        lifelong, features = config.lifelong, 3 * d
        self.co_gsu, self.mm_gsu = None, None
        if lifelong.co_gsu:
            self.co_gsu = CoGSU(d=d, config=lifelong)
            features += d + self.co_gsu.features
        if lifelong.mm_gsu:
            self.mm_gsu = MMGSU(d=d, config=lifelong)
            features += d + self.mm_gsu.features
        self.transitions = None
        if lifelong.co_gsu and lifelong.transitions:
            self.transitions = TransitionStrength(tree, lifelong.counts)
            features += self.transitions.features
            self.transition_gain = nn.Parameter(torch.zeros(tree.depth + 1, self.transitions.features))
        if lifelong.units:
            self.dense_gain = nn.Parameter(torch.zeros(tree.depth + 1))
            self.gates = nn.Parameter(torch.zeros(2))
            self.mlp_in, self.mlp_out = nn.Linear(features, config.hidden), nn.Linear(config.hidden, 1)
            nn.init.zeros_(self.mlp_out.weight)
            nn.init.zeros_(self.mlp_out.bias)

    def lifelong_parameters(self) -> list[nn.Parameter]:
        """Parameters of the lifelong path alone."""
        prefixes = ("co_gsu.", "mm_gsu.", "gates", "mlp_", "transition_gain", "dense_gain")
        return [p for name, p in self.named_parameters() if name.startswith(prefixes)]

    def tables(self) -> NodeTables:
        """Embeddings of all nodes."""
        e = self.node_embedding
        if self.config.multi_modal_score:
            e = e + self.content(self.z)
        leaf_e, leaf_z = (F.pad(table[self.item_leaf], (0, 0, 0, 1)) for table in (e, self.z))
        return NodeTables(e, self.node_bias, leaf_e, self.z, leaf_z)

    def window(self, items: Tensor, tables: NodeTables, last: bool = False) -> Tensor:
        """Short reading at every position: items (B, S) int64 indices, -1 on the left where there is none; (B, S, d).

        last: at the last position alone, (B, 1, d).
        """
        valid = items >= 0
        embedded = tables.leaf_e[torch.where(valid, items, self.n_items)]
        return self.short(embedded, valid, last)  # type: ignore[no-any-return]

    def read(self, history: Tensor, tables: NodeTables, first_level: tuple[int, int]) -> User:
        """Read B whole histories (B, T) int64, oldest first, -1 on the left, T >= window and T >= kept.

        first_level: first node and end of the level whose best nodes probe the history.
        """
        config = self.config.lifelong
        h = self.window(history[:, -self.config.window :], tables, last=True)[:, 0]
        if not config.units:
            return User(h, None, None, first_level[0], None)
        valid = history >= 0
        items = torch.where(valid, history, self.n_items)
        behaviors = tables.leaf_e[items]  # (B, T, d)
        level = slice(*first_level)
        probes = min(config.probes, first_level[1] - first_level[0])
        best = torch.topk(h @ tables.e[level].T + tables.bias[level], probes, dim=1).indices + first_level[0]
        co = mm = None
        if self.co_gsu is not None:
            similarity = self.co_gsu.seeking(tables.e[best]) @ behaviors.transpose(1, 2)
            columns = keep_relevant(similarity, valid, config.kept)
            co = self._kept(self.co_gsu, columns, valid, _pick(behaviors, columns))
        if self.mm_gsu is not None:
            if tables.codes is None:
                likeness = tables.z[best] @ tables.leaf_z[items].transpose(1, 2)
            else:
                likeness = tables.codes.likeness(tables.z[best], items)
            columns = keep_relevant(likeness, valid, config.kept)
            age = (history.shape[1] - 1 - columns).to(h.dtype)
            kept = self._kept(self.mm_gsu, columns, valid, _pick(behaviors, columns))
            mm = (kept, tables.leaf_z[items.gather(1, columns)], age)
        strength = None
        if self.transitions is not None:
            strength = self.transitions(history, self.transitions.offsets.index(first_level[0]))
        return User(h, co, strength, first_level[0], mm)

    @staticmethod
    def _kept(unit: CoGSU | MMGSU, columns: Tensor, valid: Tensor, behaviors: Tensor) -> Kept:
        return Kept(columns, valid.gather(1, columns), *unit.keys_and_values(behaviors))

    def dense(self, user: User, e: Tensor, bias: Tensor) -> Tensor:
        """h . e_n + bias_n for nodes e (B, n, d), bias (B, n); (B, n)."""
        return (e @ user.h[:, :, None]).squeeze(-1) + bias

    def residual(self, user: User, nodes: Tensor, e: Tensor, z: Tensor, dense: Tensor) -> Tensor:
        """The lifelong path's part of the score of nodes (B, n), all of one level, with e (B, n, d), z (B, n, c), dense (B, n)."""
        level = self.node_level[nodes]
        features, linear = [], [self.dense_gain[level] * dense]
        if self.co_gsu is not None and user.co is not None:
            co = self.co_gsu(e, user.co.keys, user.co.values, user.co.valid)
            linear.append(self.gates[0] * (co.value * e).sum(-1))
            features += [co.value, co.strength]
        if user.strength is not None:
            column = (nodes - user.first).clamp(min=0)[:, None, :].expand(-1, user.strength.shape[1], -1)
            strength = user.strength.gather(2, column).transpose(1, 2)  # (B, n, C)
            linear.append((self.transition_gain[level] * strength).sum(-1))
            features.append(strength)
        if self.mm_gsu is not None and user.mm is not None:
            kept, contents, age = user.mm
            mm = self.mm_gsu(e, z, kept.keys, kept.values, contents, kept.valid, age)
            linear.append(self.gates[1] * (mm.value * e).sum(-1))
            features += [mm.value, mm.strength]
        mixed: Tensor = self.mlp_out(F.gelu(self._mixed(user.h, e, torch.cat(features, dim=-1)))).squeeze(-1)
        return mixed + torch.stack(linear).sum(0)

    def attention(self, user: User, nodes: Tensor, tables: NodeTables) -> tuple[Attention | None, Attention | None]:
        """What the scores of nodes (B, n) attend to among `user.co` and among `user.mm`, None for a unit that is off."""
        co = mm = None
        if self.co_gsu is not None and user.co is not None:
            co, _ = self.co_gsu.attention(tables.e[nodes], user.co.keys, user.co.valid)
        if self.mm_gsu is not None and user.mm is not None:
            kept, contents, _ = user.mm
            mm, _ = self.mm_gsu.attention(tables.e[nodes], tables.z[nodes], kept.keys, contents, kept.valid)
        return co, mm

    def _mixed(self, h: Tensor, e: Tensor, features: Tensor) -> Tensor:
        """(B, n, hidden) `mlp_in` of [e, h, h * e, features]; what is the user's is worked out once.

        W_1 e + W_3 (h * e) = (W_1 + W_3 diag h) e.
        """
        of_e, of_h, of_both, rest = torch.split(self.mlp_in.weight, [self.config.d] * 3 + [features.shape[-1]], dim=1)
        own = of_e + of_both * h[:, None, :]  # (B, hidden, d)
        of_user = F.linear(h, of_h, self.mlp_in.bias)[:, None, :]
        mixed: Tensor = e @ own.transpose(1, 2) + features @ rest.T + of_user
        return mixed

    def score(self, user: User, nodes: Tensor, tables: NodeTables) -> Tensor:
        """Score nodes (B, n) int64 for each user; (B, n)."""
        e = tables.e[nodes]
        score = self.dense(user, e, tables.bias[nodes])
        return score + self.residual(user, nodes, e, tables.z[nodes], score) if self.config.lifelong.units else score
