"""What bounds a search from below: the products it must form, the rows it must read, and how fast two cores do either.

- Operations are those of matrix products alone, counted by torch as the reference search runs: no softmax, no top-k, no gather.
- Bytes are the embeddings and contents of what is scored and of the history, once each, in float32.
- The rates are ONNX Runtime's own: a product of large matrices, and a maximum over what no cache holds.

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


def operations(search: Any, histories: Sequence[NDArray[np.int64]], length: int) -> int:
    """Operations of the products alone, two a multiplication, of a search for one user."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    history = torch.from_numpy(max(histories, key=len)[None, -length:])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        search.search(history, history)
    return int(counter.get_total_flops())


def speed(folder: Path, threads: int) -> dict[str, Any]:
    """What the cores can do in ONNX Runtime: a large product, and a sum over what no cache holds."""
    import onnx
    from onnx import TensorProto, helper

    from model.onnx_export import OPSET

    told: dict[str, Any] = {"way": f"the machine, {threads} threads"}
    rng = np.random.default_rng(0)
    for name, op, shapes, work in (
        ("GFLOP/s", "MatMul", [(2048, 1024), (1024, 1024)], 2 * 2048 * 1024 * 1024),
        ("GB/s", "ReduceMax", [(2**10, 2**16)], 4 * 2**26),
    ):
        inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, each) for i, each in enumerate(shapes)]
        nodes = [helper.make_node(op, [each.name for each in inputs], ["y"])]
        graph = helper.make_graph(nodes, name, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        opset = [helper.make_opsetid("", OPSET)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "speed.onnx")
        runs = session(folder / "speed.onnx", threads)
        given = {f"x{i}": rng.standard_normal(each, dtype=np.float32) for i, each in enumerate(shapes)}
        taken = []
        for _ in range(8):
            started = time.perf_counter()
            runs.run(None, given)
            taken.append(time.perf_counter() - started)
        told[name] = work / min(taken) / 1e9
    return told


def floor_ms(mflop: float, mib: float, machine: dict[str, Any]) -> float:
    """Milliseconds for so many operations and bytes at what `speed` told, neither hidden behind the other."""
    return float(mflop / machine["GFLOP/s"] + mib * 2**20 / 1e6 / machine["GB/s"])
