"""What a caller of the service would lose: answers for users, sessions and strangers, and one sentence where it cannot be."""

from __future__ import annotations

import socket

import pytest
from fastapi.testclient import TestClient
from tiny_bundle import BEAM, ITEM_IDS, N_ITEMS, N_USERS, USER_IDS

from model.errors import BadInput
from serving.app import MAX_HISTORY, create_app, run
from serving.engine import Engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> TestClient:
    return TestClient(create_app(engine), raise_server_exceptions=False)


def test_health_says_which_bundle_answers(client: TestClient, engine: Engine) -> None:
    told = client.get("/health").json()
    assert told["status"] == "ok"
    assert (told["version"], told["digest"]) == ("7", engine.digest)
    assert (told["items"], told["users"], told["simulated"]) == (N_ITEMS, N_USERS, True)


@pytest.mark.parametrize("user", [str(USER_IDS[3]), str(USER_IDS[-1])])
def test_a_known_user_by_query_and_by_body(client: TestClient, engine: Engine, user: str) -> None:
    by_query = client.get("/recommend", params={"user": user, "k": 3})
    by_body = client.post("/recommend", json={"user": user, "k": 3})
    assert by_query.status_code == by_body.status_code == 200
    assert by_query.json() == by_body.json()
    assert by_query.json() == {
        "user": user,
        "version": "7",
        "items": engine.recommend_user(user, 3),
        "popular": False,
    }


def test_a_history_in_the_request_wins_over_the_stored_one(client: TestClient, engine: Engine) -> None:
    history = [str(ITEM_IDS[i]) for i in (5, 0, 59)]
    told = client.post("/recommend", json={"user": str(USER_IDS[3]), "history": history, "k": 4}).json()
    assert told["items"] == engine.recommend_ids(history, 4)
    by_query = client.get("/recommend", params={"history": history, "exclude": told["items"][0]["item_id"], "k": 3})
    assert by_query.json()["user"] is None
    assert by_query.json()["items"] == told["items"][1:]


def test_a_stranger_is_offered_what_is_popular_and_told_so(client: TestClient, engine: Engine) -> None:
    told = client.get("/recommend", params={"user": "nobody", "k": 5}).json()
    assert told["popular"] is True
    assert told["items"] == engine.popular_items(5)


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
        ({"history": ["item-00"] * (MAX_HISTORY + 1)}, "history: list should have at most 20000 items"),
        ({"user": "user-01", "exclude": ["gone"]}, "does not know item 'gone'"),
        ({"user": ""}, "user: string should have at least 1 character"),
        ({"user": "user-01", "n": 3}, "n: extra inputs are not permitted"),
        ([1], "the request: "),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(client: TestClient, body: object, said: str) -> None:
    told = client.post("/recommend", json=body)
    assert told.status_code == 422
    assert set(told.json()) == {"detail"}
    assert said in told.json()["detail"]
    assert "\n" not in told.json()["detail"]


def test_a_long_history_is_answered(client: TestClient) -> None:
    told = client.post("/recommend", json={"history": ["item-00", "item-01"] * (MAX_HISTORY // 2), "k": 2})
    assert (told.status_code, len(told.json()["items"])) == (200, 2)


def test_broken_json_and_other_paths_and_methods(client: TestClient) -> None:
    broken = client.post("/recommend", content=b"{", headers={"content-type": "application/json"})
    assert broken.status_code == 422
    assert "\n" not in broken.json()["detail"]
    for found, status in ((client.get("/docs"), 404), (client.get("/x"), 404), (client.delete("/recommend"), 405)):
        assert found.status_code == status
        assert "/health or /recommend" in found.json()["detail"]


def test_a_taken_port_is_one_sentence(engine: Engine) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BadInput, match="cannot be listened on"):
            run(engine, port=other.getsockname()[1])
    with pytest.raises(BadInput, match="cannot be listened on"):
        run(engine, port=70_000)
