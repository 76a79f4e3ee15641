"""Why an item was returned: the bundle's second graph, and names for what it says. onnxruntime and numpy only.

- Weights are those that the score was made with: the graph is made of the search's own modules (`model.explanation`).
- Positions are those of the history as it was given, oldest first, also where only its newest part was read.
- Levels above the one where the search starts have no score: nothing was chosen there.

Not covered: bundles made before there were explanations; `load` returns None for those.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput, Corrupt
from serving.node_names import NodeNames

__all__ = ["Behavior", "Explainer", "Step", "Why"]

GRAPH = "explain.onnx"
OUTPUTS = ["co_columns", "co_weights", "mm_columns", "mm_weights", "path_nodes", "path_scores"]


class Behavior(TypedDict):
    """A behavior that a unit attended to."""

    position: int
    item: int
    weight: float


class Step(TypedDict):
    """A node on the way down."""

    level: int
    node: int
    items: int
    categories: list[str]
    typical: list[int]
    score: float | None


class Why(TypedDict):
    """Of one item."""

    co: list[Behavior]
    mm: list[Behavior]
    path: list[Step]


class Explainer:
    """Explains the answers of one bundle."""

    def __init__(self, session: Any, names: NodeNames, *, max_history: int) -> None:
        """session: of the graph. max_history: behaviors that are read, the newest; 0 for all."""
        self._session, self.names, self._max_history = session, names, max_history

    @classmethod
    def load(cls, folder: Path, names: NodeNames | None, *, max_history: int, threads: int = 0) -> Explainer | None:
        """The bundle's; None where it has none. Raises Corrupt where ONNX Runtime cannot load it."""
        if names is None or not (folder / GRAPH).exists():
            return None
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own classes, derived from Exception only
            raise Corrupt(
                f"{folder / GRAPH} is not a graph that ONNX Runtime can load; run `miss materialize` again"
            ) from error
        return cls(session, names, max_history=max_history)

    def explain(self, history: NDArray[np.integer], items: NDArray[np.integer]) -> list[Why]:
        """Why each of items (k,) scores as it does after history (T,), oldest first.

        Raises BadInput for an index outside the catalogue.
        """
        n = len(self.names.item_leaf)
        history, items = np.asarray(history, np.int64), np.asarray(items, np.int64)
        for index in (*history, *items):
            if not 0 <= index < n:
                raise BadInput(f"item index {index} is not in the catalogue, which has 0 to {n - 1}")
        if not len(items):
            return []
        skipped = max(len(history) - self._max_history, 0) if self._max_history else 0
        read = history[skipped:] if len(history) else np.full(1, -1, np.int64)
        told = self._session.run(OUTPUTS, {"history": read[None], "items": items[None]})
        co, co_weights, mm, mm_weights, nodes, scores = (each[0] for each in told)
        return [
            Why(
                co=_behaviors(co[row], co_weights[row], history, skipped),
                mm=_behaviors(mm[row], mm_weights[row], history, skipped),
                path=self._steps(int(item), dict(zip(nodes[row].tolist(), scores[row].tolist(), strict=True))),
            )
            for row, item in enumerate(items)
        ]

    def _steps(self, item: int, scores: dict[int, float]) -> list[Step]:
        names = self.names
        return [
            Step(
                level=level,
                node=node,
                items=int(names.sizes[node]),
                categories=names.categories(node),
                typical=names.typical(node),
                score=scores.get(node),
            )
            for level, node in enumerate(names.path(item))
        ]


def _behaviors(
    columns: NDArray[np.int64], weights: NDArray[np.float32], history: NDArray[np.int64], skipped: int
) -> list[Behavior]:
    return [
        Behavior(position=int(column) + skipped, item=int(history[column + skipped]), weight=float(weight))
        for column, weight in zip(columns, weights, strict=True)
        if column >= 0
    ]
