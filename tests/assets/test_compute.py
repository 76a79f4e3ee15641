"""What would be lost to working in shards: a vector in another's place, a picture that fails in silence, a user done twice."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_bundle import N_USERS, USER_IDS, publish
from tiny_content import NO_PICTURE
from works import OPTIONS, contents, trained, vectors_of

from assets.compute import Shard, account, engine
from assets.compute import encoding as encoding_module
from assets.compute import evaluating as evaluating_module
from assets.compute import recommending as recommending_module
from assets.compute.encoding import encoder_of, rows_of
from assets.compute.evaluating import evaluated
from assets.compute.local import LocalEngine
from assets.compute.recommending import recommend_all
from model.configure import configure
from model.encoders import encode_catalogue, item_text
from model.errors import BadInput
from model.evaluation import evaluate
from model.files import read_json
from model.histories import EvaluationSet, Histories
from model.index_tree import IndexTree, build_tree
from model.training import TrainingConfig, load_parameters, new_model, save_parameters
from model.tree_retriever import TreeRetriever
from serving.engine import Engine


def test_the_local_engine_answers_in_the_order_of_the_shards() -> None:
    made = []

    def work(start: int):  # type: ignore[no-untyped-def]
        made.append(start)

        def add(shard: Shard) -> Shard:
            return {"sum": start + shard["n"]}

        return add

    assert LocalEngine().each(work, (10,), [{"n": n} for n in range(5)], "sums") == [{"sum": 10 + n} for n in range(5)]
    assert made == [10], "one worker for all shards"
    assert LocalEngine().each(work, (10,), [], "nothing") == []
    assert engine("local").name == "local"


def test_long_work_tells_how_far_it_is_and_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, not for every shard; and at the end."""
    told, clock = list[str](), iter(range(0, 1000, 2))
    monkeypatch.setattr(account.time, "monotonic", lambda: float(next(clock)))
    assert list(account.telling(iter("abcdefg"), 7, "letters", told.append)) == list("abcdefg")
    assert told == [
        "letters: 3 of 7 shards, 0.5 a second",
        "letters: 6 of 7 shards, 0.5 a second",
        "letters: 7 of 7 shards, 0.5 a second",
    ]
    told.clear()
    assert list(account.telling(iter("a"), 1, "letters", told.append)) == ["a"]
    assert told == []
    monkeypatch.undo()

    def work() -> Any:
        return lambda shard: {"sum": sum(range(shard["n"]))}

    local = LocalEngine(told.append)
    local.each(work, (), [{"n": 2_000_000}] * 3, "sums")
    used = local.used()
    assert told[-1].startswith("sums: 3 of 3 shards")
    assert (used["engine"], used["workers"]) == ("local", 1)
    assert 0 < used["workers_cpu_seconds"] <= used["seconds"] * 2
    assert used["worker_peak_mib"] == used["driver_peak_mib"] > 50


@pytest.mark.parametrize(("begin", "end"), [(0, 60), (3, 5), (16, 18), (17, 34), (50, 60), (59, 60)])
def test_a_range_of_rows_is_those_rows(tmp_path: Path, begin: int, end: int) -> None:
    """Over the edges of row groups too."""
    path = contents(tmp_path, "text").items
    (titles, descriptions) = rows_of(path, ("title", "description"), begin, end)
    table = pq.read_table(path).slice(begin, end - begin)
    assert titles == table.column("title").to_pylist()
    assert descriptions == table.column("description").to_pylist()


@pytest.mark.parametrize("kind", ["text", "image"])
def test_shards_give_the_vectors_of_the_whole_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(encoding_module, "SHARD_ITEMS", 7)
    asked = contents(tmp_path, kind)
    encoder = encoder_of(asked.kind, asked.encoder, asked.cache)
    vectors, present, counts = vectors_of(LocalEngine(), asked, tmp_path / "work")
    if kind == "text":
        columns = rows_of(asked.items, ("title", "description", "categories"), 0, 60)
        whole = [item_text(*row) for row in zip(*columns, strict=True)]
    else:
        (images,) = rows_of(asked.items, ("image",), 0, 60)
        whole = [Path(image) if image else None for image in images]
    expected, there, stats = encode_catalogue(encoder, whole, tmp_path / "another cache")
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    np.testing.assert_array_equal(present, there)
    assert (counts["encoded"], counts["missing"]) == (stats.encoded, stats.missing)
    again, _, counts = vectors_of(LocalEngine(), asked, tmp_path / "work")
    np.testing.assert_array_equal(again, vectors)
    assert counts["encoded"] == 0, "all of it is in the cache"


