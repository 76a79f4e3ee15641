"""What a search through the tree is measured against: every item by the same model, and dot products through FAISS.

- Everything of the model runs in ONNX Runtime, on both sides, with as many threads. Three small graphs come from the modules that
  the search is exported from: the short reading alone, the whole reading of a user, and the score of given items for what was
  read. A user who is re-scored is read once.
- Dot products are h . e_leaf + bias, the bias as one more coordinate, over float32 vectors. FAISS is used directly, with both
  cores: `model.hnsw` is one thread's, and orders what it found again. HNSW is built as there, over L2 distances with a coordinate
  that makes their order that of products (Bachrach et al., RecSys 2014).
- Seen items are left out after the index has answered: it is asked for twice as many as are wanted, and again for those who are
  left with too few.
- Re-scoring orders the best 400 by the full score, lifelong units and all, of which the best are returned.

What is not equal: the graph of scores holds inner nodes too, whose tables it never reads; its memory is no less than the tree's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.histories import left_padded, length_batches
from model.ranking import flatten, top_k
from model.retriever import Retriever

if TYPE_CHECKING:
    from torch import Tensor

    from model.beam_search import BeamSearch

__all__ = ["INDICES", "SHORTLIST", "DotProduct", "Everything", "export_peers", "vectors", "write_indices"]

Histories = Sequence[NDArray[np.integer]]
INDICES = ("flat", "IVF", "HNSW")
SHORTLIST = 400
SLICE = 2**15
"""Items x users scored at a time where every item is, as `model.exhaustive` does."""
LINKS, CONSTRUCTION, WIDTH = 16, 40, 400
"""HNSW's: with more, a million items take minutes to add, for a hundredth of recall."""
PROBED = 1 / 16
"""Share of IVF's lists that are searched, or as many as hold some four shortlists where that is more."""


def vectors(search: BeamSearch) -> NDArray[np.float32]:
    """(N, d + 1) of each item, its bias last."""
    tables, leaves = search.tables, search.model.item_leaf
    return np.column_stack([tables.e[leaves].numpy(), tables.bias[leaves].numpy()])


