"""One space for what is searched and what it is searched with: texts, pictures, or both, against items that have either or both.

- An item is four vectors side by side: its text and its picture, each as its own encoder sees it (nearly: a learnt linear map,
  begun at the identity, brings a sentence nearer to the text it is from, and a crop nearer to its picture), and both again in
  a joint space where texts and pictures meet. So is a query; what it has not got is zero.
- The score is a weighted sum of four cosines, one for each pair of what the query has and what the item has: text to text,
  picture to picture, text to picture, picture to text. The weights are learnt by telling the right item from the others
  (multi-vector queries, after MQA: Wang et al., 2024), and the caller may weigh text against picture on top.
- A weighted sum of cosines is one inner product of the vectors put side by side, the weights on the query's side: any index
  for inner products finds the best items, whatever the weights. Two more coordinates tell which modality an item lacks, and
  what that is worth is learnt too: an item without a picture is neither the best nor the worst match for a picture.
- Training is `model.search_space_training`, by torch; here is numpy alone, as for `alignment.embed`.

Not covered: words as such. A name that the text encoder does not know is found by `GET /v1/items?query=`, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput
from model.features import features, unit

__all__ = ["MISSING", "PAIRS", "Flags", "Floats", "SearchSpace", "SearchSpaceConfig"]

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
PAIRS = ("text_text", "image_image", "text_image", "image_text")
"""What the query has, and what of the item it is held against; the order of the blocks and of the weights."""
MISSING = ("no_text", "no_image")


@dataclass(frozen=True, kw_only=True)
class SearchSpaceConfig:
    """The heads and their training."""

    dim: int = 64
    """Of the joint space."""
    text_components: int = 256
    """Principal components of the text vectors, at most."""
    image_components: int = 512
    """Principal components of the image vectors, at most."""
    queries: int = 1000
    """Items, at most, of which sentences and altered pictures are made to train on; encoding them is what training costs."""
    temperature: float = 0.05
    """Of InfoNCE."""
    batch: int = 512
    """Items a step."""
    epochs: int = 60
    """At most."""
    learning_rate: float = 2e-3
    """AdamW's, down to zero along a cosine."""
    pull: float = 0.1
    """How strongly the two maps are held to the identity, and the joint heads (a thousandth of it) to zero."""
    dropout: float = 0.2
    """On the features, in training."""
    modality_dropout: float = 0.15
    """Share of items that lose the text, and as many the picture, where the weights are learnt."""
    wrong_modality: bool = True
    """Modality-aware hard negatives (MM-Embed): who asks a text for a picture is shown texts too, the right item's own first."""
    held_out: float = 0.2
    """Share of items kept from the heads, by which training stops and the weights are learnt."""
    seed: int = 0
    """Of everything random."""
    threads: int = 1
    """Torch threads; more than 1 may change the last bits of the result."""

    def __post_init__(self) -> None:
        """Raises BadInput for what cannot train."""
        whole = (self.dim, self.text_components, self.image_components, self.epochs, self.threads)
        if min(whole) < 1 or self.batch < 2 or self.queries < 0:
            raise BadInput(f"{self} has a size below 1; give at least 1 everywhere, and a batch of 2 or more")
        if not (self.temperature > 0 and self.learning_rate > 0 and self.pull >= 0):
            raise BadInput(f"temperature = {self.temperature}, learning_rate = {self.learning_rate} cannot train")
        if not (0 <= self.dropout < 1 and 0 <= self.modality_dropout <= 0.5 and 0 < self.held_out < 1):
            raise BadInput(
                f"dropout = {self.dropout} goes from 0 to below 1, modality_dropout = {self.modality_dropout} from 0 to 0.5, "
                f"held_out = {self.held_out} lies between 0 and 1"
            )


