"""EASE^R: a linear item-to-item model with a zero diagonal, in closed form.

- Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", eq. 8: with P = (X'X + lambda I)^-1, the weight from i
  to j is -P_ij / P_jj, and 0 from an item to itself. Score of j: the sum over the items of the history.
- The order of a history plays no part, nor does repetition. One matrix inverse, through Cholesky in float64.
- Dense in the items: 12 bytes x N^2 to fit. Beyond `max_bytes` the fit is refused with the estimate, and tables leave the row out.
- A history that says nothing (empty, or only items never seen in training) is answered in the order of popularity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from model.baselines._dense import BLOCK_ROWS, DenseRetriever, backfill, gram_blocks, newest
from model.errors import BadInput
from model.files import read_npz, write_npz
from model.histories import Histories
from model.ranking import FlatHistories

__all__ = ["EASE", "EASEConfig"]

FILE = "ease.npz"


@dataclass(frozen=True, kw_only=True)
class EASEConfig:
    """EASE's one parameter, and how much memory it may take."""

    regularization: float = 500.0
    """lambda, added to the diagonal of X'X."""
    max_bytes: int = 8 * 2**30
    """Largest estimate of memory that is still fitted; 8 GiB are some 26,000 items."""

    def __post_init__(self) -> None:
        if not 0 < self.regularization < np.inf:
            raise BadInput(f"regularization = {self.regularization} is out of range: give a finite number above 0")


class EASE(DenseRetriever):
    """Linear item-to-item weights."""

    name = "EASE"

    def __init__(self, weights: NDArray[np.float32], fill: NDArray[np.float32]) -> None:
        """weights: (N, N) float32, from row to column, diagonal 0; fill: (N,) scores in the order of popularity."""
        self.weights, self.fill = weights, fill
        self.n_items = len(fill)

    @staticmethod
    def memory_bytes(n_items: int) -> int:
        """Peak memory of `fit` in bytes, estimated: one float64 and one float32 matrix of N x N."""
        return 12 * n_items * n_items

    @classmethod
    def fit(cls, train: Histories, config: EASEConfig | None = None) -> EASE:
        """Solve for the weights; seconds at N = 4,000, minutes at 20,000.

        Raises BadInput where the estimated memory is above `config.max_bytes`.
        """
        config = config or EASEConfig()
        n_items = train.n_items
        if not n_items:
            raise BadInput("the catalogue has no items; ingest one with at least one item")
        if (need := cls.memory_bytes(n_items)) > config.max_bytes:
            raise BadInput(
                f"EASE over {n_items} items needs about {need / 2**30:.1f} GiB, more than the {config.max_bytes / 2**30:.1f} "
                "GiB allowed; leave this baseline out or raise max_bytes"
            )
        gram = np.empty((n_items, n_items), dtype=np.float64, order="F")  # LAPACK's order: it works in place
        for begin, block in gram_blocks(train):
            gram[begin : begin + block.shape[0]] = block.toarray()
        gram[np.diag_indices(n_items)] += config.regularization
        factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
        if not failed:
            factor, failed = lapack.dpotri(factor, lower=1, overwrite_c=1)
        if failed:  # X'X + lambda I is positive definite for any lambda above 0 that float64 can tell from 0
            raise BadInput(f"regularization = {config.regularization} is too small for these logs; give 1 or more")
        scale = -1 / np.diag(factor)
        weights = np.empty((n_items, n_items), dtype=np.float32)
        for begin in range(0, n_items, BLOCK_ROWS):
            # LAPACK fills the lower half of the inverse: a row is what stands left of the diagonal, and the column below it
            rows = slice(begin, begin + BLOCK_ROWS)
            block = np.tril(factor[rows], begin - 1) + np.tril(factor[:, rows], -begin - 1).T
            weights[rows] = block * scale
        return cls(weights, backfill(train.counts()))

    def scores(self, batch: FlatHistories, n_rows: int) -> NDArray[np.float32]:
        """(n_rows, N) sums of the history's weights; the order of popularity where no weight is different from 0."""
        once = newest(batch)
        ones = np.ones(len(once.rows), np.float32)
        # sparse times dense adds row by row: a user's sum is the same in any batch, which a dense product would not promise
        profile = sparse.csr_matrix((ones, (once.rows, once.items)), shape=(n_rows, self.n_items))
        total: NDArray[np.float32] = profile @ self.weights
        return np.where(total.any(axis=1, keepdims=True), total, self.fill)

    def save(self, folder: Path) -> None:
        """Write `ease.npz` (4 x N^2 bytes) into a folder."""
        write_npz(folder / FILE, {"weights": self.weights, "fill": self.fill})

    @classmethod
    def load(cls, folder: Path) -> EASE:
        """Read what `save` wrote; `Corrupt` where it is torn."""
        arrays = read_npz(folder / FILE)
        return cls(arrays["weights"], arrays["fill"])
