"""What bounds a search from below: the products it must form, the rows it must read, and how fast two cores do either.

- Operations are those of matrix products alone, counted by torch as the reference search runs: no softmax, no top-k, no gather.
- Bytes are the embeddings and contents of what is scored and of the history, once each, in float32.
- The rates are ONNX Runtime's own: a product of large matrices, and rows from anywhere in a table that no cache holds, which is
  how a history is read.

A search forms its products in small pieces, a level after another, and cannot reach either rate.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.beam_peers import session

__all__ = ["floor_ms", "operations", "speed"]

TABLE, ROWS = 1 << 20, 20_000
"""Rows of the table, and those read from it: a history of 10,000 from two tables."""


def operations(search: Any, histories: Sequence[NDArray[np.int64]], length: int) -> int:
    """Operations of the products alone, two a multiplication, of a search for one user."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    history = torch.from_numpy(max(histories, key=len)[None, -length:])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        search.search(history, history)
    return int(counter.get_total_flops())


def speed(folder: Path, threads: int) -> dict[str, Any]:
    """What the cores can do in ONNX Runtime: a large product, and rows of 256 bytes from anywhere in a table."""
    import onnx
    from onnx import TensorProto, helper

    from model.onnx_export import OPSET

    told: dict[str, Any] = {"way": f"the machine, {threads} threads"}
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    def rows() -> dict[str, NDArray[Any]]:
        return {"x1": rng.integers(0, TABLE, ROWS)}  # others each time: no cache may hold them

    a, b, table = numbers(2048, 1024), numbers(1024, 1024), numbers(TABLE, 64)
    for name, op, given, work, anew in (
        ("GFLOP/s", "MatMul", {"x0": a, "x1": b}, 2 * a.size * b.shape[1], dict),
        ("GB/s", "Gather", {"x0": table, "x1": np.zeros(ROWS, np.int64)}, ROWS * table[0].nbytes, rows),
    ):
        kinds = {each: TensorProto.INT64 if x.dtype == np.int64 else TensorProto.FLOAT for each, x in given.items()}
        inputs = [helper.make_tensor_value_info(each, kinds[each], x.shape) for each, x in given.items()]
        nodes = [helper.make_node(op, list(given), ["y"])]
        graph = helper.make_graph(nodes, name, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        opset = [helper.make_opsetid("", OPSET)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "speed.onnx")
        runs = session(folder / "speed.onnx", threads)
        taken = []
        for _ in range(20):
            asked = given | anew()
            started = time.perf_counter()
            runs.run(None, asked)
            taken.append(time.perf_counter() - started)
        told[name] = work / float(np.median(taken)) / 1e9
    return told


def floor_ms(mflop: float, mib: float, machine: dict[str, Any]) -> float:
    """Milliseconds for so many operations and bytes at what `speed` told, neither hidden behind the other."""
    return float(mflop / machine["GFLOP/s"] + mib * 2**20 / 1e6 / machine["GB/s"])
