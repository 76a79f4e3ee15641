"""Item alignment: frozen text and image vectors become one multi-modal embedding c_i that agrees with behavior (after QARM).

- Each modality: centred, PCA, unit length; a projection each, one small MLP with a linear path beside it, unit length out.
- A missing modality is a learned token, and present ones are dropped at random in training (never both), so that the head
  has seen every combination. An item with no content at all but with pairs takes the mean of its partners.
- Symmetric in-batch InfoNCE over item-to-item pairs; known partners and repeats in the batch are masked, not negatives.
- Early stopping on pairs held out by (unordered) pair; optional FAISS hard negatives, refreshed every epoch.
- Embedding is plain numpy over the saved arrays: a new item needs no torch, and gets what a training item of the same content got.
- One thread by default: the steps are small, and the same seed then gives the same bytes on any number of cores.
- With no pairs, or fewer than three items, the head is a PCA of the content and the metrics say so.
- MovieLens-1M, 3,883 items, one thread, 40 s (2026-11-22): the share of an item's co-occurrence mass (training part, window 5)
  inside its 10 nearest is .003 by chance, .014 for a PCA of the content, .071 aligned. That is on the logs the head was
  trained on; for items whose pairs were all kept from it (`cold_items=0.1`) it goes from .014 to .026.
- Not covered: fine-tuning the encoders themselves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from model.cores import fixed_threads
from model.errors import BadInput
from model.features import features, features_state, principal, unit
from model.item_pairs import ItemPairs
from model.neighbours import nearest

__all__ = ["AlignmentConfig", "AlignmentResult", "align", "cooccurrence_share", "embed"]

INPUT_SCALE = 8.0  # unit vectors of some 300 entries, brought near unit variance for the first layer
EMBED_CHUNK = 65_536


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """The head and its training."""

    dim: int = 64
    """Length of c."""
    width: int = 128
    """Of each modality's projection; the MLP is twice as wide."""
    text_components: int = 384
    """Principal components of the text vectors, at most."""
    image_components: int = 256
    """Principal components of the image vectors, at most."""
    dropout: float = 0.1
    """On the joined projections and inside the MLP."""
    modality_dropout: float = 0.05
    """Share of items with both modalities that lose the text, and as many the image, in a training step."""
    temperature: float = 0.1
    """Of InfoNCE."""
    batch: int = 512
    """Pairs a step."""
    epochs: int = 10
    """At most."""
    max_steps: int = 20_000
    """At most, over all epochs; bounds the time on large catalogues."""
    learning_rate: float = 4e-3
    """Peak of a one-cycle schedule (AdamW)."""
    weight_decay: float = 1e-2
    """AdamW's."""
    hard_negatives: int = 0
    """Nearest non-partners added to every source's negatives; 0 for none."""
    held_out: float = 0.05
    """Share of unordered pairs kept from training to decide when to stop."""
    patience: int = 4
    """Epochs without a better held-out loss before stopping."""
    cold_items: float = 0.0
    """Share of items whose pairs are all kept from training, to measure how content alone places a new item; 0 in production."""
    seed: int = 0
    """Of everything random."""
    threads: int = 1
    """Torch threads; more than 1 may change the last bits of the result."""

    def __post_init__(self) -> None:
        whole = (
            self.dim,
            self.width,
            self.text_components,
            self.image_components,
            self.epochs,
            self.max_steps,
            self.threads,
        )
        if min(whole) < 1 or self.batch < 2 or self.hard_negatives < 0 or self.patience < 1:
            raise BadInput(f"{self} has a size below 1; give at least 1 everywhere, and a batch of 2 or more")
        if not (self.temperature > 0 and self.learning_rate > 0 and 0 <= self.dropout < 1):
            raise BadInput(
                f"temperature = {self.temperature}, learning_rate = {self.learning_rate}, dropout = {self.dropout} cannot train"
            )
        if not (0 <= self.modality_dropout <= 0.5 and 0 <= self.held_out < 1 and 0 <= self.cold_items < 1):
            raise BadInput(
                f"modality_dropout = {self.modality_dropout} goes from 0 to 0.5, held_out = {self.held_out} and "
                f"cold_items = {self.cold_items} from 0 to below 1"
            )


