"""Why an item scored as it did: the behaviors that each search unit attended to, and the scores on the way down to it.

- The same torch modules as the search, and the same functions in them: `MISS.attention` is what `MISS.score` attends with, so a
  weight told here is the weight that made the score.
- A graph of its own, `explain.onnx`: a search pays nothing for it, and it is asked only about items that are shown.
- Where the search's tables lie in a file beside its graph, this graph reads the same file; where they are inside it, which is
  below `onnx_export.BESIDE`, this graph has its own copy.

Not covered: what the short reading (the recent behaviors as a sequence) and the counted transitions add to a score; neither is
an attention over the history that could be pointed at. Weights are of the leaf: its ancestors have their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.beam_search import BeamSearch
from model.dense_training import pad_left
from model.files import write_bytes
from model.lifelong import Attention
from model.onnx_export import export_graph, graph_files
from model.scorer import Kept

__all__ = ["EXPLAIN_OUTPUTS", "Explanation", "check_explanation", "export_explanation"]

EXPLAIN_INPUTS = ("history", "items")
EXPLAIN_OUTPUTS = ("co_columns", "co_weights", "mm_columns", "mm_weights", "path_nodes", "path_scores")


class Explanation(nn.Module):
    """Explains the answers of `search`."""

    def __init__(self, search: BeamSearch, *, behaviors: int = 8) -> None:
        """behaviors: told of each unit, at most."""
        super().__init__()
        self.search = search
        self.behaviors = min(behaviors, search.model.config.lifelong.kept)

    def _path(self, items: Tensor) -> Tensor:
        """(B, k, L) nodes over items (B, k), from the level where the search starts down to the leaf."""
        search, rows = self.search, items.reshape(-1)
        node = search.item_start.index_select(0, rows).to(torch.int64) + search.offsets[search.start]
        turns, path = search.item_turns.index_select(0, rows).to(torch.int64), [node]
        for turn in turns.unbind(-1):
            node = search.child_table.index_select(0, node).gather(1, turn[:, None])[:, 0]
            path.append(node)
        return torch.stack(path, dim=-1).reshape(*items.shape, len(path))

    def _strongest(self, attention: Attention | None, kept: Kept | None, asked: Tensor) -> tuple[Tensor, Tensor]:
        """(B, k, m) columns of the history, heaviest first, -1 for none, and their shares of the attention, 0 there."""
        if attention is None or kept is None:
            nothing = torch.full_like(asked[:, :, None], -1, dtype=torch.int64)
            return nothing, nothing.to(torch.float32) * 0
        top = torch.topk(attention.shares(), self.behaviors, dim=-1)
        columns = kept.columns[:, None, :].expand(-1, asked.shape[1], -1).gather(2, top.indices) - self.search.pad
        there = (top.values > 0) & asked[:, :, None]
        return torch.where(there, columns, -1), torch.where(there, top.values, 0.0)

    def forward(self, history: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """history (B, T) int64 oldest first, -1 on the left; items (B, k) int64, -1 for none.

        Returns of each unit the columns of the history it attended to (B, k, m) and their weights, and the nodes (B, k, L)
        from the level where the search starts down to the item, and their scores; -1 and -inf where the item is -1.
        """
        search = self.search
        tables, user = search.tables, search.read(history)
        asked = items >= 0
        path = self._path(items.clamp(min=0))
        scores = search.model.score(user, path.flatten(1), tables).reshape(path.shape)
        co, mm = search.model.attention(user, path[:, :, -1], tables)
        of_co = self._strongest(co, user.co, asked)
        of_mm = self._strongest(mm, None if user.mm is None else user.mm[0], asked)
        told = torch.where(asked[:, :, None], path, -1), torch.where(asked[:, :, None], scores, -torch.inf)
        return *of_co, *of_mm, *told


def export_explanation(explanation: Explanation, path: Path, *, beside: Path) -> None:
    """Write `explanation` as an ONNX file, atomically; `beside` is the search's graph in the same folder.

    Inputs and outputs are those of `Explanation.forward`, by the names `EXPLAIN_INPUTS` and `EXPLAIN_OUTPUTS`.
    """
    import onnx

    batch, length, count = (torch.export.Dim(name, min=1) for name in ("batch", "history_length", "count"))
    example = torch.from_numpy(np.random.default_rng(0).integers(0, explanation.search.n_items, (3, 7)))
    tables = graph_files(beside)[1:]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        written = Path(scratch) / path.name
        export_graph(
            explanation,
            (example, example[:, :5].clone()),
            written,
            names=(EXPLAIN_INPUTS, EXPLAIN_OUTPUTS),
            dynamic=({0: batch, 1: length}, {0: batch, 1: count}),
            beside=bool(tables),
        )
        graph = onnx.load(written, load_external_data=False)
        if tables:
            _share(graph, onnx.load(beside, load_external_data=False), written.parent, tables[0])
    write_bytes(path, graph.SerializeToString(deterministic=True))


def _share(graph: Any, other: Any, folder: Path, tables: Path) -> None:
    """Let the large tensors of `graph` be those of `other` in the file `tables`, where the bytes are the same; others go inside."""
    theirs: dict[tuple[int, int], list[Any]] = {}
    data = np.memmap(tables, dtype=np.uint8, mode="r")
    for tensor in other.graph.initializer:
        if tensor.external_data:
            theirs.setdefault((tensor.data_type, int(_where(tensor)["length"])), []).append(tensor)
    for tensor in graph.graph.initializer:
        if not tensor.external_data:
            continue
        at = _where(tensor)
        begin, length = int(at.get("offset", 0)), int(at["length"])
        own = np.memmap(folder / at["location"], dtype=np.uint8, mode="r")[begin : begin + length]
        for same in theirs.get((tensor.data_type, length), ()):
            first = int(_where(same).get("offset", 0))
            if np.array_equal(own, data[first : first + length]):
                del tensor.external_data[:]
                tensor.external_data.extend(same.external_data)
                break
        else:
            del tensor.external_data[:]
            tensor.data_location = 0  # inside
            tensor.raw_data = own.tobytes()


def _where(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def check_explanation(
    explanation: Explanation, path: Path, histories: Sequence[NDArray[np.integer]], *, k: int = 10
) -> dict[str, float]:
    """Compare the graph with torch for what the search answers to `histories`.

    Reports the largest difference of a weight, of a score, and of a leaf's score from the one that the search gave it
    (`max_abs_weight_error`, `max_abs_score_error`, `max_abs_answer_error`), and whether the paths are equal
    (`equal_paths`, 1 or 0). Weights are compared by behavior: equal ones may change places.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    weight = score = answer = 0.0
    equal = True
    for history in histories:
        columns = pad_left([history])
        with torch.no_grad():
            found = explanation.search.search(columns, columns)
            items = found.items[:, :k].contiguous()
            told = [value.numpy() for value in explanation(columns, items)]
        got = session.run(list(EXPLAIN_OUTPUTS), {"history": columns.numpy(), "items": items.numpy()})
        there = items[0].numpy() >= 0
        for unit in (0, 2):
            ours, theirs = (_dense(each[unit], each[unit + 1], columns.shape[1]) for each in (told, got))
            weight = max(weight, float(np.abs(ours - theirs).max(initial=0.0)))
        equal = equal and np.array_equal(told[4], got[4])
        score = max(score, float(np.abs(told[5][0, there] - got[5][0, there]).max(initial=0.0)))
        answer = max(answer, float(np.abs(got[5][0, there, -1] - found.scores[0, :k].numpy()[there]).max(initial=0.0)))
    return {
        "max_abs_weight_error": weight,
        "max_abs_score_error": score,
        "max_abs_answer_error": answer,
        "equal_paths": float(equal),
    }


def _dense(columns: NDArray[np.int64], weights: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """(k, T) weight of every behavior, the smallest told one set aside: which of equal ones is told is anybody's choice."""
    found = np.zeros((columns.shape[1], length + 1), np.float32)
    rows = np.arange(columns.shape[1])[:, None]
    least = weights[0].min(axis=1, keepdims=True)
    found[rows, columns[0]] = np.where(weights[0] > least + 1e-4, weights[0], 0)
    return found[:, :length]
