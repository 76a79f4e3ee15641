"""What a caller of the service would lose: answers for users, sessions and strangers, and one sentence where it cannot be."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tiny_bundle import BEAM, CATEGORIES, ITEM_IDS, N_ITEMS, N_USERS, USER_IDS, histories, picture

from model.errors import BadInput
from serving.app import create_app, run
from serving.engine import Engine
from serving.limits import Limits
from serving.live import Live

HISTORY = Limits().history
PATHS = {
    "/v1/recommend", "/v1/items", "/v1/items/{item_id}", "/v1/users", "/v1/users/{user}", "/v1/model",
    "/v1/items/{item_id}/image", "/v1/tree", "/v1/compare", "/v1/similar", "/v1/search",
    "/health/live", "/health/ready", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready",
    "/v2/models/{name}", "/v2/models/{name}/versions/{version}", "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(Live(engine)), raise_server_exceptions=False) as client:
        yield client


def ids(answer: dict) -> list[str]:
    """What was recommended."""
    return [each["item_id"] for each in answer["items"]]


def categories_of(item: Any) -> dict[str, list[str]]:
    """What the service adds to an engine's item."""
    index = ITEM_IDS.tolist().index(item["item_id"])
    return {"categories": CATEGORIES[index].split(", "), "image": picture(index) is not None}


def test_health_and_model_say_which_bundle_answers(client: TestClient, engine: Engine) -> None:
    """A probe and a reviewer must see which bytes serve, with the figures they were promoted for."""
    assert client.get("/health/live").json() == {"status": "live", "model_version": None}
    assert client.get("/health/ready").json() == {"status": "ready", "model_version": "7"}
    told = client.get("/v1/model").json()
    assert (told["model_version"], told["digest"]) == ("7", engine.digest)
    assert (told["items"], told["users"], told["simulated"], told["beam"]) == (N_ITEMS, N_USERS, True, BEAM)
    assert told["metrics"][0]["recall@10"] == 0.3


def test_nothing_promoted_yet_is_live_and_not_ready() -> None:
    """A balancer must send nobody to a service without a bundle, nor restart it."""
    with TestClient(create_app(Live()), raise_server_exceptions=False) as client:
        assert client.get("/health/live").status_code == 200
        for told in (
            client.get("/health/ready"),
            client.get("/v1/model"),
            client.post("/v1/recommend", json={"user": "x"}),
        ):
            assert (told.status_code, told.headers["retry-after"]) == (503, "1")
            assert "miss materialize" in told.json()["detail"]
        assert client.get("/v2/health/ready").json()["error"]
        assert b"miss_ready 0.0" in client.get("/metrics").content


@pytest.mark.parametrize("user", [str(USER_IDS[3]), str(USER_IDS[-1])])
def test_a_known_user(client: TestClient, engine: Engine, user: str) -> None:
    """A known user gets what the search finds, named."""
    told = client.post("/v1/recommend", json={"user": user, "k": 3})
    assert told.status_code == 200
    found = engine.recommend_user(user, 3)
    assert found is not None
    assert told.json() == {
        "model_version": "7",
        "user": user,
        "popular": False,
        "items": [each | {"score": pytest.approx(each["score"], abs=1e-5)} | categories_of(each) for each in found],
    }


def test_a_history_in_the_request_wins_over_the_stored_one(client: TestClient, engine: Engine) -> None:
    """What somebody did a minute ago counts, although the bundle was made yesterday."""
    history = [str(ITEM_IDS[i]) for i in (5, 0, 59)]
    told = client.post("/v1/recommend", json={"user": str(USER_IDS[3]), "history": history, "k": 4}).json()
    assert ids(told) == [each["item_id"] for each in engine.recommend_ids(history, 4)]
    without = client.post("/v1/recommend", json={"history": history, "exclude": [ids(told)[0]], "k": 3}).json()
    assert without["user"] is None
    assert ids(without) == ids(told)[1:]


