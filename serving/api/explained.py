"""Reasons as an answer has them: the behaviors that each search unit attended to, and the named nodes on the way down.

Not covered: making them (`serving.why`).
"""

from typing import Any

import numpy as np
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from model.errors import BadInput
from serving.service import Asked

__all__ = ["Attended", "Step", "Why", "check_explained", "node_label", "reasons"]

MOST_EXPLAINED = 100
"""Items of one answer that are explained."""


class Attended(BaseModel):
    """A behavior; `position` counts from the oldest, from 0; `weight` is its share of the unit's attention."""

    position: int
    item_id: str
    title: str
    weight: float


class Step(BaseModel):
    """A node on the way down; `items` lie under it, `typical` ones show it; no `score` where nothing was chosen yet."""

    level: int
    node: int
    label: str
    items: int
    typical: list[str]
    score: float | None


class Why(BaseModel):
    """Why an item was returned: what Co-GSU and MM-GSU attended to for it, heaviest first, and its path from the root."""

    co: list[Attended]
    mm: list[Attended]
    path: list[Step]


def node_label(engine: Any, node: int) -> str:
    """A name for a node: its categories, a leaf's title."""
    names = engine.names
    if (item := names.item(node)) >= 0:
        return str(engine.catalogue.title[item])
    return " · ".join(names.categories(node)) or f"{names.sizes[node]:,} items"


async def reasons(engine: Any, asked: Asked, item_ids: list[str]) -> list[Why]:
    """A reason an item, in order; raises BadInput where the bundle tells none."""
    history = engine.to_indices(asked.history) if asked.history is not None else engine.stored(asked.user)
    items = engine.to_indices(item_ids)
    told = await run_in_threadpool(engine.explain, np.asarray(history, np.int64), items)  # a graph: not on the loop
    return [_why(engine, each) for each in told]


def check_explained(k: int, explain: bool) -> None:
    """Raise BadInput for more reasons than are told at once."""
    if explain and k > MOST_EXPLAINED:
        raise BadInput(f"k = {k} with explain: reasons are told for at most {MOST_EXPLAINED} items; ask for fewer")


def _why(engine: Any, told: Any) -> Why:
    ids, titles = engine.catalogue.item_id, engine.catalogue.title

    def attended(behaviors: Any) -> list[Attended]:
        return [
            Attended(
                position=each["position"],
                item_id=str(ids[each["item"]]),
                title=str(titles[each["item"]]),
                weight=each["weight"],
            )
            for each in behaviors
        ]

    path = [
        Step(
            level=each["level"],
            node=each["node"],
            label=node_label(engine, each["node"]),
            items=each["items"],
            typical=[str(ids[item]) for item in each["typical"] if engine.catalogue.pictured(item)],
            score=each["score"],
        )
        for each in told["path"]
    ]
    return Why(co=attended(told["co"]), mm=attended(told["mm"]), path=path)
