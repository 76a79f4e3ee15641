"""The tools that an agent gets: what it asks, what that costs, what a session carries on, and how it finds what it looks for."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from http_server import serving
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from tiny_bundle import ITEM_IDS, N_ITEMS, USER_IDS
from tiny_content import NO_PICTURE, SUBJECTS, pictures

from model.errors import BadInput
from serving.agents.http import AgentsOverHttp
from serving.agents.sessions import IDLE_S, CallLog, Sessions
from serving.agents.tools import tools
from serving.app import create_app
from serving.engine import Engine
from serving.limits import Limits
from serving.live import Live
from serving.metrics import Metrics
from serving.service import Service

TOOLS = {
    "recommend",
    "search_text",
    "search_image",
    "search_image_region",
    "similar_items",
    "item",
    "start_over",
}
Play = Callable[[Client], Awaitable[Any]]


def play(engine: Engine | None, script: Play, *, limits: Limits | None = None, log: Path | None = None) -> Any:
    """Run a script of an agent against the tools, in this process."""
    limits = limits or Limits()
    live = Live(engine)
    service = Service(live=live, limits=limits, metrics=Metrics(live))
    calls = CallLog(log)

    async def run() -> Any:
        async with Client(tools(service, calls)) as client:
            return await script(client)

    try:
        return asyncio.run(run())
    finally:
        service.close()
        calls.close()


async def told(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer of a call that must succeed."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return answer.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """What a call that must fail is told."""
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error, answer.structured_content
    return str(answer.content[0].text)


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def sent(item: int) -> str:
    """An item's picture as a tool takes it."""
    picture = pictures()[item]
    assert picture is not None
    return base64.b64encode(picture).decode()


def test_every_tool_is_there_with_its_arguments_told(engine: Engine) -> None:
    async def script(client: Client) -> None:
        listed = (await client.list_tools()).tools
        assert {tool.name for tool in listed} == TOOLS
        for tool in listed:
            assert tool.description
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint
            assert "session" in tool.input_schema["properties"]
            assert tool.output_schema is not None
        (search,) = [tool for tool in listed if tool.name == "search_image_region"]
        assert search.input_schema["required"] == ["box"]
        assert search.input_schema["properties"]["k"]["maximum"] == Limits().k

    play(engine, script)


def test_the_tools_answer_as_the_service_does(engine: Engine) -> None:
    """The same items as the engine's own, with the model's version, and each call's cost."""

    async def script(client: Client) -> None:
        user = str(USER_IDS[-1])
        answer = await told(client, "recommend", user=user, k=5)
        assert ids(answer) == [each["item_id"] for each in engine.recommend_user(user, 5) or []]
        assert (answer["model_version"], answer["popular"]) == ("7", False)
        assert answer["cost"] == {"calls": 1, "results": 5}
        answer = await told(client, "recommend", history=[str(ITEM_IDS[4])], k=3, categories=["third"])
        assert all("third" in item["categories"] for item in answer["items"])
        assert (await told(client, "recommend", user="nobody", k=3))["popular"]
        assert ids(await told(client, "search_text", text=SUBJECTS[2], k=1))
        assert ids(await told(client, "search_image", image=sent(5), k=1)) == [str(ITEM_IDS[5])]
        assert str(ITEM_IDS[9]) not in ids(await told(client, "similar_items", item_id=str(ITEM_IDS[9]), k=N_ITEMS))

    play(engine, script)


def test_an_item_comes_with_its_picture_where_that_is_asked_for(engine: Engine) -> None:
    async def script(client: Client) -> None:
        answer = await client.call_tool("item", {"item_id": str(ITEM_IDS[4]), "picture": True})
        assert answer.structured_content is not None
        assert answer.structured_content["item"]["title"] == f"Title of {ITEM_IDS[4]}"
        text, image = answer.content
        assert json.loads(text.text) == answer.structured_content
        assert image.mime_type == "image/webp"
        assert base64.b64decode(image.data)[8:12] == b"WEBP"
        assert len((await client.call_tool("item", {"item_id": str(ITEM_IDS[4])})).content) == 1

    play(engine, script)


def test_an_item_without_a_picture_is_told_without_one(engine: Engine) -> None:
    async def script(client: Client) -> int:
        return len((await client.call_tool("item", {"item_id": str(ITEM_IDS[3]), "picture": True})).content)

    assert NO_PICTURE != 3, "the search's pictures are others than those shown"
    assert play(engine, script) == 1


