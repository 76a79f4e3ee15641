"""`POST /v1/webhooks/mlflow`: MLflow says that something moved in its registry, and the service looks at once.

- A delivery is believed for its signature alone: HMAC-SHA256 over `id.timestamp.body` in `X-MLflow-Signature`, the headers and the
  text as MLflow 3.17's `mlflow.webhooks.delivery` makes them, compared in constant time.
- It is good for five minutes around its own time, and once: a recorded one opens nothing.
- It says no more than "look": what is promoted is read from the registry, so that even a forged one could only ask for a look.
- The token of the service is not asked for, which MLflow cannot send; without a secret there is no such endpoint.

Not covered: telling MLflow of it (`docs/serving.md` has the call); which deliveries are of other models: they cost one look.
"""

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from serving.api.shapes import Failure
from serving.guard import documented
from serving.service import Service

__all__ = ["PATH", "TOLERANCE_S", "router"]

PATH = "/v1/webhooks/mlflow"
TOLERANCE_S = 300
ID, TIMESTAMP, SIGNATURE = "x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"
LONGEST_ID = 200
OFF = "webhooks are off here; set MISS_WEBHOOK_SECRET to the secret that MLflow signs with"


class Looking(BaseModel):
    """A delivery that was believed."""

    status: str


class _Seen:
    """Ids of deliveries that were believed, for as long as their timestamps would be."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def again(self, delivery: str, now: float) -> bool:
        """Whether it was here before; it is from now on."""
        with self._lock:
            while self._until and next(iter(self._until.values())) < now:  # oldest first
                del self._until[next(iter(self._until))]
            known = delivery in self._until
            self._until.setdefault(delivery, now + 2 * TOLERANCE_S)
            return known


def signature(secret: str, delivery: str, timestamp: str, body: bytes) -> bytes:
    """What MLflow sends in `X-MLflow-Signature`."""
    signed = b".".join([delivery.encode(), timestamp.encode(), body])
    return b"v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest())


def _objection(request: Request, body: bytes, secret: str, seen: _Seen, now: float) -> str | None:
    """Why a delivery is not believed; None where it is."""
    delivery, timestamp, given = (request.headers.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not hmac.compare_digest(given.encode(), signature(secret, delivery, timestamp, body)):
        return (
            "the signature is not that of MISS_WEBHOOK_SECRET over this delivery; give MLflow's webhook the same secret"
        )
    if not 0 < len(delivery) <= LONGEST_ID or not (timestamp.isascii() and timestamp.isdigit()):
        return "the delivery has no id or no time; MLflow 3.17 sends both"
    if abs(now - int(timestamp[:20])) > TOLERANCE_S:
        return f"the delivery is not of the last {TOLERANCE_S} seconds; set the clocks of both machines"
    if seen.again(delivery, now):
        return "this delivery was here before; MLflow gives each one an id of its own"
    return None


def router(wake: Callable[[], None], secret: str) -> Callable[[Service], APIRouter]:
    """The endpoint, which calls `wake` for each delivery signed with `secret`; 404 for all where that is empty."""
    seen = _Seen()

    def make(_: Service) -> APIRouter:
        api = APIRouter(tags=["webhooks"])
        told = documented(401, 404, 413, 422, 504)
        told[401] = {"description": "The signature is missing or another, or the delivery is old or was here before."}

        @api.post(PATH, status_code=202, responses={status: each | {"model": Failure} for status, each in told.items()})
        async def mlflow(request: Request) -> Looking:
            """Look at what is promoted, now."""
            if not secret:
                raise HTTPException(404, OFF)
            objection = _objection(request, await request.body(), secret, seen, time.time())
            if objection is not None:
                raise HTTPException(401, objection)
            wake()
            return Looking(status="looking")

        return api

    return make
