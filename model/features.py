"""From a frozen encoder's vectors to what small heads are trained on: centred, on principal axes, of unit length.

- The same numpy path in training and for what comes later, so that a query lies where a trained item does.
- The state is two arrays a modality, `NAME_mean` (d,) and `NAME_axes` (r, d); storable with files.write_npz.

Not covered: whitening. Equal variance on every axis makes noise of the last ones as loud as what the first ones say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["features", "features_state", "principal", "unit"]


def unit(vectors: NDArray[Any], default: NDArray[Any]) -> NDArray[np.float32]:
    """Rows to unit length; a zero row becomes `default`, itself of unit length."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.where(norm > 1e-9, vectors / np.maximum(norm, 1e-9), default), dtype=np.float32)


def principal(rows: NDArray[Any], components: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean (d,) and leading principal axes (r, d), 1 <= r <= components, signs fixed; zeros where there are no rows."""
    import torch  # its eigenvectors follow torch's thread count, which `align` fixes; numpy's follow the machine's

    width = rows.shape[1]
    mean = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros(width)
    centred = torch.from_numpy(np.asarray(rows - mean, np.float64))
    values, axes = torch.linalg.eigh(centred.T @ centred)
    rank = max(1, min(components, width, len(rows) - 1))
    kept = axes[:, -rank:].flip(1).T.numpy() * (values[-rank:].flip(0).numpy() > 1e-9)[:, None]
    sign = np.sign(kept[np.arange(len(kept)), np.abs(kept).argmax(axis=1)])
    return mean.astype(np.float32), np.ascontiguousarray(kept * np.where(sign == 0, 1, sign)[:, None], np.float32)


def features_state(
    vectors: NDArray[np.float32], present: NDArray[np.bool_], name: str, components: int
) -> dict[str, NDArray[Any]]:
    """`NAME_mean` (d,) and `NAME_axes` (r, d), r <= components, of the present rows of vectors (N, d)."""
    mean, axes = principal(vectors[present], components)
    return {f"{name}_mean": mean, f"{name}_axes": axes}


def features(
    state: Mapping[str, NDArray[Any]], name: str, vectors: NDArray[np.float32], present: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(N, r): centred, on principal axes, unit length; 0 where absent."""
    centred = np.where(present[:, None], vectors - state[f"{name}_mean"], 0)
    reduced = centred @ state[f"{name}_axes"].T
    return unit(reduced, np.zeros(reduced.shape[1], np.float32))
