"""Parts of requests and answers that several endpoints share.

- Types are made from the limits, so that OpenAPI says the bounds that hold. Modules that use them do without postponed annotations:
  FastAPI must see the types themselves.

Not covered: checks that need the catalogue; those are the engine's.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, Field

from serving.api.explained import Why
from serving.catalogue import Catalogue, Recommended
from serving.guard import documented
from serving.limits import Limits

__all__ = ["ERRORS", "Failure", "Id", "Item", "ItemPath", "Named", "count", "ids", "named", "scored", "sentence"]

Id = Annotated[str, Field(min_length=1, max_length=1024)]
ItemPath = Annotated[str, Path(min_length=1, max_length=1024, description="item id, percent-encoded")]


def ids(limits: Limits, what: str) -> Any:
    """The type of a list of ids."""
    return Annotated[list[Id], Field(max_length=limits.history, description=what)]


def count(limits: Limits, what: str = "how many items") -> Any:
    """The type of k."""
    return Annotated[int, Field(ge=1, le=limits.k, description=what)]


class Named(BaseModel):
    """An item, named; `image` says whether `/v1/items/{item_id}/image` has its picture."""

    item_id: str
    title: str
    categories: list[str]
    image: bool


class Item(Named):
    """An item of an answer; its score orders the items of one answer and says nothing across answers."""

    score: float
    why: Why | None = Field(default=None, exclude_if=lambda why: why is None)


def named(catalogue: Catalogue, index: int) -> Named:
    """One item by its index."""
    return Named(
        item_id=str(catalogue.item_id[index]),
        title=str(catalogue.title[index]),
        categories=catalogue.categories(index),
        image=catalogue.pictured(index),
    )


def scored(catalogue: Catalogue, found: Sequence[Recommended]) -> list[Item]:
    """Recommended items with what the catalogue says of them."""
    rows = catalogue.to_indices([each["item_id"] for each in found])
    return [
        Item(**named(catalogue, index).model_dump(), score=each["score"])
        for index, each in zip(rows.tolist(), found, strict=True)
    ]


def sentence(errors: Sequence[Any]) -> str:
    """What pydantic says of a request, in one sentence."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or "the request"
    more = f" (and {len(errors) - 1} more problems)" if len(errors) > 1 else ""
    return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}{more}"


class Failure(BaseModel):
    """What went wrong, and the way out."""

    detail: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: told | {"model": Failure} for status, told in documented(401, 413, 422, 503, 504).items()
}
"""What any endpoint may answer beside its own."""
