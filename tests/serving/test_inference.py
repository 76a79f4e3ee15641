"""What a client of the Open Inference Protocol would lose: the paths and shapes it was written for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tiny_bundle import BEAM, ITEM_IDS, N_ITEMS, USER_IDS

from serving.app import create_app
from serving.engine import Engine
from serving.limits import Limits
from serving.live import Live

MODEL = "/v2/models/miss-retrieval"
LOWEST = float(np.finfo(np.float32).min)


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(Live(engine), limits=Limits(history=500)), raise_server_exceptions=False) as client:
        yield client


def tensor(name: str, shape: list[int], data: list[Any], datatype: str = "BYTES") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def outputs(told: Any) -> dict[str, Any]:
    """{name: array in its shape} of an answer."""
    assert told.status_code == 200, told.text
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in told.json()["outputs"]}


@pytest.mark.parametrize("version", ["", "/versions/7"])
def test_what_a_client_asks_before_it_begins(client: TestClient, version: str) -> None:
    """KServe's controllers and Triton's clients look for these first."""
    assert set(client.get("/v2").json()) == {"name", "version", "extensions"}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get(f"{MODEL}{version}/ready").json() == {"name": "miss-retrieval", "ready": True}
    told = client.get(f"{MODEL}{version}").json()
    assert (told["name"], told["versions"]) == ("miss-retrieval", ["7"])
    assert [each["name"] for each in told["inputs"] + told["outputs"]] == [
        "user",
        "history",
        "items",
        "scores",
        "popular",
    ]


@pytest.mark.parametrize("path", ["/v2/models/other", f"{MODEL}/versions/6"])
def test_another_model_or_version_is_not_there(client: TestClient, path: str) -> None:
    """A client that insists on a version must not be given another one's answers."""
    body = {"inputs": [tensor("user", [1], ["user-03"])]}
    for told in (client.get(path), client.get(f"{path}/ready"), client.post(f"{path}/infer", json=body)):
        assert told.status_code == 404
        assert "miss-retrieval, version 7, serves" in told.json()["error"]


def test_users_in_a_batch_get_what_each_gets_alone(client: TestClient, engine: Engine) -> None:
    """A batch of known users, and one nobody knows, marked."""
    users = [*USER_IDS.tolist(), "nobody"]
    told = client.post(
        f"{MODEL}/infer", json={"id": "42", "inputs": [tensor("user", [len(users)], users)], "parameters": {"k": 4}}
    )
    assert (told.json()["id"], told.json()["model_version"]) == ("42", "7")
    found = outputs(told)
    assert found["items"].shape == found["scores"].shape == (len(users), 4)
    assert found["popular"].tolist() == [False] * len(USER_IDS) + [True]
    for row, user in enumerate(users):
        alone = engine.recommend_user(user, 4) or engine.popular_items(4)
        assert found["items"][row].tolist() == [each["item_id"] for each in alone]
        assert found["scores"][row].tolist() == pytest.approx([each["score"] for each in alone], abs=1e-5)


@pytest.mark.parametrize("nested", [True, False])
def test_histories_of_different_lengths_are_filled_up(client: TestClient, engine: Engine, nested: bool) -> None:
    """A tensor has one width, histories have many; a shorter one is padded, on either side."""
    short, long = [str(ITEM_IDS[i]) for i in (4, 9)], [str(ITEM_IDS[i]) for i in (1, 2, 3, 50)]
    rows = [["", *short, ""], long, ["", "", "", ""]]
    data: list[Any] = rows if nested else [each for row in rows for each in row]
    found = outputs(client.post(f"{MODEL}/infer", json={"inputs": [tensor("history", [3, 4], data)]}))
    for row, history in enumerate((short, long, [])):
        assert found["items"][row].tolist() == [each["item_id"] for each in engine.recommend_ids(history, 10)]
    both = [tensor("user", [3], ["user-03", "", "user-05"]), tensor("history", [3, 4], data)]
    found = outputs(client.post(f"{MODEL}/infer", json={"inputs": both}))
    known = engine.recommend_user("user-05", 10)
    assert known is not None
    assert found["items"][2].tolist() == [each["item_id"] for each in known], "padding alone is no history"


def test_where_few_are_left_the_rest_is_empty(client: TestClient) -> None:
    """Rows keep their width, and what fills them cannot be mistaken for an item."""
    history = ITEM_IDS[: N_ITEMS - 2].tolist()
    body = {"inputs": [tensor("history", [1, len(history)], history)], "parameters": {"k": 4}, "outputs": [
        {"name": "scores"}, {"name": "items"}]}  # fmt: skip
    found = outputs(client.post(f"{MODEL}/infer", json=body))
    assert set(found) == {"items", "scores"}
    assert set(found["items"][0, :2]) == set(ITEM_IDS[N_ITEMS - 2 :])
    assert found["items"][0, 2:].tolist() == ["", ""]
    assert found["scores"][0, 2:].tolist() == [LOWEST, LOWEST]


def test_whole_numbers_are_ids(client: TestClient) -> None:
    """INT64 1193 is the film "1193", as in every version, and no row of this one's table."""
    told = client.post(f"{MODEL}/infer", json={"inputs": [tensor("history", [1, 2], [-1, 1193], "INT64")]})
    assert (told.status_code, "does not know item '1193'" in told.json()["error"]) == (422, True)
    users = outputs(client.post(f"{MODEL}/infer", json={"inputs": [tensor("user", [1], [12], "INT64")]}))
    assert users["popular"].tolist() == [True]


