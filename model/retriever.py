"""The contract every retriever keeps: the tree, its baselines, and the ONNX engine alike.

`tests/model/retriever_contract.py` holds the tests that every implementation inherits: a batch equals one by one, seen
items never come back, an empty history is answered, save and load give the same answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput

__all__ = ["Retriever", "check_k"]


def check_k(k: int, limit: int, what: str = "the catalogue has") -> None:
    """Raise `BadInput` unless 1 <= k <= limit."""
    if not 1 <= k <= limit:
        raise BadInput(f"k = {k} is out of range: {what} {limit} items, so k goes from 1 to {limit}")


class Retriever(ABC):
    """Answers "the k items this user wants next" for a batch of histories."""

    name: str
    """How tables call it, e.g. "popularity"."""
    n_items: int
    """N, the number of items in the catalogue."""

    @abstractmethod
    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Best k items for each of B users.

        histories: B arrays of item indices, oldest first, any length, 0 included.
        exclude: B arrays of items that must not be returned; the histories themselves where None.
        Returns items (B, k) int64 and scores (B, k) float32, best first, no item twice; where fewer than k items are
        left the rest is item -1 with score -inf. Ties go to the lower item index.
        Raises BadInput for k < 1 or k > n_items.
        """
