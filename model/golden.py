"""Golden requests: a few histories with the answers they got when a bundle was made, so that any process can tell whether it
serves the same thing.

- The file is `golden.npz` in the bundle: history (G, T) int64 padded with -1 on the left, items (G, k) int64, scores (G, k).
- Another machine's last bits differ: scores may move by `TOLERANCE`, and items whose scores lie that close to the last
  one may change places with what came after it. Anything more is another answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput, Corrupt
from model.files import read_npz, write_npz
from model.histories import left_padded
from model.retriever import Retriever

__all__ = ["GOLDEN", "TOLERANCE", "check_golden", "write_golden"]

GOLDEN = "golden.npz"
TOLERANCE = 1e-4


def write_golden(folder: Path, retriever: Retriever, histories: Sequence[NDArray[np.integer]], *, k: int = 10) -> None:
    """Ask `retriever` for the best k items of each history (items of the history excluded) and keep the answers.

    k is cut to what the retriever can find. Raises BadInput where there is no history.
    """
    if not len(histories):
        raise BadInput("golden requests need at least one history; ingest behaviors first")
    k = max(1, min(k, retriever.n_items, int(getattr(retriever, "beam", k))))
    items, scores = retriever.recommend(histories, k)
    write_npz(folder / GOLDEN, {"history": left_padded(histories), "items": items, "scores": scores})


def check_golden(folder: Path, retriever: Retriever) -> int:
    """Ask again; returns how many requests got their answer, which is all of them.

    Raises Corrupt naming the first request that got another one, or where the file is missing or of another shape.
    """
    try:
        arrays = read_npz(folder / GOLDEN)
        history, items, scores = arrays["history"], arrays["items"], arrays["scores"]
    except (FileNotFoundError, KeyError) as error:
        raise Corrupt(f"{folder} holds no golden requests ({error}); run `miss materialize` again") from error
    if history.ndim != 2 or not len(history) or items.shape != scores.shape or len(items) != len(history):
        raise Corrupt(f"{folder / GOLDEN} has arrays that do not belong together; run `miss materialize` again")
    got_items, got_scores = retriever.recommend([row[row >= 0] for row in history], items.shape[1])
    for row in range(len(history)):
        finite = np.isfinite(scores[row])
        same = np.array_equal(finite, np.isfinite(got_scores[row]))
        error_ = float(np.abs(scores[row][finite] - got_scores[row][finite]).max(initial=0.0)) if same else np.inf
        clear = finite & (scores[row] > scores[row].min() + 2 * TOLERANCE)
        if not error_ <= TOLERANCE or not np.isin(items[row][clear], got_items[row]).all():
            raise Corrupt(
                f"{folder} answers golden request {row + 1} of {len(history)} with other items or scores (largest difference "
                f"{error_:.2g}) than when it was made; do not serve it, run `miss materialize` again"
            )
    return len(history)
