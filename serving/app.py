"""The HTTP service: routers of `serving.api` over the engine that serves now, behind one guard.

- Errors are JSON, `{"detail": one sentence}` (under /v2 `{"error": ...}`): 401, 413, 422 for what the caller can mend, 404 and 405
  for another path or method, 503 with Retry-After where nothing is loaded or too many wait, 504 where it took too long.
- Nothing is fetched from anywhere: FastAPI's documentation pages, which load scripts from a CDN, are switched off. The description
  is at /openapi.json.
- What must run as long as the service does (following promotions, say) comes as `beside`: a context manager around it.

Not covered: TLS (put a proxy in front).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from model.errors import BadInput, MissError, NotReady
from serving.api import compare, inference, items, model, page, pictures, recommend, search, tree
from serving.api.shapes import sentence
from serving.guard import Guard, failure, too_large
from serving.limits import Limits
from serving.live import Live
from serving.metrics import Metrics
from serving.service import Service

__all__ = ["create_app", "run"]

RETRY_AFTER_S = 1
ROUTERS: tuple[Callable[[Service], APIRouter], ...] = (
    recommend.router,
    search.router,
    items.router,
    model.router,
    inference.router,
    pictures.router,
    tree.router,
    compare.router,
    page.router,
)


def create_app(
    live: Live,
    *,
    challenger: Live | None = None,
    limits: Limits | None = None,
    token: str = "",
    name: str = "miss-retrieval",
    routers: Sequence[Callable[[Service], APIRouter]] = (),
    beside: Sequence[Callable[[Service], AbstractAsyncContextManager[Any]]] = (),
    unguarded: Iterable[str] = (),
) -> FastAPI:
    """The service over what `live` holds, which may be nothing yet; `app.state.service` is its `Service`.

    challenger: what a reviewer compares it with. limits: what is refused, the defaults where None. token: what callers must
    send, nothing where empty. name: of the model, for the Open Inference Protocol. routers: more of them. beside: what runs as
    long as the service does. unguarded: more paths that need no token.
    """
    limits = limits or Limits()
    service = Service(live=live, challenger=challenger or Live(), limits=limits, metrics=Metrics(live), name=name)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            running.callback(service.close)
            for each in beside:
                await running.enter_async_context(each(service))
            yield

    app = FastAPI(
        title="MISS retrieval",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    # inside the guard, and not FastAPI's `max_body_size`, which lies outside and would answer in plain text
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=limits.body_bytes)
    app.add_middleware(Guard, limits=limits, metrics=service.metrics, token=token, unguarded=(*page.PATHS, *unguarded))
    for make in (*ROUTERS, *routers):
        app.include_router(make(service))
    _tell_errors(app, limits)
    return app


def _tell_errors(app: FastAPI, limits: Limits) -> None:
    """Make every error one sentence."""

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return failure(request.url.path, 422, sentence(error.errors()))

    @app.exception_handler(MissError)
    def _refused(request: Request, error: MissError) -> JSONResponse:
        if isinstance(error, NotReady):
            return failure(request.url.path, 503, str(error), headers={"retry-after": str(RETRY_AFTER_S)})
        return failure(request.url.path, 422 if isinstance(error, BadInput) else 500, str(error))

    @app.exception_handler(HTTPException)
    def _elsewhere(request: Request, error: HTTPException) -> JSONResponse:
        path, detail = request.url.path, str(error.detail)
        if error.status_code == 400:  # FastAPI's, for bytes that are no text; broken JSON is a 422 already
            return failure(path, 422, "the body cannot be read; send JSON in UTF-8")
        if error.status_code == 413:
            detail = too_large(limits)
        elif error.status_code == 405 or detail == "Not Found":
            detail = f"there is no {request.method} {path[:200]} here; /openapi.json says what there is"
        return failure(path, error.status_code, detail, headers=error.headers)

    @app.exception_handler(Exception)
    def _defect(request: Request, _: Exception) -> JSONResponse:
        return failure(request.url.path, 500, "the service failed at this request; its log says how")


def run(app: FastAPI, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until interrupted. Raises BadInput where the address cannot be had."""
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            raise BadInput(
                f"{host}:{port} cannot be listened on ({error}); choose another with --host and --port"
            ) from error
        # bound here and not by uvicorn, which would log the error and end the process
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])
