"""What a reader of the search table would lose: a way that answers another question than the one it is timed against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import beam as search
from benchmarks import beam_models, beam_peers, beam_prepare
from model.index_tree import check_tree

ITEMS = 150


def shrink(patched: pytest.MonkeyPatch) -> None:
    """Sizes that take seconds."""
    for name, value in {"BATCH": 6, "BEAM": 40, "K": 10, "LENGTH": 30, "LENGTHS": (5, 30)}.items():
        for module in (search, beam_prepare):
            patched.setattr(module, name, value)
    patched.setattr(search, "REQUESTS", 8)
    patched.setattr(search, "SECONDS", 60)
    patched.setattr(beam_peers, "SHORTLIST", 30)
    patched.setattr(beam_models, "WIDTHS", {"d": 64, "heads": 2, "layers": 1, "window": 20})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, exported as the large ones are."""
    made = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patched:
        shrink(patched)
        assert search.prepare(made, data="synthetic", items=ITEMS, branching=2, beams=[40], tables=["float32"], home="")
    return made


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_every_way_answers_the_same_users_and_is_compared_with_every_item(folder: Path) -> None:
    reference = search.everything(folder)
    users = beam_prepare.Users(folder)
    assert [(row["history"], row["recall"]) for row in reference] == [(5, 1.0), (30, 1.0)]
    rows = search.searched(folder, beam=40, tables="float32")
    for kind in search.INDICES:
        rows += search.dotted(folder, kind=kind)
    assert {row["way"] for row in rows} == {"MISS tree"} | {
        f"{k}{r}" for k in search.INDICES for r in ("", ", re-scored")
    }
    for row in rows:
        assert (row["history"], row["batch"]) in search.ways(users)
        assert 0.2 < row["recall"] <= 1, row
        assert 0 < row["p50 ms"] <= row["p99 ms"]
    recalls = {(row["way"], row["history"], row["batch"]): row["recall"] for row in rows}
    for way, length in {(way, length) for way, length, _ in recalls}:
        assert recalls[way, length, 1] == pytest.approx(recalls[way, length, 6], abs=0.02), "alone or together"
        assert recalls["flat, re-scored", length, 1] >= recalls["flat", length, 1], "a better order of more"
    assert {row["dot products"] for row in rows if row["way"] == "flat"} == {ITEMS}
    told = search.compared(reference + rows, {"way": "the machine", "GFLOP/s": 100.0, "GB/s": 10.0})
    for row in told:
        if row["way"] == "MISS tree":
            assert row["flat scan faster"] == (row["times the flat scan"] > 1)
            assert ("floor ms" in row) == (row["batch"] == 1)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_the_peers_are_the_model_that_the_tree_searches(folder: Path) -> None:
    from model.beam_search import BeamSearch
    from model.exhaustive import Exhaustive
    from model.files import read_npz

    made = beam_models.synthetic(ITEMS, length=30, count=6)
    histories = beam_prepare.Users(folder).histories(30)
    for one, other in zip(made.histories, histories, strict=True):
        np.testing.assert_array_equal(one, other)
    full = Exhaustive(made.model, made.tree, beam=40).recommend(histories, 10)
    found = beam_peers.Everything(folder, ITEMS, threads=1).recommend(histories, 10)
    np.testing.assert_array_equal(found[0], full[0])
    beam_prepare._references(BeamSearch(made.model, made.tree, beam=40), users := beam_prepare.Users(folder))
    np.testing.assert_array_equal(read_npz(users.reference(30, 40))["items"], full[0])
    np.testing.assert_allclose(found[1], full[1], atol=1e-4)
    dense = Exhaustive(made.model, made.tree, beam=40, lifelong=False).recommend(histories, 10)
    flat = beam_peers.DotProduct(folder, ITEMS, kind="flat", rescored=False, threads=1).recommend(histories, 10)
    np.testing.assert_array_equal(flat[0], dense[0])
    np.testing.assert_allclose(flat[1], dense[1], atol=1e-4)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(beam_peers, "SHORTLIST", ITEMS)
        whole = beam_peers.DotProduct(folder, ITEMS, kind="flat", rescored=True, threads=1).recommend(histories, 10)
    np.testing.assert_array_equal(whole[0], full[0], err_msg="a shortlist of everything leaves nothing out")