@dataclass(frozen=True, kw_only=True)
class AlignmentResult:
    """The embeddings, how well they agree with behavior, and what is needed to embed another item."""

    embeddings: NDArray[np.float32]
    """(N, dim), unit length."""
    metrics: dict[str, Any]
    """JSON values: method, loss and held-out loss per epoch, share of co-occurrence mass among 10 nearest before and after."""
    state: dict[str, NDArray[Any]]
    """Arrays for `embed`; storable with files.write_npz."""


def align(
    text: NDArray[np.float32],
    text_present: NDArray[np.bool_],
    image: NDArray[np.float32],
    image_present: NDArray[np.bool_],
    pairs: ItemPairs,
    config: AlignmentConfig,
    *,
    cooccurrence: Any = None,
    progress: bool = True,
) -> AlignmentResult:
    """Train the head on item-to-item pairs and embed the catalogue.

    text (N, dt), image (N, di): frozen encoders' vectors; rows where `*_present` (N,) is False are not looked at.
    pairs: from the training part of the logs only.
    cooccurrence: CSR (N, N) whose mass the shares in the metrics measure; the pairs' own weights where None.
    Raises BadInput where shapes disagree or a present vector holds NaN or infinity.
    """
    from model.alignment_training import train

    started = time.monotonic()
    n_items = pairs.n_items
    _check(text, text_present, "text", n_items)
    _check(image, image_present, "image", n_items)
    with fixed_threads(config.threads):
        state = features_state(text, text_present, "text", config.text_components)
        state |= features_state(image, image_present, "image", config.image_components)
        T, I = features(state, "text", text, text_present), features(state, "image", image, image_present)  # noqa: E741
        content_state = state | _content_head(T, I, config)
        before = embed(content_state, text, text_present, image, image_present)
        metrics: dict[str, Any] = {
            "items": n_items,
            "pairs": len(pairs),
            "with_text": int(text_present.sum()),
            "with_image": int(image_present.sum()),
            "without_content": int((~text_present & ~image_present).sum()),
        }
        reason = "fewer than three items" if n_items < 3 else "no item-to-item pairs" if not len(pairs) else None
        if reason is None:
            learned, curves = train(T, text_present, I, image_present, pairs, config, progress=progress)
            state |= learned
            metrics |= {"method": "infonce"} | curves
        else:
            state = content_state
            metrics |= {"method": "content_pca", "reason": reason, "loss": [], "held_out_loss": []}
        embeddings = embed(state, text, text_present, image, image_present)
    metrics["from_partners"] = _place_by_partners(embeddings, ~text_present & ~image_present, pairs)
    if n_items >= 3 and len(pairs):
        mass = _symmetric(pairs) if cooccurrence is None else cooccurrence
        cold = metrics.pop("cold")
        metrics["share_measured_on"] = "item_pairs" if cooccurrence is None else "cooccurrence"
        metrics |= _shares(before, embeddings, mass, np.array(cold, np.int64))
    metrics["seconds"] = round(time.monotonic() - started, 3)
    return AlignmentResult(embeddings=embeddings, metrics=metrics, state=state)


