"""The HTTP service: `GET /health` and `GET` or `POST /recommend` over one engine.

- A request names a `user`, gives a `history` (used instead of the stored one, so that a session's newest behaviors count), or both.
- A user the bundle does not know and who brings no history is answered with what is popular, marked `"popular": true`.
- Errors are JSON, `{"detail": one sentence}`: 422 for what the caller can mend, 404 and 405 for another path or method.
- Nothing is fetched from anywhere: FastAPI's documentation pages, which load scripts from a CDN, are switched off.

Not covered: access control, TLS (put a proxy in front), picking up a promotion without a restart (`miss up` restarts it).
"""

from __future__ import annotations

import socket
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from model.errors import BadInput, MissError
from serving.engine import Engine, Recommended

__all__ = ["MAX_HISTORY", "MAX_K", "Answer", "Wanted", "create_app", "run"]

MAX_K = 1000
MAX_HISTORY = 20_000
Id = Annotated[str, Field(min_length=1, max_length=1024)]


class Wanted(BaseModel):
    """A request for recommendations."""

    model_config = ConfigDict(extra="forbid")

    user: Id | None = Field(default=None, description="whose history to look up")
    history: list[Id] | None = Field(default=None, max_length=MAX_HISTORY, description="item ids, oldest first")
    k: int = Field(default=10, ge=1, le=MAX_K, description="how many items")
    exclude: list[Id] = Field(default_factory=list, max_length=MAX_HISTORY, description="item ids not to return")


class Item(BaseModel):
    """One recommended item; its score orders the items of one answer and says nothing across answers."""

    item_id: str
    title: str
    score: float


class Answer(BaseModel):
    """An answer; `items` may be fewer than asked for where nothing else is left."""

    user: str | None
    version: str
    items: list[Item]
    popular: bool


def _sentence(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query")) or "the request"
    more = f" (and {len(error.errors()) - 1} more problems)" if len(error.errors()) > 1 else ""
    return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}{more}"


def create_app(engine: Engine) -> FastAPI:
    """The service over `engine`; it opens nothing and keeps no state of its own."""
    app = FastAPI(title="MISS retrieval", version=engine.version or "0", docs_url=None, redoc_url=None)

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _sentence(error)}, status_code=422)

    @app.exception_handler(MissError)
    def _refused(_: Request, error: MissError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422 if isinstance(error, BadInput) else 500)

    @app.exception_handler(HTTPException)
    def _elsewhere(request: Request, error: HTTPException) -> JSONResponse:
        told = f"there is no {request.method} {request.url.path[:200]} here; ask /health or /recommend"
        detail = told if error.status_code in (404, 405) else str(error.detail)
        return JSONResponse({"detail": detail}, status_code=error.status_code, headers=error.headers)

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Which bundle answers."""
        return {
            "status": "ok",
            "version": engine.version,
            "digest": engine.digest,
            "dataset": engine.meta.get("dataset"),
            "simulated": engine.meta.get("simulated"),
            "items": engine.n_items,
            "users": len(engine.histories) if engine.histories is not None else 0,
        }

    @app.post("/recommend")
    def recommend(wanted: Wanted) -> Answer:
        """The k best items of one user."""
        found: list[Recommended] | None = None
        if wanted.history is not None:
            found = engine.recommend_ids(wanted.history, wanted.k, exclude_ids=wanted.exclude)
        elif wanted.user is None:
            raise BadInput("the request names no user and gives no history; send either")
        else:
            found = engine.recommend_user(wanted.user, wanted.k, exclude_ids=wanted.exclude)
        popular = found is None
        if found is None:
            found = engine.popular_items(wanted.k, exclude_ids=wanted.exclude)
        items = [Item(**each) for each in found]
        return Answer(user=wanted.user, version=engine.version, items=items, popular=popular)

    @app.get("/recommend")
    def recommend_query(wanted: Annotated[Wanted, Query()]) -> Answer:
        """The same with `user`, repeated `history` and `exclude`, and `k` in the query."""
        return recommend(wanted)

    return app


def run(engine: Engine, *, host: str = "127.0.0.1", port: int = 8000) -> None:
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
        config = uvicorn.Config(create_app(engine), log_level="warning", timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listener])
