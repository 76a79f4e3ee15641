"""What a service that is not guarded would lose: its memory to a large body, its time to a slow one, its data to anybody."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from http_server import serving
from tiny_bundle import ITEM_IDS, USER_IDS, histories

from model.errors import BadInput
from serving import guard
from serving.app import create_app
from serving.engine import Engine
from serving.limits import Limits
from serving.live import Live
from serving.service import Service

BODY = 4096


class Slow(Engine):
    """Answers when it is let; loaded from the same bundle."""

    go: threading.Event

    def recommend(self, *arguments: Any, **more: Any) -> Any:
        assert self.go.wait(20)
        return super().recommend(*arguments, **more)


@pytest.fixture
def slow(bundle: Any) -> Iterator[Slow]:
    engine = Slow(bundle, version="7", threads=1)
    engine.go = threading.Event()
    yield engine
    engine.go.set()


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    """A small service over a real socket."""
    with serving(create_app(Live(engine), limits=Limits(body_bytes=BODY))) as found:
        yield found


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/recommend", "/v2/models/miss-retrieval/infer"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_also_where_it_does_not_say_so(address: str, path: str, chunked: bool) -> None:
    """Without a length to look at, the bytes themselves are counted."""
    small, large = b'{"user": "user-03", "exclude": []}', b'{"user": "' + b"x" * BODY + b'"}'

    def body(text: bytes) -> Any:
        return iter([text[i : i + 500] for i in range(0, len(text), 500)]) if chunked else text

    headers = {"content-type": "application/json"}
    refused = httpx.post(f"{address}{path}", content=body(large), headers=headers)
    assert refused.status_code == 413
    (sentence,) = refused.json().values()
    assert "4,096 bytes" in sentence
    assert httpx.post(f"{address}/v1/recommend", content=body(small), headers=headers).status_code == 200


@pytest.mark.parametrize("token", ["", "secret"])
def test_who_writes_everything_before_reading_still_reads_why(engine: Engine, token: str) -> None:
    """Slowly, as over a real network: the refusal is there long before the last byte is sent."""
    size = 4 << 20
    with serving(create_app(Live(engine), token=token)) as address:
        where = urlsplit(address)
        with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
            head = f"POST /v1/recommend HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-length: {size}\r\n\r\n"
            connection.sendall(head.encode())
            for _ in range(8):
                connection.sendall(b"x" * (size // 8))
                time.sleep(0.05)
            answer = b""
            while b"}" not in answer:
                answer += connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 401" if token else b"HTTP/1.1 413")
    assert b'{"detail":' in answer


def test_a_refused_body_that_never_ends_is_not_waited_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LINGER_S", 0.3)
    with serving(create_app(Live(engine))) as address:
        where = urlsplit(address)
        with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
            connection.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: here\r\ncontent-length: 9000000\r\n\r\nx")
            begun, answer = time.monotonic(), b""
            while part := connection.recv(65_536):
                answer += part
    assert b" 413 " in answer
    assert 0.2 < time.monotonic() - begun < 10


def test_the_default_is_a_mebibyte(engine: Engine) -> None:
    """What fits, fits: a body of exactly the limit is read."""
    padding = (1 << 20) - len(b'{"user": "user-03"}')
    with TestClient(create_app(Live(engine))) as client:
        for more, status in ((0, 200), (1, 413)):
            told = client.post(
                "/v1/recommend",
                content=b'{"user": "user-03"' + b" " * (padding + more) + b"}",
                headers={"content-type": "application/json"},
            )
            assert told.status_code == status


# -- time and crowds ---------------------------------------------------------------------------------------------------


def test_an_answer_that_takes_too_long_is_a_504_and_the_next_is_none(slow: Slow) -> None:
    """A caller's patience ends before its own timeout does, and the service is not lost with it."""
    with TestClient(create_app(Live(slow), limits=Limits(timeout_s=0.3))) as client:
        late = client.post("/v1/recommend", json={"user": "user-03"})
        assert (late.status_code, "within 0.3 s" in late.json()["detail"]) == (504, True)
        also = client.post("/v2/models/miss-retrieval/infer", json={"inputs": [INPUT]})
        assert (also.status_code, "within 0.3 s" in also.json()["error"]) == (504, True)
        slow.go.set()
        assert client.post("/v1/recommend", json={"user": "user-03"}).status_code == 200
        assert b'miss_requests_total{endpoint="/v1/recommend",method="POST",status="504"} 1.0' in metrics(client)


