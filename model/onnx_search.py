"""The exported search as a retriever: ONNX Runtime and numpy, no torch. Serving and evaluation use this one.

- Users go to the session in batches of similar history length, so that little of a batch is padding.
- The graph answers at most `beam` items; a request for more is refused, not cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput, Corrupt
from model.histories import left_padded, length_batches
from model.retriever import Retriever, check_k

__all__ = ["OnnxSearch"]


class OnnxSearch(Retriever):
    """Answers through `retrieval.onnx`."""

    name = "MISS (ONNX)"

    def __init__(self, graph: Path, *, n_items: int, beam: int, threads: int = 0) -> None:
        """Load a graph made by `model.onnx_export.export_search`; threads 0 is one per core.

        Raises Corrupt where ONNX Runtime cannot load the file.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own classes, derived from Exception only
            raise Corrupt(f"{graph} is not a graph that ONNX Runtime can load; run `miss materialize` again") from error
        self.n_items, self.beam = n_items, min(beam, n_items)

    def check_k(self, k: int) -> None:
        """Raise BadInput unless a search can find k items."""
        check_k(k, self.n_items)
        if k > self.beam:
            raise BadInput(f"k = {k} is beyond this index's beam: a search finds at most {self.beam} items")

    def run(
        self, history: NDArray[np.int64], excluded: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """One call of the graph: history (B, T), -1 on the left; excluded (B, X), -1 for none; its outputs, see the export."""
        told = {"history": history, "excluded": np.sort(excluded, axis=1)}
        items, scores, co, mm = self.session.run(["items", "scores", "co_behaviors", "mm_behaviors"], told)
        return items, scores, co, mm

    def recommend(
        self,
        histories: Sequence[NDArray[np.integer]],
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`; BadInput also for k beyond the beam, which bounds what a search can find."""
        self.check_k(k)
        out_items = np.full((len(histories), k), -1, dtype=np.int64)
        out_scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        gone = histories if exclude is None else exclude
        for rows in length_batches([len(h) for h in histories]):
            items, scores, *_ = self.run(
                left_padded([histories[r] for r in rows]), left_padded([gone[r] for r in rows])
            )
            out_items[rows], out_scores[rows] = items[:, :k], scores[:, :k]
        return out_items, out_scores
