"""What every request passes first and every answer last: the token, the body's size, the time it may take, headers, counters.

- Plain ASGI around the application; nothing is copied or held back, so answers may stream.
- The token is compared in constant time. Health stays open: a probe has no token.
- A body that says it is too large is refused before it is read; one that does not say is counted by Starlette. What a refused
  caller is still sending is taken for a while and thrown away: who writes before reading would find the connection gone, not the
  answer.
- The time runs from the first byte of a request to the first of its answer, the reading of its body included.

Not covered: TLS, limits for each caller (put a proxy in front); who may do what: one token opens everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from serving.limits import Limits
from serving.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OPEN", "Guard", "failure"]

OPEN = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""On every answer that does not say otherwise itself."""
LINGER_S, LINGER_BYTES = 2.0, 32 << 20
"""How long, and how much of, the body of a refused request is taken at most."""


def failure(path: str, status: int, sentence: str, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as the path's protocol has it: {"detail": sentence}, and {"error": sentence} under /v2."""
    key = "error" if path == "/v2" or path.startswith("/v2/") else "detail"
    return JSONResponse({key: sentence}, status_code=status, headers=dict(headers or {}))


class Guard:
    """Middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, *, limits: Limits, metrics: Metrics, token: str = "", unguarded: Iterable[str] = ()
    ) -> None:
        """token: what `Authorization: Bearer` must carry, nothing where empty. unguarded: more paths that need none."""
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token, self._open = token.encode(), OPEN | set(unguarded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500  # unless an answer begins: what fails on the way is one
        clock: asyncio.Timeout | None = None

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if clock is not None and not clock.expired():
                    clock.reschedule(None)
            await send(message)

        try:
            refused = self._refusal(scope)
            if refused is not None:
                await _turn_away(refused, scope, receive, told)
                return
            try:
                async with asyncio.timeout(self._limits.timeout_s) as clock:
                    await self._app(scope, receive, told)
            except TimeoutError:
                if clock is None or not clock.expired():
                    raise
                late = f"no answer within {self._limits.timeout_s:g} s; ask again, or for less"
                await failure(scope["path"], 504, late)(scope, receive, told)
        finally:
            endpoint = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if endpoint != "other" else "any"
            self._metrics.requests.labels(endpoint, method, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """The answer to a request that is not let in; None for one that is."""
        headers, path = Headers(scope=scope), scope["path"]
        if self._token and path not in self._open:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode("latin-1"), self._token)
            if scheme.lower() != "bearer" or not same:
                return failure(
                    path,
                    401,
                    "this service wants its token; send it as `Authorization: Bearer TOKEN`",
                    headers={"www-authenticate": "Bearer"},
                )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            return failure(path, 413, too_large(self._limits), headers={"connection": "close"})
        return None


async def _turn_away(answer: JSONResponse, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, and end it when the caller has sent what it sends, or too much."""

    async def unended(message: Message) -> None:
        await send(message | {"more_body": True} if message["type"] == "http.response.body" else message)

    await answer(scope, receive, unended)
    taken = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while taken < LINGER_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
    await send({"type": "http.response.body", "body": b""})


def too_large(limits: Limits) -> str:
    """The sentence of a 413."""
    return f"the body is over {limits.body_bytes:,} bytes, the most that is read; send less"


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of errors."""
    said = {
        400: "The request is not one of this protocol.",
        401: "The token is missing or another.",
        404: "There is no such thing.",
        413: "The body is too large.",
        422: "The request cannot be answered; the sentence says why.",
        503: "Nothing is loaded yet, or too many wait; ask again.",
        504: "It took too long.",
    }
    return {status: {"description": said[status]} for status in statuses}