def test_an_answer_that_has_begun_may_take_its_time(engine: Engine) -> None:
    """A stream of events outlives the patience for its first byte; cut off, its reader would see half of it."""

    async def events() -> AsyncIterator[bytes]:
        yield b"first "
        await asyncio.sleep(0.6)
        yield b"last"

    def streaming(_: Service) -> APIRouter:
        api = APIRouter()
        api.add_api_route("/stream", lambda: StreamingResponse(events()))
        return api

    app = create_app(Live(engine), limits=Limits(timeout_s=0.3), routers=[streaming])
    with serving(app) as address:
        assert httpx.get(f"{address}/stream").content == b"first last"


INPUT = {"name": "user", "datatype": "BYTES", "shape": [1], "data": ["user-03"]}


def test_a_body_that_never_ends_is_given_up(engine: Engine) -> None:
    """Callers that send a byte a minute would hold as many connections as they like."""

    async def trickle(address: str) -> bytes:
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
        writer.write(
            b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
        )
        told = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
        writer.close()
        return told

    with serving(create_app(Live(engine), limits=Limits(timeout_s=0.3))) as address:
        assert b"504" in asyncio.run(trickle(address))


def test_a_crowd_gets_its_answers_or_a_refusal_and_the_service_recovers(slow: Slow) -> None:
    """Beyond the queue callers are told at once to come back; those in it are answered, and so is who comes later."""
    limits = Limits(batch=4, queue=8, timeout_s=20, workers=1)
    with serving(create_app(Live(slow), limits=limits)) as address, ThreadPoolExecutor(30) as pool:
        url = f"{address}/v1/recommend"
        futures = [pool.submit(httpx.post, url, json={"user": "user-03", "k": 3}, timeout=20) for _ in range(30)]
        refused = list(wait(futures, 2.0).done)
        assert {each.result().status_code for each in refused} == {503}
        assert all(each.result().headers["retry-after"] == "1" for each in refused)
        assert "requests wait already" in refused[0].result().json()["detail"]
        assert 30 - 8 - 4 <= len(refused) <= 30 - 8
        slow.go.set()
        assert {each.result().status_code for each in futures if each not in refused} == {200}
        assert httpx.post(url, json={"user": "user-03", "k": 3}).status_code == 200


def test_two_hundred_callers_at_once_are_answered_as_alone(engine: Engine) -> None:
    """Over HTTP, all the way: nobody gets another's answer."""
    bodies = [
        {"history": [str(ITEM_IDS[i]) for i in history], "k": k, "exclude": [str(ITEM_IDS[k])]}
        for history in histories()
        for k in range(1, 18)
    ][:200]
    with serving(create_app(Live(engine))) as address:

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(limits=httpx.Limits(max_connections=200), timeout=30) as client:
                return await asyncio.gather(*(client.post(f"{address}/v1/recommend", json=each) for each in bodies))

        for body, told in zip(bodies, asyncio.run(ask()), strict=True):
            alone = engine.recommend_ids(body["history"], body["k"], exclude_ids=body["exclude"])
            assert told.status_code == 200
            assert [each["item_id"] for each in told.json()["items"]] == [each["item_id"] for each in alone]
            assert [each["score"] for each in told.json()["items"]] == pytest.approx(
                [each["score"] for each in alone], abs=1e-5
            )