def test_a_picture_that_cannot_be_read_is_named_after_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding_module, "SHARD_ITEMS", 7)
    asked = contents(tmp_path, "image", torn=2)
    with pytest.raises(BadInput, match=r"1 of 60 pictures or texts cannot be used: '.*2\.png'"):
        vectors_of(LocalEngine(), asked, tmp_path / "work")
    assert not (tmp_path / "work" / "embeddings.npz").exists()
    _, present, counts = vectors_of(LocalEngine(), asked, tmp_path / "work", on_bad="skip")
    assert np.flatnonzero(~present).tolist() == [2, NO_PICTURE]
    assert (counts["unusable"], counts["encoded"]) == (1, 0)


def test_an_evaluation_in_shards_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating_module, "SHARD_USERS", 7)
    model, histories = trained(tmp_path)
    found = evaluated(LocalEngine(), model, OPTIONS, histories, work=tmp_path, per_user=tmp_path / "per_user.parquet")
    config = configure(TrainingConfig, OPTIONS, where="training")
    tree = IndexTree.load(model / "tree.npz")
    retriever = TreeRetriever(load_parameters(tree, config, model / "parameters.npz"), tree, beam=config.beam)
    counts = Histories.load(histories / "train.npz").counts()
    whole = evaluate(retriever, EvaluationSet.load(histories / "test.npz"), counts=counts)
    np.testing.assert_array_equal(found.ranks, whole.ranks)
    np.testing.assert_array_equal(found.users, whole.users)
    assert (whole.ranks > 0).any()
    table = pq.read_table(tmp_path / "per_user.parquet")
    assert table["rank"].to_pylist() == whole.ranks.tolist()
    assert table["user"].to_pylist() == whole.users.tolist()
    test = EvaluationSet.load(histories / "test.npz")
    assert table["target"].to_pylist() == test.targets.tolist()
    assert table["history"].to_pylist() == [len(test.seen[row]) for row in range(len(test))]
    assert found.row() | {"seconds": 0} == whole.row() | {"seconds": 0}


@pytest.mark.parametrize("harm", ["nobody", "another catalogue"])
def test_what_cannot_be_evaluated_is_told(tmp_path: Path, harm: str) -> None:
    model, histories = trained(tmp_path)
    test = EvaluationSet.load(histories / "test.npz")
    if harm == "nobody":
        test.first(0).save(histories / "test.npz")
    else:
        build_tree(np.eye(8, dtype=np.float32)).save(model / "tree.npz")
        tree = IndexTree.load(model / "tree.npz")
        save_parameters(new_model(tree, configure(TrainingConfig, OPTIONS, where="training")), model / "parameters.npz")
    with pytest.raises(BadInput):
        evaluated(LocalEngine(), model, OPTIONS, histories, work=tmp_path, per_user=tmp_path / "per_user.parquet")


def test_everybody_gets_what_they_would_get_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommending_module, "SHARD_USERS", 5)
    bundle = publish(tmp_path / "bundle")
    alone = Engine(bundle, threads=1)
    told = recommend_all(LocalEngine(), bundle, tmp_path / "out", k=6, version="3", threads=1)
    assert told == read_json(tmp_path / "out" / "manifest.json")
    assert (told["version"], told["k"], told["users"], len(told["parts"])) == ("3", 6, N_USERS, 3)
    rows = pq.read_table([tmp_path / "out" / part["file"] for part in told["parts"]]).to_pylist()
    assert len(rows) == told["rows"]
    for user in USER_IDS.tolist():
        expected = alone.recommend_user(user, 6) if len(alone.stored(user)) else []
        found = [row for row in rows if row["user_id"] == user]
        assert [row["item_id"] for row in found] == [each["item_id"] for each in expected]
        assert [row["rank"] for row in found] == list(range(1, len(found) + 1))
        assert [row["score"] for row in found] == pytest.approx([each["score"] for each in expected], abs=1e-4)


def test_what_a_killed_run_has_written_is_kept_and_what_is_of_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommending_module, "SHARD_USERS", 5)
    bundle, out = publish(tmp_path / "bundle"), tmp_path / "out"
    first = recommend_all(LocalEngine(), bundle, out, k=6, version="3", threads=1)
    kept, gone = (out / part["file"] for part in first["parts"][:2])
    (out / "manifest.json").unlink()
    gone.unlink()
    before = kept.stat().st_mtime_ns
    assert recommend_all(LocalEngine(), bundle, out, k=6, version="3", threads=1) == first
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="another version, or another k"):
        recommend_all(LocalEngine(), bundle, out, k=5, version="3", threads=1)
    with pytest.raises(BadInput, match="beyond this index's beam"):
        recommend_all(LocalEngine(), bundle, tmp_path / "more", k=59, version="3", threads=1)
    assert not (tmp_path / "more" / "manifest.json").exists()


def test_what_is_told_to_another_machine_is_names_alone(tmp_path: Path) -> None:
    """A shard with arrays in it would go through the process that plans."""
    told = asdict(contents(tmp_path, "text"))
    assert all(value is None or isinstance(value, str) for value in told.values())
