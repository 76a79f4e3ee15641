"""What an open endpoint would cost: anybody could make the service look, or keep a recorded delivery for later.

Deliveries are made by MLflow's own code; a real server that makes them is in tests/orchestration/test_following.py.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from http_server import serving
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.api import webhook
from serving.app import create_app
from serving.engine import Engine
from serving.live import Live

SECRET = "a secret, ünïcode and all"
BODY = b'{"entity": "model_version_alias", "action": "created", "data": {"name": "m", "alias": "champion", "version": "2"}}'


@pytest.fixture(scope="module")
def delivery() -> Any:
    """MLflow's module that makes deliveries."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow.webhooks.delivery as module
    return module


class Woken:
    """Counts."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def woken() -> Woken:
    return Woken()


@pytest.fixture
def client(woken: Woken) -> Iterator[TestClient]:
    app = create_app(Live(), token="the token", routers=[webhook.router(woken, SECRET)], unguarded=[webhook.PATH])
    with TestClient(app) as found:
        yield found


def signed(*, secret: str = SECRET, age_s: float = 0, body: bytes = BODY) -> dict[str, str]:
    """Headers of a delivery."""
    delivery, timestamp = str(uuid.uuid4()), str(int(time.time() - age_s))
    made = webhook.signature(secret, delivery, timestamp, body).decode()
    return {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": timestamp, "X-MLflow-Signature": made}


@pytest.mark.parametrize("event", ["model_version_alias.created", "registered_model.created"])
def test_mlflows_own_deliveries_are_believed_by_their_secret(
    delivery: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    """Header names, the signed text and its encoding are MLflow's: a difference in any would refuse every delivery."""
    from mlflow.entities.webhook import Webhook, WebhookEvent

    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    woken = Woken()
    with serving(create_app(Live(engine), routers=[webhook.router(woken, SECRET)])) as address:
        for secret, status in ((SECRET, 202), ("another", 401), (None, 401)):
            hook = Webhook(
                "id", "name", f"{address}{webhook.PATH}", [WebhookEvent.from_str(event)], 0, 0, secret=secret
            )
            found = delivery.test_webhook(hook)
            assert (found.response_status, found.success) == (status, status == 202), found.error_message
    assert woken.times == 1


@given(
    secret=st.text(min_size=1).filter(lambda text: text.isprintable()),
    number=st.uuids().map(str),
    at=st.integers(0, 2**33).map(str),
    body=st.text().filter(lambda text: text.isprintable()),
)
@settings(deadline=None, max_examples=50)
def test_the_signature_is_mlflows(delivery: Any, secret: str, number: str, at: str, body: str) -> None:
    """Whatever the secret and the body hold."""
    ours = webhook.signature(secret, number, at, body.encode())
    assert ours.decode() == delivery._generate_hmac_signature(secret, number, at, body)


def test_a_good_delivery_wakes_once_and_never_again(client: TestClient, woken: Woken) -> None:
    """A recorded one is worth nothing to whoever recorded it; the service's token is not asked for."""
    headers = signed()
    first = client.post(webhook.PATH, content=BODY, headers=headers)
    assert (first.status_code, first.json()) == (202, {"status": "looking"})
    again = client.post(webhook.PATH, content=BODY, headers=headers)
    assert (again.status_code, "was here before" in again.json()["detail"]) == (401, True)
    assert client.post(webhook.PATH, content=BODY, headers=signed()).status_code == 202
    assert woken.times == 2
    assert client.get("/v1/model").status_code == 401, "the token guards the rest"


@pytest.mark.parametrize("age_s", [webhook.TOLERANCE_S + 5, -webhook.TOLERANCE_S - 5, 1e9])
def test_old_and_future_deliveries_are_refused(client: TestClient, woken: Woken, age_s: float) -> None:
    """Else ids would have to be remembered for ever."""
    told = client.post(webhook.PATH, content=BODY, headers=signed(age_s=age_s))
    assert (told.status_code, "last 300 seconds" in told.json()["detail"]) == (401, True)
    for within in (webhook.TOLERANCE_S - 5, 5 - webhook.TOLERANCE_S):
        assert client.post(webhook.PATH, content=BODY, headers=signed(age_s=within)).status_code == 202
    assert woken.times == 2


def test_a_delivery_is_remembered_for_as_long_as_it_would_be_believed(
    client: TestClient, woken: Woken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from a clock five minutes ahead is good for ten: forgotten after five it could be played again."""
    now = time.time()
    headers = signed(age_s=-(webhook.TOLERANCE_S - 1))
    for later, status in ((0, 202), (2 * webhook.TOLERANCE_S - 2, 401), (2 * webhook.TOLERANCE_S + 2, 401)):
        monkeypatch.setattr("serving.api.webhook.time.time", lambda later=later: now + later)
        assert client.post(webhook.PATH, content=BODY, headers=headers).status_code == status
    assert woken.times == 1


@pytest.mark.parametrize("name", ["X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature", "body"])
@pytest.mark.parametrize("how", ["missing", "changed", "garbage"])
def test_whatever_is_changed_on_the_way_is_refused(client: TestClient, woken: Woken, name: str, how: str) -> None:
    """Id, time and body are all signed; bytes that are no text end in the same 401."""
    headers: dict[str, Any] = signed()
    body = BODY
    if name == "body":
        body = {"missing": b"", "changed": BODY.replace(b"champion", b"Champion"), "garbage": b"\xff\xfe"}[how]
    elif how == "missing":
        del headers[name]
    elif how == "changed":
        last = headers[name][-2]
        headers[name] = headers[name][:-2] + ("1" if last != "1" else "2") + headers[name][-1]
    else:
        headers[name] = b"\xff\xe9 v1,"
    told = client.post(webhook.PATH, content=body, headers=headers)
    assert told.status_code == 401
    assert told.json()["detail"]
    assert not woken.times


@pytest.mark.parametrize(
    ("number", "at"), [("", None), ("x" * 201, None), ("id", ""), ("id", "soon"), ("id", "-5"), ("id", "9" * 400)]
)
def test_what_is_signed_and_senseless_is_refused_too(client: TestClient, number: str, at: str | None) -> None:
    """Whoever holds the secret can neither fill the memory nor make it fail."""
    timestamp = str(int(time.time())) if at is None else at
    made = webhook.signature(SECRET, number, timestamp, BODY).decode()
    headers = {"X-MLflow-Delivery-Id": number, "X-MLflow-Timestamp": timestamp, "X-MLflow-Signature": made}
    assert client.post(webhook.PATH, content=BODY, headers=headers).status_code == 401


def test_without_a_secret_there_is_no_such_endpoint(woken: Woken) -> None:
    """Not even for somebody who signs with nothing."""
    app = create_app(Live(), routers=[webhook.router(woken, "")], unguarded=[webhook.PATH])
    with TestClient(app) as client:
        told = client.post(webhook.PATH, content=BODY, headers=signed(secret=""))
    assert (told.status_code, "MISS_WEBHOOK_SECRET" in told.json()["detail"]) == (404, True)
    assert not woken.times
