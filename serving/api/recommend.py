"""`POST /v1/recommend`: the items that a user wants next.

- A request names a `user`, gives a `history`, or both; the history is read instead of the stored one, so that a session's newest
  behaviors count.
- A user whom the bundle does not know and who brings no history is offered what is popular, and `popular` says so.
- `categories` excludes everything else from the search: what comes back are the best of what is left, not the rest of an answer.
- `explain` tells of each item what the search units attended to and how it was found in the tree; popular items have no reasons.

Not covered: several users in one request; the Open Inference Protocol takes those.
"""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from serving.api.explained import check_explained, reasons
from serving.api.shapes import ERRORS, Id, Item, count, ids, scored
from serving.service import Asked, Service

__all__ = ["Recommendations", "router"]


class Recommendations(BaseModel):
    """An answer; `items` may be fewer than asked for where nothing else is left."""

    model_version: str
    user: str | None
    popular: bool
    items: list[Item]


def router(service: Service) -> APIRouter:
    """The endpoint over `service`."""
    api = APIRouter(tags=["recommend"], responses=ERRORS)
    limits = service.limits

    class Wanted(BaseModel):
        """A request for recommendations."""

        model_config = ConfigDict(extra="forbid")

        user: Id | None = Field(default=None, description="whose history to look up")
        history: ids(limits, "item ids, oldest first") | None = None
        k: count(limits) = 10
        exclude: ids(limits, "item ids not to return") = []
        categories: ids(limits, "only items that have any of these; all where empty") = []
        explain: bool = Field(default=False, description="whether each item comes with its reasons")

    @api.post("/v1/recommend")
    async def recommend(wanted: Wanted) -> Recommendations:
        """The k best items of one user."""
        engine = service.live.engine
        asked = Asked(
            user=wanted.user,
            history=wanted.history,
            k=wanted.k,
            exclude=wanted.exclude,
            categories=wanted.categories,
        )
        check_explained(wanted.k, wanted.explain)
        (found,) = await service.recommend(engine, [asked])
        items = scored(engine.catalogue, found.items)
        if wanted.explain and not found.popular:
            told = await reasons(engine, asked, [item.item_id for item in items])
            items = [item.model_copy(update={"why": why}) for item, why in zip(items, told, strict=True)]
        return Recommendations(model_version=engine.version, user=wanted.user, popular=found.popular, items=items)

    return api