def embed(
    state: Mapping[str, NDArray[Any]],
    text: NDArray[np.float32],
    text_present: NDArray[np.bool_],
    image: NDArray[np.float32],
    image_present: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Place items by content alone, with the arrays of an earlier `align`: (N, dim) float32, unit length.

    This is the cold-start path; an item does not depend on the others in the call. Raises BadInput for other widths.
    """
    for name, vectors, present in (("text", text, text_present), ("image", image, image_present)):
        _check(vectors, present, name, len(text))
        if vectors.shape[1] != len(state[f"{name}_mean"]):
            raise BadInput(
                f"{name} vectors have {vectors.shape[1]} values, the head was made for {len(state[f'{name}_mean'])}; "
                "use the encoder it was trained with"
            )
    parts = []
    for start in range(0, len(text), EMBED_CHUNK):
        rows = slice(start, start + EMBED_CHUNK)
        T = features(state, "text", text[rows], text_present[rows])
        I = features(state, "image", image[rows], image_present[rows])  # noqa: E741
        parts.append(_head(state, T, text_present[rows], I, image_present[rows]))
    out = np.concatenate(parts) if parts else np.zeros((0, len(state["default"])), np.float32)
    return unit(out, state["default"])


def cooccurrence_share(
    vectors: NDArray[np.float32], mass: Any, *, k: int = 10, items: NDArray[np.int64] | None = None
) -> float:
    """Share of an item's co-occurrence mass that lies inside its k nearest neighbours, averaged over items that have any.

    vectors (N, d) unit length; mass CSR (N, N), empty diagonal; `items` restricts the average. 0.0 where no item has mass.
    Uniformly random vectors give about k / (N - 1).
    """
    total = np.asarray(mass.sum(axis=1), np.float64).ravel()
    rows = np.flatnonzero(total > 0) if items is None else items[total[items] > 0]
    if not len(rows):
        return 0.0
    index, _ = nearest(vectors, k)
    flat = np.repeat(rows, index.shape[1])
    column = index[rows].ravel()
    found = np.asarray(mass[flat, np.maximum(column, 0)], np.float64).ravel() * (column >= 0)
    return float((found.reshape(len(rows), -1).sum(axis=1) / total[rows]).mean())


# -- features: the same numpy path in training and for new items ---------------------------------------------------


def _check(vectors: NDArray[np.float32], present: NDArray[np.bool_], name: str, n_items: int) -> None:
    if vectors.ndim != 2 or len(vectors) != n_items or present.shape != (n_items,):
        raise BadInput(
            f"{name} vectors {vectors.shape} and presence {present.shape} do not fit {n_items} items; encode the catalogue again"
        )
    if not np.isfinite(vectors[present]).all():
        raise BadInput(f"{name} vectors hold NaN or infinity; encode the catalogue again")


def _content_head(T: NDArray[np.float32], I: NDArray[np.float32], config: AlignmentConfig) -> dict[str, NDArray[Any]]:  # noqa: E741
    """The untrained head: both modalities side by side, onto their common principal axes."""
    joined = np.hstack([T, I])
    _, axes = principal(joined, config.dim)
    matrix = np.zeros((joined.shape[1], config.dim), np.float32)
    matrix[:, : len(axes)] = axes.T
    default = np.zeros(config.dim, np.float32)
    default[-1] = 1
    return {"content": matrix, "default": default}


def _head(
    state: Mapping[str, NDArray[Any]],
    T: NDArray[np.float32],
    text_present: NDArray[np.bool_],
    I: NDArray[np.float32],  # noqa: E741
    image_present: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """`_Head.forward` (before its normalisation) in numpy."""
    if "content" in state:
        return np.asarray(np.hstack([T, I]) @ state["content"], np.float32)
    t = np.where(text_present[:, None], INPUT_SCALE * T @ state["text.weight"].T + state["text.bias"], state["no_text"])
    i = np.where(
        image_present[:, None], INPUT_SCALE * I @ state["image.weight"].T + state["image.bias"], state["no_image"]
    )
    x = np.hstack([t, i])
    normed = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    hidden = (normed * state["norm.weight"] + state["norm.bias"]) @ state["inner.weight"].T + state["inner.bias"]
    hidden = hidden / (1 + np.exp(-np.clip(hidden, -60, 60)))  # SiLU
    return np.asarray(
        x @ state["straight.weight"].T + hidden @ state["outer.weight"].T + state["outer.bias"], np.float32
    )


# -- what is measured ----------------------------------------------------------------------------------------------


def _symmetric(pairs: ItemPairs) -> Any:
    matrix = sparse.csr_matrix((pairs.weight, (pairs.source, pairs.target)), shape=(pairs.n_items, pairs.n_items))
    return ((matrix + matrix.T) / 2).tocsr()


def _place_by_partners(embeddings: NDArray[np.float32], bare: NDArray[np.bool_], pairs: ItemPairs) -> int:
    """Items without content move, in place, to the weighted mean of their partners that have content; returns how many."""
    weights = _symmetric(pairs)[bare] @ sparse.diags((~bare).astype(np.float32))
    has = np.asarray(weights.sum(axis=1)).ravel() > 0
    rows = np.flatnonzero(bare)[has]
    if len(rows):
        embeddings[rows] = unit(np.asarray(weights[has] @ embeddings), embeddings[rows])
    return len(rows)


def _shares(
    before: NDArray[np.float32], after: NDArray[np.float32], mass: Any, cold: NDArray[np.int64]
) -> dict[str, float]:
    out = {
        "share_uniform": 10 / max(len(after) - 1, 10),
        "share_before": cooccurrence_share(before, mass),
        "share_after": cooccurrence_share(after, mass),
    }
    if len(cold):
        out["share_cold_before"] = cooccurrence_share(before, mass, items=cold)
        out["share_cold_after"] = cooccurrence_share(after, mass, items=cold)
    return {name: round(value, 5) for name, value in out.items()}
