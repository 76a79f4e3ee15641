"""Tables of nodes as a search reads them: looked up by node or by item, in full or half precision or in bytes.

- A search needs rows, never a whole table: an item's row is its leaf's, so that no table is held twice.
- `float16` halves a table; `int8` quarters it, with one float32 scale a row (the largest magnitude of the row over 127).
  Rows are float32 when they come out, so that whatever scores them does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from model.errors import BadInput

__all__ = ["Precision", "Rows", "checked_precision", "narrowed"]

Precision = Literal["float32", "float16", "int8"]


def checked_precision(name: str) -> Precision:
    """`name`, or BadInput naming the choices."""
    for known in get_args(Precision):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise BadInput(f"tables = {name!r} is not known: choose {', '.join(get_args(Precision))}")


def narrowed(table: Tensor, precision: Precision) -> tuple[Tensor, Tensor | None]:
    """table (M, w) float32 in that precision, and the (M, 1) float32 scales that int8 needs."""
    if precision == "float32":
        return table, None
    if precision == "float16":
        return table.to(torch.float16), None
    scale = table.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return torch.round(table / scale).to(torch.int8), scale


@dataclass(frozen=True)
class Rows:
    """Stands for a float32 (R, w) table wherever only rows of one are taken."""

    values: Tensor
    """(M, w) in the precision it is kept in."""
    scale: Tensor | None = None
    """(M, 1) float32 that int8 values are multiplied by."""
    leaf: Tensor | None = None
    """(N,) node of each item: then rows are asked for by item; row N, for padding, is any, and to be masked."""

    def __getitem__(self, at: Tensor | slice) -> Tensor:
        """(*at.shape, w) float32 rows; a slice is one of nodes."""
        if isinstance(at, slice):
            found = self.values[at].to(torch.float32)
            return found if self.scale is None else found * self.scale[at]
        if self.leaf is None:
            return self._taken(at)
        items = at.clamp(max=len(self.leaf) - 1)
        return self._taken(self.leaf.index_select(0, items.reshape(-1)).reshape(items.shape))

    def _taken(self, nodes: Tensor) -> Tensor:
        rows = nodes.reshape(-1)  # index_select is one Gather where indexing is a GatherND
        found = self.values.index_select(0, rows).to(torch.float32)
        if self.scale is not None:
            found = found * self.scale.index_select(0, rows)
        return found.reshape(*nodes.shape, self.values.shape[1])