# -- who may, and what is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [None, "Bearer", "Bearer wrong", "Basic secret", "secret", "Bearer secret2", "Bearer é"]
)
def test_without_the_token_nothing_is_told_but_health(engine: Engine, given: str | None) -> None:
    """A service that others reach keeps its users' histories from who has no business with them."""
    headers = {} if given is None else {"authorization": given.encode()}
    with TestClient(create_app(Live(engine), token="secret", unguarded=["/v1/model"])) as client:
        for path in ("/v1/users", "/metrics", "/openapi.json", "/nowhere", f"/v1/users/{USER_IDS[3]}", "/v2/models/x"):
            told = client.get(path, headers=headers)
            assert (told.status_code, told.headers["www-authenticate"]) == (401, "Bearer")
            assert len(told.json()) == 1
        for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/v1/model"):
            assert client.get(path, headers=headers).status_code == 200
        for good in ("Bearer secret", "bearer  secret"):
            assert client.get("/v1/users", headers={"authorization": good}).status_code == 200


def test_every_answer_carries_headers_that_keep_browsers_from_guessing(address: str) -> None:
    """Also errors do, and nothing tells which server this is."""
    for path in ("/v1/model", "/nowhere", "/metrics"):
        told = httpx.get(f"{address}{path}").headers
        assert (told["x-content-type-options"], told["x-frame-options"]) == ("nosniff", "DENY")
        assert (told["cache-control"], told["referrer-policy"]) == ("no-store", "no-referrer")
        assert told["content-security-policy"].startswith("default-src 'none'")
        assert "server" not in told


def metrics(client: Any) -> bytes:
    """What Prometheus would read."""
    told = client.get("/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    return told.content


def test_counters_say_what_was_asked_and_how_it_went(engine: Engine) -> None:
    """An alarm has to see errors, waiting and the version; a caller must not be able to flood it with names."""
    live = Live(engine)
    with TestClient(create_app(live), raise_server_exceptions=False) as client:
        client.post("/v1/recommend", json={"user": "user-03"})
        client.post("/v1/recommend", json={"user": "nobody"})
        client.post("/v1/recommend", json={})
        for path in ("/v1/items/item-00", "/v1/items/item-01", "/a", "/b"):
            client.get(path)
        told = metrics(client).decode()
        for line in (
            'miss_requests_total{endpoint="/v1/recommend",method="POST",status="200"} 2.0',
            'miss_requests_total{endpoint="/v1/recommend",method="POST",status="422"} 1.0',
            'miss_requests_total{endpoint="/v1/items/{item_id}",method="GET",status="200"} 2.0',
            'miss_requests_total{endpoint="other",method="any",status="404"} 2.0',
            'miss_request_seconds_count{endpoint="/v1/recommend"} 3.0',
            "miss_popular_answers_total 1.0",
            "miss_batch_size_count 1.0",
            "miss_queue_depth 0.0",
            f'miss_model_info{{digest="{engine.digest}",version="7"}} 1.0',
        ):
            assert line in told, line
        assert "process_resident_memory_bytes" in told
        other = Engine(engine.folder, version="8", threads=1)
        live.swap(other)
        assert 'version="8"} 1.0' in metrics(client).decode()
        assert 'version="7"' not in metrics(client).decode()


def test_a_defect_is_a_500_in_one_sentence_and_counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback is for the log; a caller gets JSON, an alarm its count."""
    monkeypatch.setattr(Engine, "check_k", lambda *_: 1 / 0)
    with TestClient(create_app(Live(engine)), raise_server_exceptions=False) as client:
        told = client.post("/v1/recommend", json={"user": "user-03"})
        assert (told.status_code, told.json()) == (
            500,
            {"detail": "the service failed at this request; its log says how"},
        )
        assert b'endpoint="/v1/recommend",method="POST",status="500"} 1.0' in metrics(client)


@pytest.mark.parametrize(
    "given", [{"queue": 0}, {"timeout_s": -1.0}, {"k": 0}, {"queue": 3}, {"workers": 0}, {"timeout_s": float("nan")}]
)
def test_limits_that_would_refuse_everything_are_refused(given: dict[str, Any]) -> None:
    """A slip in a setting is told at the start, not by every answer."""
    with pytest.raises(BadInput, match=f"serving.{next(iter(given))}"):
        Limits(**given)
    assert Limits(wait_ms=0).wait_ms == 0