def write_indices(items: NDArray[np.float32], folder: Path, *, threads: int) -> None:
    """An index a kind over items (N, d + 1): KIND.faiss."""
    import faiss

    faiss.omp_set_num_threads(threads)
    n, dim = items.shape
    lists = max(1, round(n**0.5))
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    ivf.train(items[np.random.default_rng(0).permutation(n)[: 40 * lists]])
    ivf.nprobe = min(lists, max(round(PROBED * lists), -(-4 * SHORTLIST * lists // n)))
    squares = np.square(items).sum(1)
    last = np.sqrt(np.maximum(squares.max() - squares, 0))
    hnsw = faiss.IndexHNSWFlat(dim + 1, LINKS, faiss.METRIC_L2)
    hnsw.hnsw.efConstruction = CONSTRUCTION
    for kind, index in (("flat", faiss.IndexFlatIP(dim)), ("IVF", ivf), ("HNSW", hnsw)):
        index.add(np.column_stack([items, last]) if kind == "HNSW" else items)
        faiss.write_index(index, str(folder / f"{kind}.faiss"))


# -- graphs ------------------------------------------------------------------------------------------------------------


def _tensors(read: Any) -> Iterator[Tensor]:
    """All tensors of what was read of users, in order."""
    import torch

    if isinstance(read, torch.Tensor):
        yield read
    elif isinstance(read, tuple):
        for each in read:
            yield from _tensors(each)
    elif is_dataclass(read):
        yield from _tensors(tuple(getattr(read, field.name) for field in fields(read)))


def _with_tensors(read: Any, given: Iterator[Tensor]) -> Any:
    """The same with other tensors in the same places."""
    import torch

    if isinstance(read, torch.Tensor):
        return next(given)
    if isinstance(read, tuple):
        return tuple(_with_tensors(each, given) for each in read)
    if is_dataclass(read) and not isinstance(read, type):
        return replace(read, **{f.name: _with_tensors(getattr(read, f.name), given) for f in fields(read)})
    return read


def export_peers(search: BeamSearch, folder: Path) -> None:
    """short.onnx: history (B, T) -> h (B, d); reading.onnx: history -> all that is read; score.onnx: items, that -> (B, n)."""
    import torch
    from torch import nn

    from model.exhaustive import short_reading

    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.search = search

        def forward(self, history: Tensor) -> Tensor:
            return short_reading(self.search, history)

    class Reading(Short):
        def forward(self, history: Tensor) -> list[Tensor]:  # type: ignore[override]
            # an output of its own each: a graph may not hand on one tensor under two names
            return [tensor.clone() for tensor in _tensors(self.search.read(history))]

    class Score(Short):
        def forward(self, items: Tensor, read: list[Tensor]) -> Tensor:  # type: ignore[override]
            user = _with_tensors(known, iter(read))
            return self.search.model.score(user, self.search.model.item_leaf[items], self.search.tables)

    history = torch.from_numpy(np.random.default_rng(0).integers(0, search.n_items, (3, 7)))
    with torch.no_grad():
        known, other = search.read(history), search.read(history[:2])
    batch, length, shortlist = (torch.export.Dim(name, min=1) for name in ("batch", "length", "shortlist"))
    shape = {0: batch, 1: length}
    first = list(_tensors(known))
    names = [f"read_{place}" for place in range(len(first))]
    rows = [{0: batch} if one.shape != two.shape else {} for one, two in zip(first, _tensors(other), strict=True)]
    _export(Short(), (history,), ({**shape},), ["history"], ["h"], folder / "short.onnx")
    _export(Reading(), (history,), ({**shape},), ["history"], names, folder / "reading.onnx")
    items = history[:, :5].clone()
    _export(
        Score(), (items, first), ({0: batch, 1: shortlist}, rows), ["items", *names], ["scores"], folder / "score.onnx"
    )


def _export(module: Any, given: Any, shapes: Any, inputs: list[str], outputs: list[str], path: Path) -> None:
    import torch

    from model.onnx_export import OPSET

    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            given,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=True)


def session(path: Path, threads: int, *, spinning: bool = True) -> Any:
    """A session as `model.onnx_search` opens its own; spinning: its threads stay awake between calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# -- retrievers --------------------------------------------------------------------------------------------------------


class _Read(Retriever):
    """Reads users in batches of similar length, as the search through the tree does."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def recommend(
        self, histories: Histories, k: int, *, exclude: Histories | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`."""
        items = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        gone = histories if exclude is None else exclude
        for rows in length_batches([len(history) for history in histories]):
            items[rows], scores[rows] = self._best(
                left_padded([histories[row] for row in rows]), k, [gone[row] for row in rows]
            )
        return items, scores

    def _best(
        self, history: NDArray[np.int64], k: int, gone: Histories
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        raise NotImplementedError


class Everything(_Read):
    """Every item by the full score, a slice at a time."""

    name = "every item"

    def __init__(self, folder: Path, n_items: int, *, threads: int) -> None:
        super().__init__(n_items)
        self.reading, self.score = (session(folder / f"{name}.onnx", threads) for name in ("reading", "score"))

    def _best(
        self, history: NDArray[np.int64], k: int, gone: Histories
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        read = dict(zip(_given(self.score), self.reading.run(None, {"history": history}), strict=True))
        step = max(1, SLICE // len(history))
        scores = np.empty((len(history), self.n_items), dtype=np.float32)
        for begin in range(0, self.n_items, step):
            items = np.arange(begin, min(begin + step, self.n_items))
            part = np.ascontiguousarray(np.broadcast_to(items, (len(history), len(items))))
            scores[:, items] = self.score.run(None, {"items": part} | read)[0]
        return top_k(scores, k, flatten(gone, self.n_items))


class DotProduct(_Read):
    """The nearest by dot product, ordered by it or by the full score."""

    def __init__(self, folder: Path, n_items: int, *, kind: str, rescored: bool, threads: int) -> None:
        super().__init__(n_items)
        import faiss

        faiss.omp_set_num_threads(threads)
        self.name, self.kind = f"{kind}, re-scored" if rescored else kind, kind
        self.index = faiss.read_index(str(folder / f"{kind}.faiss"))
        # threads that stay awake take the cores from FAISS's: a flat scan after a reading took twice as long
        asleep = {"threads": threads, "spinning": False}
        self.reading = session(folder / ("reading.onnx" if rescored else "short.onnx"), **asleep)
        self.score = session(folder / "score.onnx", **asleep) if rescored else None
        self.shortlist = SHORTLIST if rescored else 0
        self._seen = np.zeros(n_items, dtype=bool)

    def _best(
        self, history: NDArray[np.int64], k: int, gone: Histories
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        read = self.reading.run(None, {"history": history})
        if self.score is None:
            return self._nearest(read[0], k, gone)
        found, _ = self._nearest(read[0], min(SHORTLIST, self.n_items), gone)
        given = dict(zip(_given(self.score), read, strict=True))
        scores = self.score.run(None, {"items": np.maximum(found, 0)} | given)[0]
        scores = np.where(found >= 0, scores, -np.float32(np.inf))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1)

    def _nearest(
        self, h: NDArray[np.float32], k: int, gone: Histories
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best items of each row without those it has seen; h (B, d)."""
        import faiss

        queries = np.column_stack([h, np.ones(len(h), np.float32)])
        if self.kind == "HNSW":
            queries = np.column_stack([queries, np.zeros(len(h), np.float32)])
        items = np.full((len(h), k), -1, dtype=np.int64)
        scores = np.full((len(h), k), -np.inf, dtype=np.float32)
        ask, pending = min(2 * k, self.n_items), np.arange(len(h))
        while len(pending):
            wide = faiss.SearchParametersHNSW(efSearch=max(WIDTH, ask)) if self.kind == "HNSW" else None
            score, found = self.index.search(queries[pending], ask, params=wide)
            enough = []
            for row, candidates, values in zip(pending.tolist(), found, score, strict=True):
                self._seen[gone[row]] = True
                kept = np.flatnonzero((candidates >= 0) & ~self._seen[candidates])[:k]
                self._seen[gone[row]] = False
                items[row, : len(kept)], scores[row, : len(kept)] = candidates[kept], values[kept]
                # an index that has said -1 has nothing more to say
                enough.append(len(kept) == k or ask == self.n_items or candidates[-1] < 0)
            pending, ask = pending[~np.array(enough)], min(2 * ask, self.n_items)
        return items, scores


def _given(score: Any) -> list[str]:
    """Names of what the graph of scores is given besides items, in the order of what was read."""
    return [each.name for each in score.get_inputs()[1:]]


def dot_products(kind: str, n_items: int) -> Callable[[], float]:
    """How many products FAISS has formed since the last call."""
    import faiss

    stats = {"IVF": faiss.cvar.indexIVF_stats, "HNSW": faiss.cvar.hnsw_stats}.get(kind)

    def since() -> float:
        if stats is None:
            return float(n_items)
        found = float(stats.ndis)
        stats.reset()
        return found

    return since