class SearchSpace:
    """The trained heads and weights: vectors of items (N, D) and of queries (B, D) whose inner product is the score."""

    def __init__(self, state: Mapping[str, NDArray[Any]]) -> None:
        """state: arrays as `search_space_training.train` makes them. Raises BadInput where one is missing."""
        self.state = dict(state)
        try:
            r, s = (len(self.state[f"{name}_axes"]) for name in ("text", "image"))
            d = self.state["joint_text"].shape[1]
            fits = [self.state[n].shape for n in ("own_text", "own_image", "joint_text", "joint_image", "weights")]
            fits += [self.state[f"asks_{name}"].shape for name in ("text", "image")]
        except (KeyError, IndexError) as error:
            raise BadInput(f"these arrays are no search space ({error}); run `miss materialize` again") from error
        if fits != [(r, r), (s, s), (r, d), (s, d), (len(PAIRS) + len(MISSING),), (d,), (d,)]:
            raise BadInput(f"a search space of shapes {fits} does not fit together; run `miss materialize` again")
        self.widths = (r, s, d, d)
        self.dim = sum(self.widths) + len(MISSING)

    @property
    def weights(self) -> dict[str, float]:
        """Of the four pairs, and what an item is worth that lacks a modality."""
        return dict(zip((*PAIRS, *MISSING), map(float, self.state["weights"]), strict=True))

    def items(self, text: Floats, text_present: Flags, image: Floats, image_present: Flags) -> Floats:
        """Items as the encoders see them, text (N, dt), image (N, di), present (N,) each: (N, D) float32.

        Raises BadInput for vectors of another encoder's width, and NaN.
        """
        from threadpoolctl import threadpool_limits

        absent = ~np.stack([text_present, image_present], axis=1)
        with threadpool_limits(1, user_api="blas"):  # a nightly bundle is the last one where nothing has changed
            t, i = self._features("text", text, text_present), self._features("image", image, image_present)
            blocks = [self._own("text", t), self._own("image", i), self._joint("image", i), self._joint("text", t)]
        return np.hstack([*blocks, absent.astype(np.float32)])

    def queries(
        self,
        text: Floats,
        text_present: Flags,
        image: Floats,
        image_present: Flags,
        *,
        shares: tuple[float, float] = (1.0, 1.0),
    ) -> Floats:
        """Queries as the encoders see them, shapes as for `items`: (B, D) float32.

        shares: what text and picture count where a query has both, on top of what was learnt; (2, 1) doubles the text.
        Raises BadInput for negative or no shares, and as `items` does.
        """
        t, i = self._features("text", text, text_present), self._features("image", image, image_present)
        if not (min(shares) >= 0 and 0 < sum(shares) < np.inf):
            raise BadInput(f"weights of {shares[0]:g} for the text and {shares[1]:g} for the picture; give one above 0")
        both = text_present & image_present  # a query of one modality is that, whatever the shares
        by_t, by_i = (
            np.where(both, share, there).astype(np.float32)[:, None]
            for share, there in zip(shares, (text_present, image_present), strict=True)
        )
        w = self.state["weights"].astype(np.float32)
        blocks = [
            w[0] * by_t * self._own("text", t),
            w[1] * by_i * self._own("image", i),
            w[2] * by_t * self._joint("text", t, asks=True),
            w[3] * by_i * self._joint("image", i, asks=True),
            # what an item lacks is made good for by as much as it would have counted
            w[4] * (w[0] * by_t + w[3] * by_i),
            w[5] * (w[1] * by_i + w[2] * by_t),
        ]
        return np.hstack(blocks).astype(np.float32)

    def _features(self, name: str, vectors: Floats, present: Flags) -> Floats:
        wanted = len(self.state[f"{name}_mean"])
        if vectors.ndim != 2 or present.shape != (len(vectors),) or vectors.shape[1] != wanted:
            raise BadInput(
                f"{name} vectors of shape {vectors.shape} do not fit a search space made for {wanted} values each; use the "
                "encoder it was made with"
            )
        if not np.isfinite(vectors[present]).all():
            raise BadInput(f"{name} vectors hold NaN or infinity; encode them again")
        return features(self.state, name, vectors, present)

    def _own(self, name: str, rows: Floats) -> Floats:
        return _unit(rows @ self.state[f"own_{name}"])

    def _joint(self, name: str, rows: Floats, *, asks: bool = False) -> Floats:
        """In the joint space; a query that `asks` for the other modality is moved by what training found between the two."""
        moved = _unit(rows @ self.state[f"joint_{name}"])
        if asks:
            there = (np.abs(rows) > 0).any(axis=1, keepdims=True)
            moved = _unit(moved + np.where(there, self.state[f"asks_{name}"], 0))
        return moved


def _unit(rows: Floats) -> Floats:
    """Rows to unit length, zero rows left as they are."""
    return unit(rows, np.zeros(rows.shape[1], np.float32))
