"""Product-quantised contents: a long history is searched by table look-up instead of by products (the idea of SEMINAR).

- A content vector is cut in parts of a few dimensions, and each is known by the nearest of 256 centroids: a byte a part. The
  likeness of a node to an item is then the sum over parts of what stands in a table of the node's, worked out once a node.
- Only the search of the whole history reads codes; what it keeps is attended to by exact contents.
- What it is worth on a CPU is measured: docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import BadInput

__all__ = ["Codes", "quantised"]

CENTROIDS = 256


def quantised(
    contents: NDArray[np.float32], *, width: int = 4, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes (N, parts) of contents (N, c), a byte for `width` dimensions, and the centroids (parts, 256, width) they name.

    Raises BadInput where `width` does not divide c. Fewer than 256 items are their own centroids.
    """
    import faiss
    from threadpoolctl import threadpool_limits

    n, c = contents.shape
    if c % width:
        raise BadInput(f"width = {width} does not divide the {c} dimensions of a content; choose one that does")
    parts = c // width
    if n < CENTROIDS:
        own = contents.reshape(n, parts, -1).transpose(1, 0, 2)
        centroids = np.concatenate([own, np.zeros((parts, CENTROIDS - n, c // parts), np.float32)], axis=1)
        return np.repeat(np.arange(n, dtype=np.uint8)[:, None], parts, axis=1), np.ascontiguousarray(centroids)
    quantizer = faiss.ProductQuantizer(c, parts, 8)
    quantizer.cp.seed = seed
    with threadpool_limits(1):
        quantizer.train(contents[np.random.default_rng(seed).permutation(n)[: 64 * CENTROIDS]])
        codes = quantizer.compute_codes(contents)
    return codes, faiss.vector_to_array(quantizer.centroids).reshape(parts, CENTROIDS, -1)


@dataclass(frozen=True)
class Codes:
    """Contents of items, as a search looks them up."""

    codes: Tensor
    """(N, parts) uint8"""
    centroids: Tensor
    """(parts, 256, c / parts) float32"""

    def likeness(self, nodes: Tensor, items: Tensor) -> Tensor:
        """(B, p, T) products of node contents (B, p, c) and the quantised ones of items (B, T); N is padding."""
        b, p, _ = nodes.shape
        parts = len(self.centroids)
        tables = torch.einsum("bpkc,kvc->bkpv", nodes.reshape(b, p, parts, -1), self.centroids)
        rows = items.clamp(max=len(self.codes) - 1)
        found = self.codes.index_select(0, rows.reshape(-1)).reshape(*rows.shape, parts).to(torch.int64)
        total = torch.zeros(b, p, rows.shape[1], dtype=nodes.dtype)
        for table, code in zip(tables.unbind(1), found.unbind(-1), strict=True):
            total = total + table.gather(2, code[:, None, :].expand(-1, p, -1))
        return total
