"""What serves and how it does: `/v1/model`, `/health/live`, `/health/ready`, `/metrics`.

- Live means that the process answers; ready, that a bundle is loaded. A promotion that fails leaves both as they are.

Not covered: whether the answers are good; the gate has judged that before.
"""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from serving.api.shapes import ERRORS, Failure
from serving.metrics import CONTENT_TYPE
from serving.service import Service

__all__ = ["router"]


class Model(BaseModel):
    """The bundle that answers, and what its evaluation found."""

    model_version: str
    digest: str
    dataset: str | None
    simulated: bool | None
    items: int
    users: int
    beam: int
    explains: bool
    metrics: list[dict[str, Any]]


class Health(BaseModel):
    """How the service is."""

    status: str
    model_version: str | None = None


def router(service: Service) -> APIRouter:
    """The endpoints over `service`."""
    api = APIRouter(tags=["model"])

    @api.get("/v1/model", responses=ERRORS)
    async def model() -> Model:
        """Which version answers, by digest, and its evaluation beside the baselines'."""
        engine = service.live.engine
        return Model(
            model_version=engine.version,
            digest=engine.digest,
            dataset=engine.meta.get("dataset"),
            simulated=engine.meta.get("simulated"),
            items=engine.n_items,
            users=0 if engine.histories is None else len(engine.histories),
            beam=engine.beam,
            explains=engine.why is not None,
            metrics=engine.evaluation.get("rows", []),
        )

    @api.get("/health/live")
    async def live() -> Health:
        """The process answers."""
        return Health(status="live")

    @api.get("/health/ready", responses={503: {"description": "Nothing is loaded yet.", "model": Failure}})
    async def ready() -> Health:
        """There is a bundle to answer with."""
        return Health(status="ready", model_version=service.live.engine.version)

    @api.get(
        "/metrics",
        response_class=Response,
        responses=ERRORS
        | {200: {"description": "Counters in Prometheus' text format.", "content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return api
