"""`POST /v1/compare`: what the champion and the challenger answer to the same request, side by side.

- Both are asked the same; items that only one of them knows are left out of its rival's request, and counted.
- Without a challenger, `said` tells how to get one.

Not covered: figures over many users; those are on the version's page in MLflow, beside the gate's verdict.
"""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from serving.api.shapes import ERRORS, Id, Item, count, ids, scored
from serving.service import Asked, Service

__all__ = ["router"]

HOW = "there is no challenger to compare with: `miss serve --challenger` loads the registry's, once a new version waits for review"


class Side(BaseModel):
    """One version's answer."""

    model_version: str
    popular: bool
    unknown: int
    items: list[Item]


class Compared(BaseModel):
    """Both answers; `shared` items are in both. `said` is what keeps them from being compared, else empty."""

    champion: Side
    challenger: Side | None
    shared: int | None
    said: str


def router(service: Service) -> APIRouter:
    """The endpoint over `service`."""
    api = APIRouter(tags=["recommend"], responses=ERRORS)
    limits = service.limits

    class Both(BaseModel):
        """Who is recommended to by both."""

        model_config = ConfigDict(extra="forbid")

        user: Id | None = Field(default=None, description="whose stored history each reads from its own bundle")
        history: ids(limits, "item ids, oldest first") | None = None
        k: count(limits) = 10

    async def side(engine: Any, wanted: Both) -> Side:
        history = wanted.history
        known = None if history is None else [each for each in history if engine.catalogue.find(each) is not None]
        k = min(wanted.k, engine.beam, engine.n_items)
        (found,) = await service.recommend(engine, [Asked(user=wanted.user, history=known, k=k)])
        return Side(
            model_version=engine.version,
            popular=found.popular,
            unknown=0 if history is None or known is None else len(history) - len(known),
            items=scored(engine.catalogue, found.items),
        )

    @api.post("/v1/compare")
    async def compare(wanted: Both) -> Compared:
        """Champion and challenger on one request."""
        champion = await side(service.live.engine, wanted)
        if not service.challenger.ready:
            return Compared(champion=champion, challenger=None, shared=None, said=HOW)
        challenger = await side(service.challenger.engine, wanted)
        theirs = {each.item_id for each in challenger.items}
        shared = sum(each.item_id in theirs for each in champion.items)
        return Compared(champion=champion, challenger=challenger, shared=shared, said="")

    return api
