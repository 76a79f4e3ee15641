"""Popularity: everyone gets the items most people had, minus their own. The floor under every table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.baselines._dense import DenseRetriever
from model.errors import BadInput
from model.files import read_npz, write_npz
from model.histories import Histories
from model.ranking import FlatHistories

__all__ = ["Popularity"]

FILE = "popularity.npz"


class Popularity(DenseRetriever):
    """Score of an item: its number of behaviors in training."""

    name = "popularity"

    def __init__(self, counts: NDArray[np.int64]) -> None:
        """counts: (N,) behaviors of each item, N >= 1."""
        if not len(counts):
            raise BadInput("the catalogue has no items; ingest one with at least one item")
        self.counts = counts
        self.n_items = len(counts)

    @classmethod
    def fit(cls, train: Histories) -> Popularity:
        """Count the training behaviors."""
        return cls(train.counts())

    def scores(self, batch: FlatHistories, n_rows: int) -> NDArray[np.float32]:
        """(n_rows, N) the counts, the same for every user."""
        return np.broadcast_to(self.counts.astype(np.float32), (n_rows, self.n_items))

    def save(self, folder: Path) -> None:
        """Write `popularity.npz` ("counts" int64 (N,)) into a folder."""
        write_npz(folder / FILE, {"counts": self.counts})

    @classmethod
    def load(cls, folder: Path) -> Popularity:
        """Read what `save` wrote; `Corrupt` where it is torn."""
        return cls(read_npz(folder / FILE)["counts"])