@pytest.mark.parametrize("branching", [2, 4])
def test_a_nodes_embedding_is_the_mean_of_its_leaves_and_the_tree_is_one(branching: int) -> None:
    import torch

    made = beam_models.synthetic(70, branching=branching, length=50, count=3)
    assert check_tree(made.tree)["passed"]
    with torch.no_grad():
        tables = made.model.tables()
    paths = made.tree.paths()
    for node in range(made.tree.n_nodes):
        under = (paths == node).any(axis=1)
        mean = tables.leaf_e[:-1][torch.from_numpy(under)].mean(0)
        np.testing.assert_allclose(tables.e[node].numpy(), mean.numpy(), atol=1e-5)
    assert [len(history) for history in made.histories] == [50] * 3
    assert all((history >= 0).all() and (history < 70).all() for history in made.histories)


def test_nodes_scored_are_those_of_a_real_search() -> None:
    import torch

    from model.beam_search import BeamSearch

    made = beam_models.synthetic(128, length=20, count=2)
    model, tree = made.model, made.tree
    counted: list[int] = []
    scored = model.score
    model.score = lambda user, nodes, *rest: counted.append(nodes.shape[1]) or scored(user, nodes, *rest)  # type: ignore
    history = torch.from_numpy(made.histories[0][None])
    for beam in (5, 16, 200):
        counted.clear()
        with torch.no_grad():
            BeamSearch(model, tree, beam=beam).search(history, history)
        assert beam_prepare._scored(tree.level_offsets, tree.branching, beam) == sum(counted)


def test_recall_and_growth_have_known_answers() -> None:
    best: NDArray[Any] = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert beam_prepare.recall(best, {0: np.array([4, 3, 9, 9]), 5: np.array([0])}) == 0.5
    assert beam_prepare.recall(best, {0: best[0], 1: np.array([9, 9, 9, 8])}) == pytest.approx(0.625)
    assert beam_prepare.recall(best, {7: best[0]}) is None
    exponent, _ = search.growth([10, 100, 1000], [5.0, 50.0, 500.0])
    assert exponent == pytest.approx(1)
    exponent, doubling = search.growth([2**10, 2**12, 2**20], [13.0, 15.0, 23.0])
    assert doubling == pytest.approx(1)
    assert 0 < exponent < 0.2


def test_targets_are_read_from_the_right_rows() -> None:
    def row(items: int, history: int, p50: float, **more: Any) -> dict[str, Any]:
        told = {"data": "synthetic", "items": items, "way": "MISS tree", "branching": 2, "history": history, "batch": 1}
        told |= {
            "beam": 200,
            "tables": "float32",
            "p50 ms": p50,
            "p99 ms": 2 * p50,
            "nodes scored": 0.01,
            "recall": 0.9,
        }
        return told | more

    others = [row(2000, 1000, 99.0, **each) for each in ({"batch": 64}, {"beam": 100}, {"branching": 4})]
    others += [row(9000, 1000, 99.0, data=search.TRAINED)]
    rows = [row(1000, 1000, 8.0), row(2000, 1000, 9.0), row(2000, 10_000, 13.5), row(1000, 10_000, 1.0), *others]
    told = {each["name"]: each for each in search.targets(rows)}
    assert [each["value"] for each in told.values()][:3] == [18.0, 1.5, 0.01]
    assert [each["met"] for each in told.values()][:3] == [True, False, True]
    assert next(each for name, each in told.items() if "exponent" in name)["ms a doubling"] == pytest.approx(1.0)
    int8 = row(2000, 1000, 5.0, batch=64, tables="int8", recall=0.894)
    lost = [each for each in search.targets([*rows, int8]) if "recall lost" in each["name"]]
    assert [(round(each["value"], 6), each["met"]) for each in lost] == [(0.006, False)]
