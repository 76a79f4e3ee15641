"""Small data with a known shape: a ring of items that users walk along."""

from __future__ import annotations

import numpy as np

from model.histories import Histories


def make_histories(users: int, items: int, *, seed: int = 0, shortest: int = 0, longest: int = 30) -> Histories:
    """Histories without repeats over a ring of items: a user walks on from where they are, mostly."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(users):
        length = min(int(rng.integers(shortest, longest + 1)), items)
        start, step = int(rng.integers(items)), int(rng.choice([1, 1, 1, 2]))
        walk = (start + step * np.arange(items)) % items
        rows.append(walk[np.sort(np.unique(walk, return_index=True)[1])][:length])
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return Histories(offsets=offsets, items=np.concatenate([*rows, []]).astype(np.int32), n_items=items)


def ring_vectors(items: int, dim: int = 16) -> np.ndarray:
    """Unit vectors in which neighbours on the ring are near."""
    angle = 2 * np.pi * np.arange(items) / items
    waves = [f(angle * (1 + k)) / (1 + k) for k in range(dim // 2) for f in (np.sin, np.cos)]
    vectors = np.stack(waves, axis=1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