def test_a_stranger_is_offered_what_is_popular_and_told_so(client: TestClient, engine: Engine) -> None:
    """A page must not say "for you" over what everybody gets."""
    told = client.post("/v1/recommend", json={"user": "nobody", "k": 5}).json()
    assert told["popular"] is True
    assert told["items"] == [each | categories_of(each) for each in engine.popular_items(5)]
    some = client.post("/v1/recommend", json={"user": "nobody", "k": N_ITEMS // 3, "categories": ["third"]}).json()
    assert len(ids(some)) == min(N_ITEMS // 3, BEAM)
    assert all("third" in each["categories"] for each in some["items"])


@pytest.mark.parametrize("categories", [["third"], ["fifth"], ["fifth", "third"], ["odd"]])
def test_categories_are_the_best_of_what_is_left(client: TestClient, engine: Engine, categories: list[str]) -> None:
    """A filter laid over ten answers leaves two; laid on the search, it leaves ten, and the best ten.

    Few enough items are left that the beam holds all of them: the oracle scores everything that is not excluded.
    """
    wanted = {
        str(item) for item, text in zip(ITEM_IDS, CATEGORIES, strict=True) if set(text.split(", ")) & set(categories)
    }
    for user, history in zip(USER_IDS, histories(), strict=True):
        told = client.post("/v1/recommend", json={"user": str(user), "k": 5, "categories": categories}).json()
        seen = {str(ITEM_IDS[item]) for item in history}
        left = wanted - seen
        assert len(ids(told)) == min(5, len(left))
        assert set(ids(told)) <= left
        if len(left) <= BEAM // 2:
            scores = {}  # one at a time, everything else excluded: no other item can take its place in the beam
            for item in sorted(left):
                index = int(engine.to_indices([item])[0])
                others = np.delete(np.arange(N_ITEMS), index)
                _, score = engine.recommend([history], 1, exclude=[others])
                scores[item] = float(score[0, 0])
            best = sorted(scores, key=lambda item: -scores[item])[:5]
            assert [each["score"] for each in told["items"]] == pytest.approx([scores[item] for item in best], abs=1e-4)
            assert ids(told) == best


def test_items_by_id_and_by_title(client: TestClient, engine: Engine) -> None:
    """The page finds a film by a part of its title, and shows one it has an id of."""
    for item in (str(ITEM_IDS[0]), "it's a café ☕", 'odd "one"'):
        told = client.get(f"/v1/items/{item}").json()
        index = int(engine.to_indices([item])[0])
        assert (told["item_id"], told["title"]) == (item, f"Title of {item}")
        assert told["categories"] == CATEGORIES[index].split(", ")
        assert (told["behaviors"], told["model_version"]) == (int(engine.counts[index]), "7")
    assert client.get("/v1/items/nope").json() == {"detail": "the promoted model does not know item 'nope'"}
    assert client.get("/v1/items/nope").status_code == 404
    found = client.get("/v1/items", params={"query": "ITEM-0", "limit": 50}).json()["items"]
    assert {each["item_id"] for each in found} == {f"item-0{i}" for i in range(10)}
    counts = [int(engine.counts[engine.to_indices([each["item_id"]])[0]]) for each in found]
    assert counts == sorted(counts, reverse=True)
    assert len(client.get("/v1/items", params={"limit": 7}).json()["items"]) == 7
    assert client.get("/v1/items", params={"query": "CAFÉ"}).json()["items"][0]["item_id"] == "it's a café ☕"
    assert client.get("/v1/items", params={"query": "no such title"}).json()["items"] == []


def test_users_by_id_and_by_its_beginning(client: TestClient) -> None:
    """The page offers users to pick, and shows what they did, oldest first."""
    told = client.get("/v1/users", params={"limit": 4}).json()
    assert (told["total"], told["users"]) == (N_USERS, USER_IDS[:4].tolist())
    assert client.get("/v1/users", params={"query": "user-1"}).json()["users"] == ["user-10"]
    assert client.get("/v1/users", params={"query": "zoë"}).json()["users"] == ["zoë o'neil"]
    for user, history in zip(USER_IDS, histories(), strict=True):
        one = client.get(f"/v1/users/{user}").json()
        assert [each["item_id"] for each in one["history"]] == ITEM_IDS[history].tolist()
        assert one["behaviors"] == len(history)
    newest = client.get(f"/v1/users/{USER_IDS[5]}", params={"limit": 3}).json()
    assert [each["item_id"] for each in newest["history"]] == ITEM_IDS[histories()[5][-3:]].tolist()
    assert newest["behaviors"] == 20
    assert client.get("/v1/users/nobody").status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "names no user"),
        ({"user": "user-01", "k": 0}, "k: input should be greater than or equal to 1"),
        ({"user": "user-01", "k": 1001}, "k: input should be less than or equal to 1000"),
        ({"user": "user-01", "k": BEAM + 1}, f"k = {BEAM + 1}"),
        ({"user": "user-01", "k": "many"}, "k: input should be a valid integer"),
        ({"history": ["nope"]}, "does not know item 'nope'"),
        ({"history": "item-00"}, "history: input should be a valid list"),
        ({"history": ["item-00"] * (HISTORY + 1)}, "history: list should have at most 20000 items"),
        ({"user": "user-01", "exclude": ["gone"]}, "does not know item 'gone'"),
        ({"user": "user-01", "categories": ["none", "third"]}, "has the category 'none'; "),
        ({"user": ""}, "user: string should have at least 1 character"),
        ({"user": "user-01", "n": 3}, "n: extra inputs are not permitted"),
        ([1], "the request: "),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(client: TestClient, body: object, said: str) -> None:
    """Whoever calls learns what to change."""
    told = client.post("/v1/recommend", json=body)
    assert told.status_code == 422
    assert set(told.json()) == {"detail"}
    assert said in told.json()["detail"]
    assert "\n" not in told.json()["detail"]


def test_a_long_history_is_answered(client: TestClient) -> None:
    """The longest history that may be sent fits into the largest body, and is answered."""
    told = client.post("/v1/recommend", json={"history": ["item-00", "item-01"] * (HISTORY // 2), "k": 2})
    assert (told.status_code, len(told.json()["items"])) == (200, 2)


def test_broken_json_and_other_paths_and_methods(client: TestClient) -> None:
    """Also what is no request is one sentence."""
    for body in (b"{", b"\xff", b""):
        broken = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
        assert broken.status_code == 422
        assert "\n" not in broken.json()["detail"]
    for found, status in ((client.get("/docs"), 404), (client.get("/x"), 404), (client.delete("/v1/recommend"), 405)):
        assert found.status_code == status
        assert "/openapi.json says what there is" in found.json()["detail"]
    assert client.get("/v2/x").json()["error"].startswith("there is no GET /v2/x here")


def test_the_description_tells_the_endpoints_and_their_bounds() -> None:
    """A client is generated from this; bounds that are set are the bounds it reads."""
    told = create_app(Live(), limits=Limits(k=17)).openapi()
    assert set(told["paths"]) == PATHS
    wanted = told["components"]["schemas"]["Wanted"]["properties"]
    assert (wanted["k"]["maximum"], wanted["exclude"]["maxItems"]) == (17, HISTORY)


def test_a_taken_port_is_one_sentence() -> None:
    """Two services on one port: the second says so."""
    app = create_app(Live())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BadInput, match="cannot be listened on"):
            run(app, port=other.getsockname()[1])
    with pytest.raises(BadInput, match="cannot be listened on"):
        run(app, port=70_000)
