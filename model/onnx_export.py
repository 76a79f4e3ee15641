"""The whole beam search as ONE ONNX graph, tree tables included, and the check that it is the search it was made from.

- Opset 18: newer attention operators are refused by ONNX Runtime's CPU provider.
- Batch, history length and the number of excluded items are dynamic; levels are unrolled.
- Same model, same bytes: nothing of the moment or the machine goes into the file. The exporter's own notes, a stack trace with
  paths for every node, are taken out.
- A protobuf ends at 2 GB. Tables of more than `BESIDE` bytes lie in a second file beside the graph, which names it; a bundle's
  manifest binds both by digest, and ONNX Runtime maps it instead of reading it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
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
from model.onnx_search import OnnxSearch

__all__ = ["INPUTS", "OPSET", "OUTPUTS", "check_parity", "export_graph", "export_search", "graph_files"]

OPSET = 18
INPUTS = ("history", "excluded")
BESIDE = 1 << 26
"""Bytes of tables from which they are kept beside the graph: from there on it matters that `explain.onnx` reads the same file."""
OUTPUTS = ("items", "scores", "co_behaviors", "mm_behaviors")


def export_search(search: BeamSearch, path: Path) -> None:
    """Write `search` as an ONNX file, atomically, and its tables beside it where they are large (`graph_files`).

    Inputs: history (B, T) int64 left-padded with -1, excluded (B, X) int64 ascending, -1 for none.
    Outputs: items (B, k) int64, scores (B, k) float32, co_behaviors and mm_behaviors (B, m) int64 columns of history.
    """
    batch, length, excluded = (torch.export.Dim(name, min=1) for name in ("batch", "history_length", "excluded_length"))
    example = torch.from_numpy(np.random.default_rng(0).integers(0, search.n_items, (3, 7)))
    export_graph(
        search,
        (example, torch.sort(example[:, :5], dim=1).values),
        path,
        names=(INPUTS, OUTPUTS),
        dynamic=({0: batch, 1: length}, {0: batch, 1: excluded}),
        beside=sum(table.nbytes for table in search.buffers()) >= BESIDE,
    )


def export_graph(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    path: Path,
    *,
    names: tuple[Sequence[str], Sequence[str]],
    dynamic: tuple[dict[int, Any], ...],
    beside: bool,
) -> None:
    """Write a module as an ONNX file, atomically; names of inputs and outputs, dynamic dimensions an input.

    beside: whether its tables go to a second file.
    """
    from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            examples,
            input_names=list(names[0]),
            output_names=list(names[1]),
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    ClearMetadataAndDocStringPass()(program.model)
    if not beside:
        write_bytes(path, program.model_proto.SerializeToString(deterministic=True))
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        program.save(Path(scratch) / path.name, external_data=True)  # as path.name + ".data"
        # the graph last: it is not there without its tables
        for written in reversed(graph_files(Path(scratch) / path.name)):
            with written.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(written, path.parent / written.name)


def graph_files(path: Path) -> list[Path]:
    """The graph at `path` and, where there is one, the file of its tables: what has to be copied to move it."""
    beside = path.with_name(f"{path.name}.data")
    return [path, beside] if beside.exists() else [path]


def _compare(
    expected: tuple[NDArray[Any], NDArray[Any]], got: tuple[NDArray[Any], NDArray[Any]]
) -> tuple[float, NDArray[np.bool_]]:
    """Largest score difference, and for each user whether both return the same set of items."""
    (items_a, scores_a), (items_b, scores_b) = expected, got
    finite = np.isfinite(scores_a)
    if not np.array_equal(finite, np.isfinite(scores_b)):
        return float("inf"), np.zeros(len(items_a), dtype=bool)
    error = float(np.abs(scores_a[finite] - scores_b[finite]).max(initial=0.0))
    return error, (np.sort(items_a, axis=1) == np.sort(items_b, axis=1)).all(axis=1)


def check_parity(
    search: BeamSearch, path: Path, histories: Sequence[NDArray[np.integer]], *, k: int = 100
) -> dict[str, Any]:
    """Compare the graph with the torch search over `histories`, in batches of 1, 2, 7 and 64.

    An empty, a one-behavior and the longest history come first, whatever is in `histories`. Reports `histories`,
    `max_abs_score_error` (best to k-th score), `topk_equal_share`, `batches`, `lengths` (smallest, largest) and `k`.
    """
    graph = OnnxSearch(path, n_items=search.n_items, beam=search.beam)
    longest = np.asarray(max(histories, key=len, default=np.zeros(1, np.int64)))
    cases = [longest[:0], longest[:1], longest, *(np.asarray(h) for h in sorted(histories, key=len))]
    k = min(k, search.beam, search.n_items)
    sizes, begin, error = (1, 2, 7, 64), 0, 0.0
    same: list[NDArray[np.bool_]] = []
    while begin < len(cases):
        # the small batches a few times each, then the large one: batch of one is the slowest way through many users
        chunk = cases[begin : begin + (sizes[len(same) % 4] if len(same) < 12 else 64)]
        history = pad_left(chunk)
        with torch.no_grad():
            expected = search.search(history, history)
        items, scores, *_ = graph.run(history.numpy(), history.numpy())
        batch_error, batch_same = _compare(
            (expected.items[:, :k].numpy(), expected.scores[:, :k].numpy()), (items[:, :k], scores[:, :k])
        )
        error, begin = max(error, batch_error), begin + len(chunk)
        same.append(batch_same)
    equal = np.concatenate(same)
    return {
        "histories": len(equal),
        "max_abs_score_error": error,
        "topk_equal_share": float(equal.mean()),
        "batches": sorted({len(batch) for batch in same}),
        "lengths": [min(map(len, cases)), max(map(len, cases))],
        "k": k,
    }
