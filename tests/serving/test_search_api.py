"""/v1/similar and /v1/search over the whole service: what a page, a script or an agent sends must come back as items."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from tiny_bundle import ITEM_IDS, publish
from tiny_content import SUBJECTS, pictures

from serving.app import create_app
from serving.engine import Engine
from serving.limits import Limits
from serving.live import Live


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(Live(engine), limits=Limits())) as found:
        yield found


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_version"] == "7"
    return [item["item_id"] for item in answer.json()["items"]]


def test_similar_names_items_with_title_categories_and_score(client: TestClient) -> None:
    asked = {"item_id": str(ITEM_IDS[3]), "k": 4}
    answer = client.post("/v1/similar", json=asked)
    assert str(ITEM_IDS[3]) not in ids(answer)
    assert {"item_id", "title", "categories", "image", "score"} == set(answer.json()["items"][0])
    first, second = ids(answer)[:2]
    assert ids(client.post("/v1/similar", json=asked | {"exclude": [first]}))[0] == second
    assert len(ids(client.post("/v1/similar", json=asked | {"k": 1000}))) == len(ITEM_IDS) - 1


def test_categories_filter_a_search(client: TestClient, engine: Engine) -> None:
    wanted = engine.catalogue.categories(0)[-1]
    answer = client.post("/v1/search", json={"text": SUBJECTS[1], "categories": [wanted], "k": 60})
    assert ids(answer)
    assert all(wanted in item["categories"] for item in answer.json()["items"])
    assert client.post("/v1/search", json={"text": "a", "categories": ["no such"]}).status_code == 422


def test_json_and_form_give_the_same_answer(client: TestClient) -> None:
    picture = pictures()[5]
    assert picture is not None
    asked = {"text": SUBJECTS[2], "box": [0, 0, 1, 0.9], "weights": {"image": 2, "text": 0.5}, "k": 7}
    excluded = [str(ITEM_IDS[1]), str(ITEM_IDS[2])]
    by_json = client.post("/v1/search", json=asked | {"image": base64.b64encode(picture).decode(), "exclude": excluded})
    fields = {name: value if name == "text" else json.dumps(value) for name, value in asked.items()}
    by_form = client.post("/v1/search", data=fields | {"exclude": excluded}, files={"image": ("x.png", picture)})
    assert by_json.json() == by_form.json()
    assert ids(by_form)[0] == str(ITEM_IDS[5])
    assert len(ids(by_form)) == 7


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"json": {}}, 422, "no text and no picture"),
        ({"json": {"text": "x" * 5000}}, 422, "text"),
        ({"json": {"text": "x", "unknown": 1}}, 422, "unknown"),
        ({"json": {"text": "x", "k": 0}}, 422, "k: "),
        ({"json": {"text": "x", "weights": {"sound": 1}}}, 422, "weights"),
        ({"json": {"text": "x", "weights": {"text": -1}}}, 422, "weights"),
        ({"json": {"image": "not base64 ☕"}}, 422, "base64"),
        ({"json": {"image": base64.b64encode(b"no picture").decode()}}, 422, "no format"),
        ({"json": {"text": "x", "box": [0, 1]}}, 422, "box"),
        ({"json": [1]}, 422, ""),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "no JSON"),
        ({"content": b"text=x", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 422, "multipart"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "form"),
        ({"data": {"box": "]"}, "files": {"image": b"x"}}, 422, "box"),
        ({"files": {"picture": b"x"}}, 422, "picture"),
        ({"files": [("image", b"x"), ("image", b"y")]}, 422, "form"),
        ({"files": {"image": b"x" * (2 << 20)}}, 413, "body"),
    ],
)
def test_bad_searches_get_one_sentence(client: TestClient, asked: dict, status: int, told: str) -> None:
    answer = client.post("/v1/search", **asked)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_a_bundle_without_search_says_so_and_goes_on_recommending(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A champion of an earlier release must not take the service down."""
    folder = publish(tmp_path_factory.mktemp("old") / "bundle", searchable=False)
    with TestClient(create_app(Live(Engine(folder, version="1", threads=1)))) as client:
        answer = client.post("/v1/search", json={"text": "x"})
        assert answer.status_code == 503
        assert "miss materialize" in answer.json()["detail"]
        assert client.post("/v1/recommend", json={"history": [str(ITEM_IDS[1])]}).status_code == 200


def test_searches_beyond_the_queue_are_sent_away() -> None:
    """A crowd that sends pictures must not fill the memory."""
    import asyncio
    import threading

    from model.errors import Busy
    from serving.turns import Turns

    async def crowd() -> list[object]:
        turns, release = Turns(1, 2), threading.Event()
        waiting = [asyncio.create_task(turns.take(release.wait)) for _ in range(5)]
        await asyncio.sleep(0.05)
        release.set()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert await turns.take(lambda: "again") == "again"
        return done

    done = asyncio.run(crowd())
    assert [isinstance(each, Busy) for each in done] == [False] * 3 + [True] * 2
