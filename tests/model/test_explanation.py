"""A user would lose: a reason that is not the reason. What is told is what the score was made with, in torch and in the graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import ring_vectors
from test_scorer import ITEMS, VARIANTS, make_model

from model import onnx_export
from model.beam_search import BeamSearch
from model.dense_training import pad_left
from model.explanation import Explanation, check_explanation, export_explanation
from model.index_tree import IndexTree, build_tree
from model.onnx_export import export_search, graph_files

BEAM = 8
PLAIN = replace(VARIANTS["both"], lifelong=replace(VARIANTS["both"].lifelong, transitions=False, esu="id"))


@pytest.fixture(scope="module")
def tree() -> IndexTree:
    return build_tree(ring_vectors(ITEMS))


def histories(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, ITEMS, size) for size in sizes]


def told(explanation: Explanation, history: torch.Tensor, items: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        return [value.numpy() for value in explanation(history, items)]


def test_weights_are_shares_of_the_behaviors_named_and_scores_are_the_searchs(tree: IndexTree) -> None:
    search = BeamSearch(make_model(tree), tree, beam=BEAM)
    explanation, history = Explanation(search), pad_left(histories(3, 40))
    with torch.no_grad():
        found = search.search(history, history)
    co, co_weights, mm, mm_weights, nodes, scores = told(explanation, history, found.items)
    for columns, weights in ((co, co_weights), (mm, mm_weights)):
        assert (weights >= 0).all()
        assert (np.diff(weights, axis=2) <= 0).all(), "heaviest first"
        assert (weights.sum(2) <= 1 + 1e-5).all()
        np.testing.assert_allclose(weights[0].sum(1), 1, atol=1e-5, err_msg="three behaviors are all there are")
        assert ((columns >= 0) == (weights > 0)).all()
        assert (columns[0][columns[0] >= 0] >= 37).all(), "padding is nobody's behavior"
        assert columns.max() <= 39
    np.testing.assert_array_equal(nodes, tree.paths()[found.items.numpy()][:, :, search.start :])
    np.testing.assert_allclose(scores[:, :, -1], found.scores.numpy(), atol=1e-5)


def test_what_is_attended_to_moves_the_score_and_what_is_not_does_not(tree: IndexTree) -> None:
    """Behaviors are taken out one by one, leaving a hole, so that nothing else changes its place."""
    search = BeamSearch(make_model(tree, PLAIN), tree, beam=BEAM)
    explanation, history = Explanation(search, behaviors=12), pad_left(histories(60))
    with torch.no_grad():
        items = search.search(history, history).items[:, :1]
        before = told(explanation, history, items)
        whole = search.search(history, history)
    old = range(60 - search.model.config.window)
    attended = {int(c) for unit in (0, 2) for c in before[unit].ravel() if c in old}
    kept = {int(c) for c in torch.cat([whole.co_behaviors, whole.mm_behaviors], dim=1).ravel()}
    assert attended, "something before the short reading's window is attended to"
    assert len(attended) < len(kept) < 60

    def moved(column: int) -> float:
        holed = history.clone()
        holed[0, column] = -1
        return float(abs(told(explanation, holed, items)[5][0, 0, -1] - before[5][0, 0, -1]))

    idle = [moved(column) for column in old if column not in kept]
    assert max(idle) == 0, "what no unit kept is not in the score"
    weight = dict.fromkeys(old, 0.0)
    for unit in (0, 2):
        for column, share in zip(before[unit][0, 0], before[unit + 1][0, 0], strict=True):
            if column in weight:
                weight[int(column)] += float(share)
    ranked = sorted(attended, key=lambda c: -weight[c])
    assert moved(ranked[0]) > 1e-4
    assert moved(ranked[0]) > max(idle)


def test_a_behavior_without_weight_is_not_in_the_units_value(tree: IndexTree) -> None:
    """Among what is kept: hidden from the unit, it changes nothing that the unit says; the heaviest one does."""
    model = make_model(tree, PLAIN)
    search, history = BeamSearch(model, tree, beam=BEAM), pad_left(histories(60))
    with torch.no_grad():
        user, tables, nodes = search.read(history), search.tables, torch.from_numpy(tree.item_leaf[None, 7:8])
        attention, other = model.attention(user, nodes, tables)
        for unit, shares, kept in (("co", attention, user.co), ("mm", other, user.mm[0])):
            weights = shares.shares()[0, 0]
            assert float(weights.sum()) == pytest.approx(1)

            def without(place: int, kept=kept, unit=unit) -> torch.Tensor:
                hidden = kept.valid.clone()
                hidden[0, place] = False
                changed = replace(kept, valid=hidden)
                return model.score(
                    replace(user, co=changed) if unit == "co" else replace(user, mm=(changed, *user.mm[1:])),
                    nodes,
                    tables,
                )

            score = model.score(user, nodes, tables)
            unattended = [place for place in range(len(weights)) if weights[place] == 0]
            assert unattended
            assert all(torch.equal(without(place), score) for place in unattended)
            assert (without(int(weights.argmax())) - score).abs().item() > 1e-4


def test_items_that_are_not_there_and_units_that_are_off(tree: IndexTree) -> None:
    search = BeamSearch(make_model(tree, VARIANTS["mm"]), tree, beam=BEAM)
    co, _, mm, weights, nodes, scores = told(Explanation(search), pad_left(histories(9)), torch.tensor([[4, -1]]))
    assert (co == -1).all()
    assert (mm[0, 0] >= 0).any()
    assert (mm[0, 1] == -1).all()
    assert (weights[0, 1] == 0).all()
    assert (nodes[0, 1] == -1).all()
    assert np.isneginf(scores[0, 1]).all()


def test_the_graph_says_what_torch_says(tree: IndexTree, tmp_path: Path) -> None:
    explanation = Explanation(BeamSearch(make_model(tree), tree, beam=BEAM))
    export_explanation(explanation, tmp_path / "explain.onnx", beside=tmp_path / "search.onnx")
    report = check_explanation(explanation, tmp_path / "explain.onnx", histories(0, 1, 5, 20, 60))
    assert report["equal_paths"] == 1
    assert max(report[f"max_abs_{what}_error"] for what in ("weight", "score", "answer")) < 1e-4
    other = Explanation(BeamSearch(make_model(tree, seed=1), tree, beam=BEAM))
    report = check_explanation(other, tmp_path / "explain.onnx", histories(20))
    assert report["max_abs_weight_error"] > 1e-3


@pytest.mark.slow
def test_tables_beside_the_search_are_read_from_there(
    tree: IndexTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue of millions would take twice its space on disk."""
    search = BeamSearch(make_model(tree), tree, beam=BEAM)
    monkeypatch.setattr(onnx_export, "BESIDE", 1)
    export_search(search, tmp_path / "search.onnx")
    files = graph_files(tmp_path / "search.onnx")
    export_explanation(Explanation(search), tmp_path / "explain.onnx", beside=files[0])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "explain.onnx", *files], "nothing of the making is left"
    content = (tmp_path / "explain.onnx").read_bytes()
    for table in ("table_e", "table_z"):
        assert getattr(search, table).numpy().tobytes() not in content
    report = check_explanation(Explanation(search), tmp_path / "explain.onnx", histories(20, 60))
    assert report["max_abs_weight_error"] < 1e-4