def test_tensors_behind_the_json(client: TestClient, engine: Engine) -> None:
    """Triton's client sends texts as bytes unless it is told otherwise."""

    def packed(texts: list[str]) -> bytes:
        return b"".join(len(raw).to_bytes(4, "little") + raw for raw in (text.encode() for text in texts))

    users, history = packed(["zoë o'neil", "user-03"]), packed([str(ITEM_IDS[7]), "", "", ""])
    header = json.dumps({"inputs": [
        {"name": "user", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(users)}},
        {"name": "history", "shape": [2, 2], "datatype": "BYTES", "parameters": {"binary_data_size": len(history)}},
    ]}).encode()  # fmt: skip
    length = {"Inference-Header-Content-Length": str(len(header))}
    found = outputs(client.post(f"{MODEL}/infer", content=header + users + history, headers=length))
    known = engine.recommend_user("user-03", 10)
    assert known is not None
    assert found["items"][0].tolist() == [x["item_id"] for x in engine.recommend_ids([str(ITEM_IDS[7])], 10)]
    assert found["items"][1].tolist() == [each["item_id"] for each in known]
    for content, more in (
        (header + users, length),
        (header + users + history + b"x", length),
        (header + users[:-1] + b"\xff" + history, length),
        (header + b"\xff" * len(users) + history, length),
        (header, {"Inference-Header-Content-Length": "999999"}),
        (header, {"Inference-Header-Content-Length": "-1"}),
    ):
        told = client.post(f"{MODEL}/infer", content=content, headers=more)
        assert (told.status_code, list(told.json())) == (422, ["error"])


def test_numbers_behind_the_json(client: TestClient) -> None:
    """INT64 are eight bytes each."""
    raw = np.array([-1, 1193], "<i8").tobytes()
    header = {
        "inputs": [{"name": "history", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}]
    }
    for size, said in ((16, "does not know item '1193'"), (15, "no multiple of the 8")):
        header["inputs"][0]["parameters"] = {"binary_data_size": size}
        text = json.dumps(header).encode()
        told = client.post(
            f"{MODEL}/infer", content=text + raw[:size], headers={"Inference-Header-Content-Length": str(len(text))}
        )
        assert said in told.json()["error"]


USER = tensor("user", [1], ["user-03"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "inputs: field required"),
        ({"inputs": []}, "send `user`, `history` or both"),
        ({"inputs": [USER, USER]}, "both, once"),
        ({"inputs": [tensor("x", [1], ["a"])]}, "inputs are ['x']"),
        ({"inputs": [tensor("user", [2], ["user-03"])]}, "has 1 values, not those of the shape [2]"),
        ({"inputs": [tensor("user", [1, 2], ["a", "b"])]}, "one user a row"),
        ({"inputs": [tensor("user", [65], ["a"] * 65)]}, "at most 64 at a time"),
        ({"inputs": [tensor("history", [1, 501], [""] * 501)]}, "at most 500 behaviors"),
        ({"inputs": [tensor("user", [1], [True], "INT64")]}, "holds True, which is no INT64"),
        ({"inputs": [tensor("user", [1], [1])]}, "holds 1, which is no BYTES"),
        ({"inputs": [tensor("user", [1], [1.0], "FP32")]}, "send BYTES or INT64"),
        ({"inputs": [USER, tensor("history", [2, 1], ["", ""])]}, "of 1 and 2 rows"),
        ({"inputs": [tensor("history", [1, 1], ["nope"])]}, "does not know item 'nope'"),
        ({"inputs": [tensor("user", [1], [""])]}, "names no user"),
        ({"inputs": [USER], "parameters": {"k": True}}, "k = True"),
        ({"inputs": [USER], "parameters": {"k": 0}}, "k = 0"),
        ({"inputs": [USER], "parameters": {"k": BEAM + 1}}, f"k = {BEAM + 1}"),
        ({"inputs": [USER], "outputs": [{"name": "x"}]}, "no output 'x'"),
        ({"inputs": [USER | {"data": [["a"] * 3]}]}, "has 3 values"),
        ({"inputs": [USER | {"data": None}]}, "has 0 values"),
        ({"inputs": [USER | {"shape": [-1]}]}, "inputs.0.shape.0: "),
        ({"inputs": [USER | {"shape": [1, 1, 1]}]}, "inputs.0.shape: "),
    ],
)
def test_what_is_no_request_is_one_sentence(client: TestClient, body: Any, said: str) -> None:
    """Errors are as the protocol has them, so that its clients can show them."""
    told = client.post(f"{MODEL}/infer", json=body)
    assert told.status_code == 422
    assert list(told.json()) == ["error"]
    assert said in told.json()["error"]
    assert "\n" not in told.json()["error"]


def test_a_batch_of_nobody_is_answered(client: TestClient) -> None:
    """Zero rows in, zero rows out."""
    found = outputs(client.post(f"{MODEL}/infer", json={"inputs": [tensor("history", [0, 3], [])]}))
    assert found["items"].shape[0] == 0
