"""`POST /v1/similar` and `POST /v1/search`: items like an item; items for a text, a picture, a part of one, or a mix.

- A search comes as JSON, the picture in base64, or as a form (multipart/form-data) with the picture as a file; `box` and
  `weights` are JSON in a form's fields, `exclude` and `categories` fields that may be repeated.
- Pictures are decoded and encoded beside the event loop, as many at a time as `serving.workers`; who would have to wait behind
  `serving.queue` others is refused with a 503.
- `categories` is part of the search: what comes back are the best of what is left.

Not covered: several queries in one request.
"""

import base64
import binascii
import json
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from model.errors import BadInput, NotReady
from serving.api.shapes import ERRORS, Id, Item, count, ids, scored
from serving.search import Searcher
from serving.service import Service

__all__ = ["MAX_TEXT", "Found", "decoded", "router", "searcher"]

MAX_TEXT = 4000
FIELDS = 4096
"""Of a form; each id to exclude is one."""
JSON_FIELDS, LISTS = ("box", "weights", "k"), ("exclude", "categories")


class Found(BaseModel):
    """Items, best first; fewer than asked for where no more are left."""

    model_version: str
    items: list[Item]


def router(service: Service) -> APIRouter:
    """The endpoints over `service`."""
    api = APIRouter(tags=["search"], responses=ERRORS)
    limits = service.limits

    class Like(BaseModel):
        """A request for items like one."""

        model_config = ConfigDict(extra="forbid")

        item_id: Id
        k: count(limits) = 10
        exclude: ids(limits, "item ids not to return") = []
        categories: ids(limits, "only items that have any of these; all where empty") = []

    class Wanted(BaseModel):
        """A search: a text, a picture, or both."""

        model_config = ConfigDict(extra="forbid")

        text: Annotated[str, Field(max_length=MAX_TEXT, description="what it is about")] | None = None
        image: Annotated[str, Field(description="JPEG, PNG, WEBP, GIF or BMP in base64; a file in a form")] | None = (
            None
        )
        box: (
            Annotated[
                list[Annotated[float, Field(ge=0, le=1)]],
                Field(
                    min_length=4,
                    max_length=4,
                    description="left, top, right, bottom of the part that is meant, fractions",
                ),
            ]
            | None
        ) = None
        weights: Annotated[
            dict[Literal["text", "image"], Annotated[float, Field(ge=0, le=100)]],
            Field(description="what text and picture count where there are both; 1 each is as learnt"),
        ] = {}
        k: count(limits) = 10
        exclude: ids(limits, "item ids not to return") = []
        categories: ids(limits, "only items that have any of these; all where empty") = []

    @api.post("/v1/similar")
    async def similar(wanted: Like) -> Found:
        """Items that go with an item, by the multi-modal embedding."""
        engine = service.live.engine

        def answer() -> Found:
            item = int(engine.to_indices([wanted.item_id])[0])
            gone = engine.excluded(wanted.exclude, wanted.categories)
            found = searcher(engine).similar(item, min(wanted.k, engine.n_items), exclude=gone)
            return _named(engine, found)

        return await service.turns.take(answer)

    schema = Wanted.model_json_schema()
    form = {"schema": schema | {"properties": _as_form(schema["properties"])}}
    content = {"application/json": {"schema": schema}, "multipart/form-data": form}

    @api.post("/v1/search", openapi_extra={"requestBody": {"required": True, "content": content}})
    async def search(request: Request) -> Found:
        """Items that a text, a picture or both describe."""
        engine = service.live.engine
        given, image = await _read(request)
        try:
            wanted = Wanted.model_validate(given)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        if wanted.image is not None:
            image = decoded(wanted.image)

        def answer() -> Found:
            gone = engine.excluded(wanted.exclude, wanted.categories)
            found = searcher(engine).search(
                text=wanted.text,
                image=image,
                box=None if wanted.box is None else (wanted.box[0], wanted.box[1], wanted.box[2], wanted.box[3]),
                shares=(wanted.weights.get("text", 1.0), wanted.weights.get("image", 1.0)),
                k=min(wanted.k, engine.n_items),
                exclude=gone,
            )
            return _named(engine, found)

        return await service.turns.take(answer)

    return api


def searcher(engine: Any) -> Searcher:
    """The engine's own. Raises NotReady where its bundle cannot be searched."""
    found: Searcher | None = engine.searcher
    if found is None:
        raise NotReady(
            "the promoted bundle is of a release without search; run `miss materialize` and promote what it makes"
        )
    return found


def _named(engine: Any, found: tuple[np.ndarray, np.ndarray]) -> Found:
    items = scored(engine.catalogue, engine.catalogue.named(*found))
    return Found(model_version=engine.version, items=items)


def _as_form(properties: dict[str, Any]) -> dict[str, Any]:
    """The same fields in a form, where the picture is a file."""
    return properties | {"image": {"type": "string", "format": "binary", "description": "the picture's file"}}


async def _read(request: Request) -> tuple[Any, bytes | None]:
    """(the request's values, the picture where it came as a file). Raises BadInput for a body of another type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            return json.loads(await request.body()), None
        except (ValueError, RecursionError) as error:
            raise BadInput("the body is no JSON; send an object with `text`, `image` or both") from error
    if kind != "multipart/form-data":
        raise BadInput(f"the body is {kind[:80] or 'of no type'!r}; send application/json or multipart/form-data")
    try:
        form = await request.form(max_files=1, max_fields=FIELDS)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise BadInput(f"the form cannot be read: {str(error.detail)[:200]}") from error
    given: dict[str, Any] = {}
    image = None
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "image":
                    raise BadInput(f"the form has a file called {name[:80]!r}; send the picture as `image`")
                image = await value.read()
            elif name in LISTS:
                given.setdefault(name, []).append(value)
            elif name in given or name == "image":
                raise BadInput(
                    f"the form has the field {name[:80]!r} twice, or as text where a file belongs; send it once"
                )
            else:
                given[name] = _parsed(name, value) if name in JSON_FIELDS else value
    finally:
        await form.close()
    return given, image


def _parsed(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} = {value[:80]!r} in the form is no JSON; send [0, 0, 0.5, 1], say") from error


def decoded(image: str) -> bytes:
    """The bytes of a picture in base64. Raises BadInput."""
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(
            f"image is not base64 ({error}); send the file's bytes so, or the file itself in a form"
        ) from error