def test_a_session_carries_exclusions_weights_and_the_picture_on(engine: Engine) -> None:
    async def script(client: Client) -> None:
        first = await told(client, "search_image", image=sent(5), k=3)
        assert ids(first)[0] == str(ITEM_IDS[5])
        again = await told(client, "search_image_region", box=[0, 0, 1, 1], exclude=[str(ITEM_IDS[5])], k=3)
        assert ids(again) == ids(await told(client, "search_image_region", box=[0, 0, 1, 1], k=3))
        assert ids(again)[:2] == ids(first)[1:]
        assert again["carried"] == {"weights": {}, "excluded": 1, "picture": True}
        words = {"text": SUBJECTS[2], "with_picture": True, "k": 1}
        by_words = await told(client, "search_text", **words, weights={"text": 100, "image": 0})
        assert ITEM_IDS.tolist().index(ids(by_words)[0]) % len(SUBJECTS) == 2
        assert ids(await told(client, "search_text", **words)) == ids(by_words)
        by_picture = await told(client, "search_text", **words, weights={"text": 0, "image": 100})
        assert ids(by_picture)[0] == ids(first)[1]
        assert (await told(client, "start_over"))["left"]["calls"] == Limits().agent_calls - 7
        assert "no picture yet" in await refused(client, "search_text", **words)
        assert ids(await told(client, "search_image", image=sent(5), k=1)) == [str(ITEM_IDS[5])]

    play(engine, script)


def test_a_picture_that_cannot_be_read_replaces_none(engine: Engine) -> None:
    async def script(client: Client) -> None:
        await told(client, "search_image", image=sent(6), k=1)
        assert "no format" in await refused(client, "search_image", image=base64.b64encode(b"nothing").decode())
        assert ids(await told(client, "search_image_region", box=[0, 0, 1, 1], k=1)) == [str(ITEM_IDS[6])]

    play(engine, script)


