"""A user would lose: reasons that name what they did, where they did it; a caller, a clear word where there are none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from test_engine import changed
from tiny_bundle import CATEGORIES, ITEM_IDS, N_ITEMS, USER_IDS, histories, picture

from model.errors import BadInput, Corrupt
from model.files import read_npz, write_npz
from model.index_tree import IndexTree
from serving.app import create_app
from serving.engine import Engine
from serving.live import Live

USER = 5


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(Live(engine)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def tree(bundle: Path) -> IndexTree:
    return IndexTree.load(bundle / "tree.npz")


def test_reasons_name_what_was_done_and_the_way_down(engine: Engine, tree: IndexTree) -> None:
    history = np.asarray(histories()[USER], np.int64)
    items, scores = engine.recommend([history], 6)
    for item, score, why in zip(items[0], scores[0], engine.explain(history, items[0]), strict=True):
        for unit in (why["co"], why["mm"]):
            assert unit
            assert all(history[each["position"]] == each["item"] for each in unit)
            assert sum(each["weight"] for each in unit) <= 1 + 1e-5
        assert [step["node"] for step in why["path"]] == tree.paths()[item].tolist()
        assert [step["level"] for step in why["path"]] == list(range(tree.depth + 1))
        assert [step["items"] for step in why["path"]] == tree.sizes()[tree.paths()[item]].tolist()
        assert why["path"][0]["score"] is None, "nothing is chosen at the root"
        assert why["path"][-1]["score"] == pytest.approx(float(score), abs=1e-4)
        assert why["path"][-1]["typical"] == [item]


def test_positions_count_from_the_oldest_where_only_the_newest_are_read(bundle: Path, tmp_path: Path) -> None:
    meta = json.loads((bundle / "manifest.json").read_text())["meta"]
    meta["model"]["max_history"] = 10
    short = Engine(changed(bundle, tmp_path / "short", lambda _: meta), threads=1)
    history = np.arange(30)
    whole, part = (short.explain(each, np.array([40]))[0]["co"] for each in (history, history[-10:]))
    assert [each["position"] - 20 for each in whole] == [each["position"] for each in part]
    assert all(history[each["position"]] == each["item"] for each in whole)


def test_nothing_done_has_no_behaviors_and_bad_indices_are_refused(engine: Engine) -> None:
    (why,) = engine.explain(np.zeros(0, np.int64), np.array([3]))
    assert why["co"] == why["mm"] == []
    assert why["path"][-1]["score"] is not None
    assert engine.explain(np.arange(3), np.zeros(0, np.int64)) == []
    with pytest.raises(BadInput, match="item index 60"):
        engine.explain(np.arange(3), np.array([N_ITEMS]))


def test_the_endpoint_tells_reasons_only_when_asked(client: TestClient, engine: Engine) -> None:
    user = str(USER_IDS[USER])
    plain = client.post("/v1/recommend", json={"user": user, "k": 4}).json()
    told = client.post("/v1/recommend", json={"user": user, "k": 4, "explain": True}).json()
    assert all("why" not in item for item in plain["items"])
    history = engine.stored(user)
    assert history is not None
    for item in told["items"]:
        why = item.pop("why")
        assert all(ITEM_IDS[history[each["position"]]] == each["item_id"] for each in why["co"] + why["mm"])
        assert why["path"][-1]["label"] == item["title"]
        assert all(picture(ITEM_IDS.tolist().index(each)) for step in why["path"] for each in step["typical"])
    assert [each["item_id"] for each in told["items"]] == [each["item_id"] for each in plain["items"]]
    stranger = client.post("/v1/recommend", json={"user": "nobody", "k": 2, "explain": True}).json()
    assert stranger["popular"]
    assert all("why" not in item for item in stranger["items"])
    many = client.post("/v1/recommend", json={"user": user, "k": 101, "explain": True})
    assert (many.status_code, "at most 100" in many.json()["detail"]) == (422, True)


def test_a_bundle_without_reasons_still_serves(bundle: Path, tmp_path: Path) -> None:
    """Bundles promoted before there were reasons must come up again after an update of the service."""

    def bare(folder: Path) -> None:
        for name in ("explain.onnx", "nodes.npz", "pictures.bin", "pictures.npz"):
            (folder / name).unlink()

    with TestClient(create_app(Live(Engine(changed(bundle, tmp_path / "bare", bare), threads=1)))) as client:
        assert client.get("/v1/model").json()["explains"] is False
        told = client.post("/v1/recommend", json={"history": ["item-00"], "k": 2})
        assert [item["image"] for item in told.json()["items"]] == [False, False]
        for path, body in (("/v1/recommend", {"history": ["item-00"], "explain": True}), ("/v1/tree", {})):
            refused = client.post(path, json=body)
            assert (refused.status_code, "miss materialize" in refused.json()["detail"]) == (422, True)
        assert client.get("/v1/items/item-00/image").status_code == 404


def test_tables_of_another_catalogue_are_refused(bundle: Path, tmp_path: Path) -> None:
    def fewer(folder: Path) -> None:
        write_npz(folder / "pictures.npz", {"offsets": np.zeros(4, np.int64)})

    def torn(folder: Path) -> None:
        (folder / "pictures.bin").write_bytes(b"short")

    def other(folder: Path) -> None:
        names = read_npz(folder / "nodes.npz")
        write_npz(folder / "nodes.npz", names | {"item_leaf": names["item_leaf"][:9]})

    def junk(folder: Path) -> None:
        (folder / "explain.onnx").write_bytes(b"junk")

    for name, change, said in (
        ("fewer", fewer, "3 pictures of 60"),
        ("torn", torn, "not what its table says"),
        ("other", other, "of 9 items"),
        ("junk", junk, "ONNX Runtime can load"),
    ):
        with pytest.raises(Corrupt, match=said):
            Engine(changed(bundle, tmp_path / name, change), threads=1)


def test_pictures_are_sent_once(client: TestClient, engine: Engine) -> None:
    with_one, without = str(ITEM_IDS[0]), str(ITEM_IDS[3])
    told = client.get(f"/v1/items/{with_one}/image")
    assert (told.status_code, told.headers["content-type"], told.content[8:12]) == (200, "image/webp", b"WEBP")
    again = client.get(f"/v1/items/{with_one}/image", headers={"if-none-match": f'"x", {told.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", told.headers["etag"])
    tags = {client.get(f"/v1/items/{item}/image").headers["etag"] for item in ITEM_IDS[:3]}
    assert len(tags) == 3, "another picture, another digest"
    for item in (without, "nope"):
        assert client.get(f"/v1/items/{item}/image").status_code == 404


def test_pictures_outlive_their_folder(bundle: Path, tmp_path: Path) -> None:
    """A registry that cleans up must not blank the page."""
    engine = Engine(Path(shutil.copytree(bundle, tmp_path / "copy")), threads=1)
    assert engine.pictures is not None
    before = engine.pictures.read(8)
    shutil.rmtree(tmp_path / "copy")
    assert engine.pictures.read(8) == before
    assert before


def brute(tree: IndexTree, node: int) -> np.ndarray:
    return np.flatnonzero((tree.paths() == node).any(axis=1))


def test_the_tree_is_the_index_and_the_beam_lies_where_the_search_ended(
    client: TestClient, engine: Engine, tree: IndexTree
) -> None:
    user = str(USER_IDS[USER])
    told = client.post("/v1/tree", json={"user": user, "levels": 10}).json()
    assert (told["depth"], told["items"]) == (tree.depth, N_ITEMS)
    history = engine.stored(user)
    assert history is not None
    best = set(engine.recommend([history], engine.beam)[0][0].tolist())
    assert [each["node"] for each in told["nodes"]] == list(range(tree.n_nodes))
    for each in told["nodes"]:
        under = brute(tree, each["node"])
        assert each["parent"] == tree.parent[each["node"]]
        assert each["level"] == tree.level[each["node"]]
        assert each["items"] == len(under)
        assert each["children"] == int((tree.children[each["node"]] >= 0).sum())
        assert each["beam"] == len(best & set(under.tolist()))
        if "item_id" in each:
            assert each["item_id"] == ITEM_IDS[under[0]]
        elif each["level"] > 1:
            named = {part for i in under for part in CATEGORIES[i].split(", ")}
            assert set(each["label"].split(" · ")) <= named


def test_a_part_of_the_tree_and_nobodys_beam(client: TestClient, tree: IndexTree) -> None:
    told = client.post("/v1/tree", json={"node": 2, "levels": 1}).json()["nodes"]
    assert [each["node"] for each in told] == [2, *(int(c) for c in tree.children[2] if c >= 0)]
    assert all("beam" not in each for each in told)
    assert all("beam" not in each for each in client.post("/v1/tree", json={"user": "nobody"}).json()["nodes"])
    refused = client.post("/v1/tree", json={"node": 9999})
    assert (refused.status_code, "node = 9999" in refused.json()["detail"]) == (422, True)


def compared(engine: Engine, challenger: Engine | None, body: dict[str, Any]) -> dict[str, Any]:
    with TestClient(create_app(Live(engine), challenger=Live(challenger))) as client:
        answer = client.post("/v1/compare", json=body)
        assert answer.status_code == 200
        return answer.json()


def test_two_versions_are_asked_the_same(bundle: Path, engine: Engine) -> None:
    """A reviewer sees what would change for one user before it does."""
    rival = Engine(bundle, version="8", threads=1)
    told = compared(engine, rival, {"user": str(USER_IDS[USER]), "k": 5})
    assert (told["champion"]["model_version"], told["challenger"]["model_version"]) == ("7", "8")
    assert told["champion"]["items"] == told["challenger"]["items"]
    assert (told["shared"], told["said"]) == (5, "")
    alone = compared(engine, None, {"user": str(USER_IDS[USER]), "k": 5})
    assert alone["champion"]["items"] == told["champion"]["items"]
    assert alone["challenger"] is None
    assert "miss serve --challenger" in alone["said"]


def test_what_one_version_does_not_know_is_left_out_of_its_question(
    bundle: Path, engine: Engine, tmp_path: Path
) -> None:
    def renamed(folder: Path) -> None:
        items = read_npz(folder / "items.npz")
        items["item_id"][0] = "new item"
        write_npz(folder / "items.npz", items)

    rival = Engine(changed(bundle, tmp_path / "renamed", renamed), version="8", threads=1)
    history = [str(ITEM_IDS[0]), str(ITEM_IDS[9])]
    told = compared(engine, rival, {"history": history, "k": 3})
    assert (told["champion"]["unknown"], told["challenger"]["unknown"]) == (0, 1)
    expected = [each["item_id"] for each in rival.recommend_ids(history[1:], 3)]
    assert [each["item_id"] for each in told["challenger"]["items"]] == expected
