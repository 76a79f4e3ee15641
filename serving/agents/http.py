"""The tools at `/mcp` of the HTTP service: MCP's streamable HTTP, behind the same guard as all else.

- Answers are JSON, one a request; there is nothing that the service would send by itself.
- Bound to this machine alone, it refuses requests whose Host or Origin is another's, as a page in a browser could send them.

Not covered: OAuth; the token of the service is asked for where it has one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.types import Receive, Scope, Send

from serving.agents.sessions import CallLog
from serving.agents.tools import tools
from serving.service import Service

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

__all__ = ["PATH", "AgentsOverHttp"]

PATH = "/mcp"


class _Endpoint:
    """The manager's answers, counted under their path: a plain route does not say in the scope which it is."""

    path = PATH

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        await self._manager.asgi_app(scope, receive, send)


class AgentsOverHttp:
    """Give `router` to `create_app` as a router and `beside` as what runs beside it."""

    def __init__(self, *, log: Path | None, host: str = "127.0.0.1") -> None:
        """log: where calls are written. host: what the service is bound to."""
        self._log, self._host = CallLog(log), host

    def router(self, service: Service) -> APIRouter:
        """The endpoint over `service`."""
        self._server = tools(service, self._log)
        limits = service.limits
        self._server.streamable_http_app(  # which makes the manager; its routes are not ours
            json_response=True,
            host=self._host,
            max_request_body_size=limits.body_bytes,
            max_sessions=limits.agent_sessions,
        )
        api = APIRouter()
        api.add_route(
            PATH,
            _Endpoint(self._server.session_manager),
            methods=["GET", "POST", "DELETE"],
            include_in_schema=False,
        )
        return api

    @contextlib.asynccontextmanager
    async def beside(self, _: Service) -> AsyncIterator[None]:
        """Answer within the block."""
        try:
            async with self._server.session_manager.run():
                yield
        finally:
            self._log.close()
