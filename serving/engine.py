"""What answers requests: one promoted bundle, checked byte by byte, behind ids and titles.

- Digests first: a bundle is verified against its manifest before anything in it is parsed.
- `recommend` speaks item indices (the contract of `model.retriever`), everything below it speaks ids.
- What a user has seen is never recommended. Who has not been seen is offered what is popular, and told so.

Not covered: picking up a newer bundle (`serving.live`), batching of concurrent requests (`serving.batching`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput, Corrupt, NotReady
from model.files import read_json, read_npz, verify_dir
from model.golden import check_golden
from model.onnx_search import OnnxSearch
from model.retriever import check_k
from serving.catalogue import Catalogue, Recommended
from serving.histories import HISTORIES, StoredHistories
from serving.node_names import NodeNames
from serving.pictures import Pictures
from serving.search import Searcher
from serving.why import Explainer, Why

__all__ = ["Engine", "Recommended"]

GRAPH, ITEMS, POPULARITY, EVALUATION = "retrieval.onnx", "items.npz", "popularity.npz", "evaluation.json"


class Engine(OnnxSearch):
    """The bundle in `folder`, ready to answer; `version` is what the registry calls it."""

    name = "MISS (ONNX)"

    def __init__(self, folder: Path, *, version: str = "", digest: str = "", threads: int = 0) -> None:
        """Verify and load; threads 0 is one per core. digest: the bundle that is meant, any where empty.

        Raises NotReady where `folder` holds no bundle, Corrupt where its bytes are not those of its manifest, are another
        bundle's, or do not belong together.
        """
        try:
            manifest = verify_dir(folder)
        except FileNotFoundError as error:
            raise NotReady(f"{folder} holds no bundle; run `miss materialize`, which makes and promotes one") from error
        self.folder, self.version, self.digest = folder, version, str(manifest["digest"])
        if digest and digest != self.digest:
            raise Corrupt(f"{folder} holds bundle {self.digest[:16]}, not {digest[:16]} as registered; delete it")
        self.meta: dict[str, Any] = manifest["meta"]
        try:
            model = self.meta["model"]
            items, counts = read_npz(folder / ITEMS), read_npz(folder / POPULARITY)["counts"]
            self.item_id, self.title, self.categories = items["item_id"], items["title"], items["categories"]
            sizes = {len(self.item_id), len(self.title), len(self.categories), len(counts), int(model["n_items"])}
            beam, self.max_history = int(model["beam"]), int(model.get("max_history") or 0)
        except (FileNotFoundError, KeyError, TypeError) as error:
            raise Corrupt(f"{folder} lacks {error}, so it is no bundle; run `miss materialize` again") from error
        if len(sizes) != 1:
            raise Corrupt(
                f"{folder} has tables of {min(sizes)} and of {max(sizes)} items; run `miss materialize` again"
            )
        super().__init__(folder / GRAPH, n_items=len(self.item_id), beam=beam, threads=threads)
        self.counts: NDArray[np.int64] = counts
        self.pictures = pictures = Pictures.load(folder, n_items=self.n_items)
        self.catalogue = Catalogue(
            item_id=self.item_id,
            title=self.title,
            categories=self.categories,
            counts=self.counts,
            pictured=lambda item: pictures is not None and pictures.has(item),
        )
        # read now: the folder may be gone while the engine still answers
        self.evaluation: dict[str, Any] = read_json(folder / EVALUATION) if (folder / EVALUATION).exists() else {}
        self.names = NodeNames.load(folder, n_items=self.n_items)
        self.why = Explainer.load(folder, self.names, max_history=self.max_history, threads=threads)
        stored = folder / HISTORIES
        self.histories = StoredHistories.load(stored, n_items=self.n_items) if stored.exists() else None
        self.searcher = Searcher(folder, n_items=self.n_items) if Searcher.available(folder) else None

    # -- by index ------------------------------------------------------------------------------------------------------

    def recommend(
        self,
        histories: Sequence[NDArray[np.integer]],
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`; BadInput also for k beyond the beam and for an index outside the catalogue.

        Of a history longer than the bundle's `max_history` the newest part is read; all of it is excluded.
        """
        histories = [self._indices(history) for history in histories]
        # once each: what is excluded is padded to the longest of a batch
        gone = [np.unique(self._indices(each)) for each in (histories if exclude is None else exclude)]
        if len(gone) != len(histories):
            raise BadInput(f"{len(histories)} histories came with {len(gone)} lists of excluded items; give one each")
        read = [history[-self.max_history :] for history in histories] if self.max_history else histories
        return super().recommend(read, k, exclude=gone)

    def _indices(self, items: NDArray[np.integer]) -> NDArray[np.int64]:
        indices = np.asarray(items)
        if not len(indices):
            return np.zeros(0, dtype=np.int64)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise BadInput(
                f"a history is one row of item indices, not {indices.dtype} of shape {indices.shape}; give integers"
            )
        odd = (indices < 0) | (indices >= self.n_items)
        if odd.any():
            raise BadInput(
                f"item index {int(indices[odd][0])} is not in the catalogue, which has 0 to {self.n_items - 1}"
            )
        return indices.astype(np.int64)

    # -- by id ---------------------------------------------------------------------------------------------------------

    def recommend_ids(
        self, history_ids: Sequence[str], k: int, *, exclude_ids: Sequence[str] = ()
    ) -> list[Recommended]:
        """Best k items after `history_ids` (oldest first), neither of it nor of `exclude_ids`; fewer where no more are left.

        Raises BadInput for ids the model does not know, naming them, and for k out of range.
        """
        return self._answer(self.to_indices(history_ids), k, exclude_ids)

    def recommend_user(self, user: str, k: int, *, exclude_ids: Sequence[str] = ()) -> list[Recommended] | None:
        """The same after the history that the bundle holds of `user`; None where it holds none."""
        history = self.stored(user)
        return None if history is None else self._answer(history, k, exclude_ids)

    def popular_items(
        self, k: int, *, exclude_ids: Sequence[str] = (), categories: Sequence[str] = ()
    ) -> list[Recommended]:
        """The k items with most behaviors, which are their scores: what to offer a user nothing is known of.

        Raises as `recommend_ids` does.
        """
        check_k(k, self.n_items)
        order = self.catalogue.by_popularity
        left = order[~np.isin(order, self.excluded(exclude_ids, categories))][:k]
        return self.catalogue.named(left, self.counts[left])

    def stored(self, user: str) -> NDArray[np.int64] | None:
        """Item indices of a known user, oldest first; None where the bundle does not hold them."""
        history = self.histories.lookup(user) if self.histories is not None else None
        return None if history is None else history.astype(np.int64)

    def excluded(self, item_ids: Sequence[str], categories: Sequence[str]) -> NDArray[np.int64]:
        """Indices of items, and of all that have none of `categories` where any is named; raises as `recommend_ids` does."""
        return np.concatenate([self.to_indices(item_ids), self.catalogue.outside(categories)])

    def to_indices(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """(n,) int64 indices of ids; BadInput naming those the catalogue does not have."""
        return self.catalogue.to_indices(item_ids)

    def explain(self, history: NDArray[np.integer], items: NDArray[np.integer]) -> list[Why]:
        """Why each of items (k,) scores as it does after history (T,); BadInput where the bundle tells no reasons."""
        if self.why is None:
            raise BadInput("the promoted bundle was made without explanations; run `miss materialize`, or ask without")
        return self.why.explain(history, items)

    def _answer(self, history: NDArray[np.int64], k: int, exclude_ids: Sequence[str]) -> list[Recommended]:
        gone = np.concatenate([history, self.to_indices(exclude_ids)])
        items, scores = self.recommend([history], k, exclude=[gone])
        return self.catalogue.named(items[0], scores[0])

    # -- the gate ------------------------------------------------------------------------------------------------------

    def check_golden(self) -> int:
        """Answer the bundle's golden requests; returns how many there are, raises Corrupt where an answer differs."""
        return check_golden(self.folder, self)
