"""`GET /v1/items/{item_id}/image`: an item's small picture.

- WebP of at most 200 pixels on the longer side. It is known by its digest (ETag): a browser that has it asks, and is told that it
  still holds.

Not covered: the original picture, which stays where the catalogue has it.
"""

import hashlib

from fastapi import APIRouter, HTTPException, Request, Response

from serving.api.shapes import ERRORS, Failure, ItemPath
from serving.guard import documented
from serving.service import Service

__all__ = ["router"]

KEPT = "private, max-age=300"


def router(service: Service) -> APIRouter:
    """The endpoint over `service`."""
    api = APIRouter(tags=["items"], responses=ERRORS)
    answers = {
        200: {"description": "The picture.", "content": {"image/webp": {}}},
        304: {"description": "It is the one that the caller has."},
        404: documented(404)[404] | {"model": Failure},
    }

    # not async: the file is read
    @api.get("/v1/items/{item_id}/image", response_class=Response, responses=answers)
    def image(request: Request, item_id: ItemPath) -> Response:
        """One item's picture."""
        engine = service.live.engine
        index = engine.catalogue.find(item_id)
        if index is None:
            raise HTTPException(404, f"the promoted model does not know item {item_id!r}")
        data = None if engine.pictures is None else engine.pictures.read(index)
        if data is None:
            raise HTTPException(404, f"there is no picture of item {item_id!r}")
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"etag": tag, "cache-control": KEPT}
        if tag in (each.strip() for each in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        return Response(data, media_type="image/webp", headers=headers)

    return api