def test_a_budget_ends_a_loop(engine: Engine) -> None:
    """Calls and items run out; bad calls cost too; what is left is told, and k is cut to it."""
    limits = Limits(agent_calls=5, agent_results=12)

    async def script(client: Client) -> None:
        first = await told(client, "search_text", text="penguins", k=10)
        assert first["left"] == {"calls": 4, "results": 2}
        second = await told(client, "search_text", text="penguins", k=10)
        assert (len(second["items"]), second["left"]) == (2, {"calls": 3, "results": 0})
        assert "all of its results" in await refused(client, "search_text", text="penguins")
        assert "all of its results" in await refused(client, "item", item_id=str(ITEM_IDS[0]))

    async def bad(client: Client) -> None:
        for left in range(4, -1, -1):
            assert f"{left} calls" in await refused(client, "item", item_id="no such")
        assert "all of its calls" in await refused(client, "item", item_id=str(ITEM_IDS[0]))

    play(engine, script, limits=limits)
    play(engine, bad, limits=limits)


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("recommend", {}, "names no user and gives no history"),
        ("recommend", {"user": "x", "k": 0}, "k: input should be greater"),
        ("recommend", {"user": "x", "limit": 3}, "no argument 'limit'"),
        ("recommend", {"history": ["no such"]}, "does not know item 'no such'"),
        ("search_text", {}, "text: field required"),
        ("search_text", {"text": "x", "weights": {"sound": 1}}, "weights"),
        ("search_text", {"text": "x", "categories": ["no such"]}, "category 'no such'"),
        ("search_text", {"text": "x", "exclude": ["no such"]}, "does not know item"),
        ("search_image", {"image": "no base64 ☕"}, "not base64"),
        ("search_image_region", {"box": [0, 0, 1]}, "box"),
        ("search_image_region", {"box": [1, 1, 0, 0], "image": sent(3)}, "no part of a picture"),
        ("search_image_region", {"box": [0, 0, 1, 1]}, "no picture yet"),
        ("item", {"item_id": "no such"}, "does not know item"),
        ("item", {"item_id": "x", "session": "made-up"}, "'made-up' is not known"),
        ("delete_everything", {}, "there is no tool 'delete_everything'"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(
    engine: Engine, tool: str, arguments: dict[str, Any], sentence: str
) -> None:
    async def script(client: Client) -> str:
        return await refused(client, tool, **arguments)

    said = play(engine, script)
    assert sentence in said
    assert "\n" not in said
    assert "Error executing" not in said


def test_before_anything_is_promoted_a_tool_says_so(engine: Engine) -> None:
    async def script(client: Client) -> str:
        return await refused(client, "item", item_id="x")

    assert "miss materialize" in play(None, script)


def test_a_defect_shows_nothing_of_itself(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the password is 1234")

    monkeypatch.setattr(engine.searcher, "search", fail)

    async def script(client: Client) -> str:
        return await refused(client, "search_text", text="x")

    assert play(engine, script).startswith("the service failed at this call")


def test_a_call_that_takes_too_long_is_given_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(engine.searcher, "search", lambda **_: time.sleep(0.5))

    async def script(client: Client) -> str:
        return await refused(client, "search_text", text="x")

    assert "no answer within 0.05 s" in play(engine, script, limits=Limits(timeout_s=0.05))


def test_every_call_is_in_the_log_and_no_words_of_it(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "calls.jsonl"

    async def script(client: Client) -> None:
        await told(client, "search_text", text="a secret wish", k=4)
        await refused(client, "item", item_id="no such")

    play(engine, script, log=log)
    assert "secret" not in log.read_text()
    good, bad = (json.loads(line) for line in log.read_text().splitlines())
    assert (good["tool"], good["results"], good["refused"], good["calls_left"]) == ("search_text", 4, None, 99)
    assert good["session"] == bad["session"]
    assert good["ms"] > 0
    assert "does not know item" in bad["refused"]


# -- sessions by themselves ---------------------------------------------------------------------------------------------


def test_sessions_end_by_silence_and_by_crowding() -> None:
    now = [0.0]
    sessions = Sessions(Limits(agent_sessions=3), clock=lambda: now[0])
    first = sessions.of(None)
    assert sessions.of(first.name) is first
    now[0] = IDLE_S - 1
    second = sessions.of(None)
    now[0] = IDLE_S + 1
    with pytest.raises(BadInput, match="silent for 30 minutes"):
        sessions.of(first.name)
    assert sessions.of(second.name) is second
    crowd = [sessions.of(None) for _ in range(3)]
    assert len(sessions) == 3
    assert len({each.name for each in crowd}) == 3
    with pytest.raises(BadInput, match="not known"):
        sessions.of(second.name)
    assert sessions.of(None, "a connection") is sessions.of(None, "a connection")


def test_what_a_newer_model_no_longer_knows_is_not_asked_of_it(engine: Engine) -> None:
    """A swap in the middle of a session must not break it."""
    session = Sessions(Limits()).of(None)
    session.excluded = {"gone with the old model": None}
    assert session.exclude(engine, [str(ITEM_IDS[1])], 10) == [str(ITEM_IDS[1])]
    with pytest.raises(BadInput, match="at most 1;"):
        session.exclude(engine, [str(ITEM_IDS[2])], 1)


# -- over HTTP and stdio ------------------------------------------------------------------------------------------------


def test_over_http_with_the_token_of_the_service(engine: Engine, tmp_path: Path) -> None:
    """Both protocols: that of today, where a session is named, and the older one, whose connection has one."""
    agents = AgentsOverHttp(log=tmp_path / "calls.jsonl")
    app = create_app(Live(engine), token="secret", routers=[agents.router], beside=[agents.beside])

    async def script(address: str) -> None:
        async with httpx2.AsyncClient(timeout=20) as anybody:
            assert (await anybody.post(f"{address}/mcp", json={})).status_code == 401
        headers = {"authorization": "Bearer secret"}
        async with httpx2.AsyncClient(headers=headers, timeout=20) as http:
            elsewhere = await http.post(f"{address}/mcp", json={}, headers={"host": "elsewhere.example"})
            assert elsewhere.status_code == 421
            assert (await http.post(f"{address}/mcp", content=b"x" * (2 << 20))).status_code == 413
            for mode in ("auto", "legacy"):
                async with Client(streamable_http_client(f"{address}/mcp", http_client=http), mode=mode) as client:
                    first = await told(client, "search_image", image=sent(5), k=2)
                    named = {"session": first["session"]} if mode == "auto" else {}
                    again = await told(client, "search_image_region", box=[0, 0, 1, 1], k=2, **named)
                    assert ids(again) == ids(first)
                    assert again["session"] == first["session"]
                    assert again["left"]["calls"] == Limits().agent_calls - 2
                    unnamed = await told(client, "search_text", text="penguins", k=1)
                    assert (unnamed["session"] == first["session"]) == (mode == "legacy")
            counted = (await http.get(f"{address}/metrics")).text
            assert 'miss_requests_total{endpoint="/mcp"' in counted

    with serving(app) as address:
        asyncio.run(script(address))


@pytest.mark.slow
def test_over_stdio_as_a_process_of_the_agent(tmp_path: Path) -> None:
    """`miss mcp` says nothing on stdout that is not the protocol, also before there is anything to serve."""
    env = {**os.environ, "MISS_HOME": str(tmp_path / "home")}
    started = StdioServerParameters(command=sys.executable, args=["-m", "orchestration.cli", "mcp"], env=env)

    async def script() -> None:
        async with Client(started) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
            assert "nothing" in await refused(client, "search_text", text="anything")

    asyncio.run(script())
    assert (tmp_path / "home" / "logs" / "agent-calls.jsonl").read_text().count("\n") == 1
