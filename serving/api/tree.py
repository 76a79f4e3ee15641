"""`POST /v1/tree`: a part of the index tree with names, and how the beam of a user's search lies in it.

- Of a user or a history, `beam` says for each node how many of the best leaves that the search ended with lie under it: what lies
  under a node that was cut off is never among them.
- Parts are asked for as they are looked at: from a node, so many levels down, at most 1,024 nodes.

Not covered: nodes that a beam held on upper levels and lost further down.
"""

from typing import Any

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from model.errors import BadInput
from serving.api.explained import node_label
from serving.api.shapes import ERRORS, Id, ids
from serving.service import Asked, Service

__all__ = ["router"]

MOST_NODES = 1024


class Node(BaseModel):
    """A node; `beam` is left out where nobody was searched for, `item_id` where it is no leaf."""

    node: int
    parent: int
    level: int
    label: str
    items: int
    children: int
    typical: list[str]
    beam: int | None = Field(default=None, exclude_if=lambda beam: beam is None)
    item_id: str | None = Field(default=None, exclude_if=lambda item: item is None)


class Tree(BaseModel):
    """Part of the tree, parents before children; `depth` is the level of the leaves."""

    model_version: str
    depth: int
    items: int
    beam: int
    nodes: list[Node]


def router(service: Service) -> APIRouter:
    """The endpoint over `service`."""
    api = APIRouter(tags=["tree"], responses=ERRORS)
    limits = service.limits

    class Part(BaseModel):
        """Which part, and whose search is to be seen in it."""

        model_config = ConfigDict(extra="forbid")

        node: int = Field(default=0, ge=0, le=2**31 - 1, description="from where on; 0 is the root")
        levels: int = Field(default=4, ge=0, le=10, description="levels below it")
        user: Id | None = Field(default=None, description="whose stored history is searched with")
        history: ids(limits, "item ids, oldest first") | None = None

    @api.post("/v1/tree")
    async def tree(wanted: Part) -> Tree:
        """Part of the tree."""
        engine = service.live.engine
        names = engine.names
        if names is None:
            raise BadInput("the promoted bundle was made without names of its tree; run `miss materialize`")
        if wanted.node >= names.n_nodes:
            raise BadInput(f"node = {wanted.node} is not in the tree, which has 0 to {names.n_nodes - 1}")
        beam = None
        if wanted.user is not None or wanted.history is not None:
            asked = Asked(user=wanted.user, history=wanted.history, k=min(engine.beam, engine.n_items))
            (found,) = await service.recommend(engine, [asked])
            if not found.popular:
                weights = np.zeros(engine.n_items, np.int64)
                weights[engine.to_indices([each["item_id"] for each in found.items])] = 1
                beam = names.counted(weights)
        return Tree(
            model_version=engine.version,
            depth=names.depth,
            items=engine.n_items,
            beam=engine.beam,
            nodes=[_node(engine, each, beam) for each in _below(names, wanted.node, wanted.levels)],
        )

    return api


def _below(names: Any, node: int, levels: int) -> list[int]:
    found, row = [node], [node]
    for _ in range(levels):
        row = [child for each in row for child in names.children(each)]
        if not row or len(found) + len(row) > MOST_NODES:
            break
        found += row
    return found


def _node(engine: Any, node: int, beam: Any) -> Node:
    names, ids = engine.names, engine.catalogue.item_id
    item = names.item(node)
    return Node(
        node=node,
        parent=int(names.parent[node]),
        level=names.level(node),
        label=node_label(engine, node),
        items=int(names.sizes[node]),
        children=len(names.children(node)),
        typical=[str(ids[each]) for each in names.typical(node) if engine.catalogue.pictured(each)],
        beam=None if beam is None else int(beam[node]),
        item_id=str(ids[item]) if item >= 0 else None,
    )
