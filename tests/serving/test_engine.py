"""What a user of the engine would lose: right answers in any batch, items never seen twice, and bytes one can trust."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import BEAM, ITEM_IDS, N_ITEMS, N_USERS, USER_IDS, histories

from model.errors import BadInput, Corrupt, NotReady
from model.files import publish_dir, read_npz, write_npz
from model.golden import GOLDEN, check_golden, write_golden
from model.histories import Histories
from serving.engine import Engine
from serving.histories import StoredHistories
from serving.probe import WARM_UP, latencies


def changed(bundle: Path, target: Path, change) -> Path:
    """A bundle published anew with `change(folder)` applied: its digests are right, its content is not."""
    manifest = json.loads((bundle / "manifest.json").read_text())

    def build(folder: Path) -> dict:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        return change(folder) or manifest["meta"]

    publish_dir(target, build)
    return target


# -- the retriever's contract ----------------------------------------------------------------------------------------


def test_a_batch_is_answered_as_one_by_one(engine: Engine) -> None:
    users = [*histories(), *[np.arange(length) % N_ITEMS for length in (200, 3, 90, 1)]]
    items, scores = engine.recommend(users, 10)
    assert items.shape == scores.shape == (len(users), 10)
    assert (items.dtype, scores.dtype) == (np.int64, np.float32)
    for row, user in enumerate(users):
        alone_items, alone_scores = engine.recommend([user], 10)
        np.testing.assert_array_equal(alone_items[0], items[row])
        np.testing.assert_allclose(alone_scores[0], scores[row], atol=1e-5)


def test_more_users_than_one_call_of_the_graph_takes(engine: Engine) -> None:
    users = histories() * 12
    items, _ = engine.recommend(users, 5)
    np.testing.assert_array_equal(items, np.tile(items[:N_USERS], (12, 1)))


def test_nothing_seen_comes_back_and_nothing_comes_twice(engine: Engine) -> None:
    users = histories()
    items, scores = engine.recommend(users, BEAM)
    for row, user in enumerate(users):
        found = items[row][items[row] >= 0]
        assert len(set(found.tolist())) == len(found)
        assert not set(found.tolist()) & set(user.tolist())
        assert (np.diff(scores[row][: len(found)]) <= 0).all()


def test_where_few_are_left_the_rest_is_empty(engine: Engine) -> None:
    items, scores = engine.recommend([np.arange(N_ITEMS - 3)], 5)
    assert set(items[0][:3].tolist()) == {N_ITEMS - 3, N_ITEMS - 2, N_ITEMS - 1}
    assert items[0][3:].tolist() == [-1, -1]
    assert np.isneginf(scores[0][3:]).all()


def test_an_empty_history_and_no_users_are_answered(engine: Engine) -> None:
    items, _ = engine.recommend([np.zeros(0, np.int64)], BEAM)
    assert (items >= 0).all()
    assert engine.recommend([], 3)[0].shape == (0, 3)


def test_exclude_replaces_the_history_as_what_must_not_return(engine: Engine) -> None:
    history = np.array([1, 2, 3])
    free, _ = engine.recommend([history], BEAM, exclude=[np.zeros(0, np.int64)])
    best = int(free[0][0])
    assert best not in engine.recommend([history], BEAM, exclude=[np.array([best, best])])[0][0]
    with pytest.raises(BadInput, match="1 histories came with 2"):
        engine.recommend([history], 3, exclude=[history, history])


@pytest.mark.parametrize("k", [0, -1, BEAM + 1, N_ITEMS + 1])
def test_k_out_of_range_is_refused(engine: Engine, k: int) -> None:
    with pytest.raises(BadInput, match=f"k = {k}"):
        engine.recommend([np.array([1])], k)


@pytest.mark.parametrize("history", [[N_ITEMS], [-1], [0.5], [[1], [2]]])
def test_what_is_no_history_is_refused(engine: Engine, history: list) -> None:
    with pytest.raises(BadInput):
        engine.recommend([np.array(history)], 3)


# -- ids and titles ----------------------------------------------------------------------------------------------------


def test_ids_in_and_ids_out(engine: Engine) -> None:
    history = [str(ITEM_IDS[i]) for i in (0, 59, 3)]
    found = engine.recommend_ids(history, 4)
    indices, scores = engine.recommend([np.array([0, 59, 3])], 4)
    assert [each["item_id"] for each in found] == ITEM_IDS[indices[0]].tolist()
    assert [each["score"] for each in found] == pytest.approx(scores[0].tolist())
    assert all(each["title"] == f"Title of {each['item_id']}" for each in found)
    without = engine.recommend_ids(history, 4, exclude_ids=[found[0]["item_id"]])
    assert [each["item_id"] for each in without[:3]] == [each["item_id"] for each in found[1:]]


def test_unknown_items_are_named(engine: Engine) -> None:
    with pytest.raises(BadInput, match="does not know item 'nope', 'no'; "):
        engine.recommend_ids(["nope", str(ITEM_IDS[0]), "no", "nope"], 3)
    with pytest.raises(BadInput, match="and 2 more"):
        engine.popular_items(3, exclude_ids=[f"x{i}" for i in range(7)])


def test_users_are_found_by_id_and_strangers_are_offered_what_is_popular(engine: Engine) -> None:
    for user, history in zip(USER_IDS, histories(), strict=True):
        found = engine.recommend_user(str(user), 3)
        assert found is not None
        assert [each["item_id"] for each in found] == ITEM_IDS[engine.recommend([history], 3)[0][0]].tolist()
    for stranger in ("user", "user-00x", "", "zzz" * 100):
        assert engine.recommend_user(stranger, 3) is None
    popular = engine.popular_items(N_ITEMS)
    assert [each["score"] for each in popular] == sorted(engine.counts.tolist(), reverse=True)
    assert popular[0]["item_id"] not in {
        each["item_id"] for each in engine.popular_items(5, exclude_ids=[popular[0]["item_id"]])
    }
    with pytest.raises(BadInput, match="k = 0"):
        engine.popular_items(0)


def test_of_a_long_history_the_newest_part_is_read_and_all_is_excluded(bundle: Path, tmp_path: Path) -> None:
    meta = json.loads((bundle / "manifest.json").read_text())["meta"]
    meta["model"]["max_history"] = 4
    short = Engine(changed(bundle, tmp_path / "short", lambda _: meta), threads=1)
    history = np.arange(30)
    items, scores = short.recommend([history], 5)
    same, same_scores = short.recommend([history[-4:]], 5, exclude=[history])
    np.testing.assert_array_equal(items, same)
    np.testing.assert_allclose(scores, same_scores)
    assert items.min() >= 30


# -- bytes one can trust -----------------------------------------------------------------------------------------------


def test_the_engine_knows_what_it_serves(engine: Engine, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (engine.version, engine.digest) == ("7", manifest["digest"])
    assert (engine.n_items, engine.beam) == (N_ITEMS, BEAM)


def test_no_bundle_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="holds no bundle"):
        Engine(tmp_path / "absent")


@pytest.mark.parametrize("name", ["retrieval.onnx", "items.npz", "histories.npz"])
def test_changed_bytes_are_refused_before_they_are_read(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / name).write_bytes(b"not what was published")
    with pytest.raises(Corrupt, match="sha256"):
        Engine(copy)


def test_missing_and_extra_files_are_refused(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "popularity.npz").unlink()
    with pytest.raises(Corrupt, match=r"popularity\.npz"):
        Engine(copy)
    without = changed(bundle, tmp_path / "without", lambda folder: (folder / "popularity.npz").unlink())
    with pytest.raises(Corrupt, match="no bundle"):
        Engine(without)


def test_tables_that_do_not_belong_together_are_refused(bundle: Path, tmp_path: Path) -> None:
    few = {"counts": np.zeros(3, np.int64)}
    with pytest.raises(Corrupt, match="tables of 3 and of 60"):
        Engine(changed(bundle, tmp_path / "few", lambda folder: write_npz(folder / "popularity.npz", few)))
    with pytest.raises(Corrupt, match="ONNX Runtime can load"):
        Engine(changed(bundle, tmp_path / "graph", lambda f: (f / "retrieval.onnx").write_bytes(b"junk") and None))
    unsorted = {"user_id": USER_IDS[::-1], "offsets": np.zeros(N_USERS + 1, np.int64), "items": np.zeros(0, np.int32)}
    with pytest.raises(Corrupt, match="ascending"):
        Engine(changed(bundle, tmp_path / "users", lambda folder: write_npz(folder / "histories.npz", unsorted)))


def test_stored_histories_without_users() -> None:
    none = StoredHistories(
        np.zeros(0, "<U1"), Histories(offsets=np.zeros(1, np.int64), items=np.zeros(0, np.int32), n_items=3)
    )
    assert none.lookup("anyone") is None
    assert none.examples() == []


# -- golden requests ---------------------------------------------------------------------------------------------------


def test_golden_requests_get_their_answers(engine: Engine) -> None:
    assert engine.check_golden() == N_USERS


def test_other_answers_are_noticed(bundle: Path, tmp_path: Path) -> None:
    def other_items(folder: Path) -> None:
        golden = read_npz(folder / GOLDEN)
        golden["items"][2, 0] = np.setdiff1d(np.arange(N_ITEMS), golden["items"][2])[0]
        write_npz(folder / GOLDEN, golden)

    def other_scores(folder: Path) -> None:
        golden = read_npz(folder / GOLDEN)
        golden["scores"][4] += 0.01
        write_npz(folder / GOLDEN, golden)

    def last_bits(folder: Path) -> None:
        golden = read_npz(folder / GOLDEN)
        write_npz(folder / GOLDEN, golden | {"scores": golden["scores"] + np.float32(1e-6)})

    with pytest.raises(Corrupt, match=f"request 3 of {N_USERS}"):
        Engine(changed(bundle, tmp_path / "items", other_items), threads=1).check_golden()
    with pytest.raises(Corrupt, match=f"request 5 of {N_USERS}"):
        Engine(changed(bundle, tmp_path / "scores", other_scores), threads=1).check_golden()
    assert Engine(changed(bundle, tmp_path / "bits", last_bits), threads=1).check_golden() == N_USERS


def test_golden_requests_that_are_not_there(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="no golden requests"):
        check_golden(tmp_path, engine)
    with pytest.raises(BadInput, match="at least one history"):
        write_golden(tmp_path, engine, [])
    write_npz(tmp_path / GOLDEN, {name: np.zeros((2, 3)) for name in ("history", "items")} | {"scores": np.zeros(1)})
    with pytest.raises(Corrupt, match="do not belong together"):
        check_golden(tmp_path, engine)


def _probe(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.probe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_fresh_process_answers_for_the_gate(bundle: Path, tmp_path: Path) -> None:
    done = _probe(bundle, "--requests", 20)
    report = json.loads(done.stdout)
    assert (done.returncode, report["golden"], report["error"]) == (0, True, None)
    assert 0 < report["p50_ms"] <= report["p95_ms"]
    bad = _probe(tmp_path)
    assert (bad.returncode, bad.stdout) == (NotReady.exit_code, "")
    assert bad.stderr.startswith("miss: ")
    assert "Traceback" not in bad.stderr


def test_two_bundles_are_asked_in_turn(
    bundle: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = json.loads(_probe(bundle, "--requests", 20, "--beside", bundle).stdout)
    assert 0 < report["beside"]["p50_ms"] <= report["beside"]["p95_ms"]
    torn = json.loads(_probe(bundle, "--requests", 3, "--beside", tmp_path).stdout)
    assert torn["golden"]
    assert list(torn["beside"]) == ["error"]

    asked, slow, real = [], Engine(bundle, threads=1), Engine.recommend

    def recommend(self: Engine, *arguments: Any, **more: Any) -> Any:
        asked.append(self)
        time.sleep(0.02 * (self is slow))
        return real(self, *arguments, **more)

    monkeypatch.setattr(Engine, "recommend", recommend)
    ours, theirs = latencies([engine, slow], requests=4)
    assert asked == [engine, slow] * (4 + WARM_UP)
    assert theirs["p50_ms"] > 20 > ours["p50_ms"]


def test_the_fresh_process_tells_of_other_answers(bundle: Path, tmp_path: Path) -> None:
    def other_scores(folder: Path) -> None:
        golden = read_npz(folder / GOLDEN)
        write_npz(folder / GOLDEN, golden | {"scores": golden["scores"] + np.float32(1)})

    done = _probe(changed(bundle, tmp_path / "other", other_scores), "--requests", 3)
    report = json.loads(done.stdout)
    assert (done.returncode, report["golden"]) == (0, False)
    assert "golden request 1" in report["error"]
