"""Items and users that the service knows: `/v1/items`, `/v1/items/{item_id}`, `/v1/users`, `/v1/users/{user}`.

- Users are found by how their id begins, which is a binary search however many there are; items by what their title contains.

Not covered: ids with a slash in them, which a path cannot carry; pictures.
"""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel

from serving.api.shapes import ERRORS, Failure, ItemPath, Named, named
from serving.guard import documented
from serving.service import Service

__all__ = ["router"]


class OneItem(Named):
    """An item, and how often it was in the training part of the logs."""

    model_version: str
    behaviors: int


class Items(BaseModel):
    """Items whose title contains what was asked for, those with most behaviors first."""

    model_version: str
    items: list[Named]


class Users(BaseModel):
    """Known users in the order of their ids; `total` is how many are known at all."""

    model_version: str
    total: int
    users: list[str]


class OneUser(BaseModel):
    """A known user's newest behaviors, oldest first; `behaviors` is how many there are."""

    model_version: str
    user: str
    behaviors: int
    history: list[Named]


def router(service: Service) -> APIRouter:
    """The endpoints over `service`."""
    limits = service.limits
    api = APIRouter(tags=["items"], responses=ERRORS)
    missing = {404: documented(404)[404] | {"model": Failure}}

    # not async: a title is looked for in all of them, which is no work for the thread that answers everybody
    @api.get("/v1/items")
    def items(
        query: Annotated[str, Query(max_length=200, description="what the title contains, whatever the case")] = "",
        limit: Annotated[int, Query(ge=1, le=limits.k)] = 20,
    ) -> Items:
        """Items by title; the ones with most behaviors where nothing is asked for."""
        engine = service.live.engine
        found = engine.catalogue.titled(query, limit)
        return Items(model_version=engine.version, items=[named(engine.catalogue, index) for index in found])

    @api.get("/v1/items/{item_id}", responses=missing)
    async def item(item_id: ItemPath) -> OneItem:
        """One item."""
        engine = service.live.engine
        index = engine.catalogue.find(item_id)
        if index is None:
            raise HTTPException(404, f"the promoted model does not know item {item_id!r}")
        told = named(engine.catalogue, index).model_dump()
        return OneItem(**told, model_version=engine.version, behaviors=int(engine.counts[index]))

    @api.get("/v1/users")
    def users(
        query: Annotated[str, Query(max_length=1024, description="how the id begins")] = "",
        limit: Annotated[int, Query(ge=1, le=limits.k)] = 20,
    ) -> Users:
        """Known users."""
        engine = service.live.engine
        stored = engine.histories
        found = [] if stored is None else stored.beginning(query, limit)
        return Users(model_version=engine.version, total=0 if stored is None else len(stored), users=found)

    @api.get("/v1/users/{user}", responses=missing)
    async def user(
        user: Annotated[str, Path(min_length=1, max_length=1024, description="user id, percent-encoded")],
        limit: Annotated[int, Query(ge=1, le=limits.history, description="how many of the newest")] = 200,
    ) -> OneUser:
        """One user's history."""
        engine = service.live.engine
        history = engine.stored(user)
        if history is None:
            raise HTTPException(404, f"the promoted model holds no history of user {user!r}")
        return OneUser(
            model_version=engine.version,
            user=user,
            behaviors=len(history),
            history=[named(engine.catalogue, index) for index in history[-limit:].tolist()],
        )

    return api
