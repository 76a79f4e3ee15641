"""What an index in half the bytes would lose: the rows it stands for, the answers, and tables that go where their graph goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model import onnx_export
from model.beam_search import BeamSearch
from model.errors import BadInput, Corrupt
from model.index_tree import IndexTree, build_tree
from model.lifelong import LifelongConfig
from model.node_rows import Rows, checked_precision, narrowed
from model.onnx_export import check_parity, export_search, graph_files
from model.onnx_search import OnnxSearch
from model.scorer import MISS, ScorerConfig

ITEMS, BEAM = 50, 8


@pytest.mark.parametrize(("precision", "error"), [("float32", 0.0), ("float16", 1e-3), ("int8", 0.5 / 127)])
def test_rows_are_those_of_the_table_to_the_last_place_kept(precision: str, error: float) -> None:
    table = torch.randn(40, 6) * torch.logspace(-3, 3, 40)[:, None]
    rows = Rows(*narrowed(table, checked_precision(precision)))
    largest = table.abs().amax(dim=1, keepdim=True)
    nodes = torch.tensor([[3, 0, 39], [7, 7, 21]])
    assert rows[nodes].dtype == rows[2:9].dtype == torch.float32
    assert ((rows[nodes] - table[nodes]).abs() <= error * largest[nodes] * 1.001).all()
    assert torch.equal(rows[2:9], rows[torch.arange(2, 9)])
    leaf = torch.randperm(40)[:11]
    by_item = Rows(rows.values, rows.scale, leaf)
    assert torch.equal(by_item[torch.tensor([[0, 10], [4, 4]])], rows[leaf[torch.tensor([[0, 10], [4, 4]])]])
    assert by_item[torch.tensor([11])].isfinite().all(), "padding"


def test_a_row_of_zeros_stays_one_and_another_precision_is_named() -> None:
    rows = Rows(*narrowed(torch.zeros(3, 4), "int8"))
    assert torch.equal(rows[0:3], torch.zeros(3, 4))
    with pytest.raises(BadInput, match="tables = 'bf16' is not known: choose float32, float16, int8"):
        checked_precision("bf16")


@pytest.fixture(scope="module")
def trained() -> tuple[MISS, IndexTree, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    tree = build_tree(rng.standard_normal((ITEMS, 8)).astype(np.float32))
    torch.manual_seed(0)
    lifelong = LifelongConfig(kept=12, top_k=6, probes=4)
    model = MISS(tree, ScorerConfig(d=16, heads=2, layers=1, window=8, hidden=8, dropout=0.0, lifelong=lifelong))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model, tree, [rng.integers(0, ITEMS, size) for size in (0, 1, 5, 12, 30)]


@pytest.fixture(scope="module")
def whole(trained: tuple[MISS, IndexTree, list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = tmp_path_factory.mktemp("whole") / "graph.onnx"
    export_search(BeamSearch(*trained[:2], beam=BEAM), graph)
    return graph


@pytest.mark.parametrize("options", [{"tables": "float16"}, {"tables": "int8", "codes": True}])
def test_the_graph_of_narrow_tables_answers_as_torch_does(
    trained: tuple[MISS, IndexTree, list[np.ndarray]], whole: Path, tmp_path: Path, options: dict
) -> None:
    model, tree, histories = trained
    narrow = BeamSearch(model, tree, beam=BEAM, **options)
    export_search(narrow, tmp_path / "narrow.onnx")
    assert narrow.table_e.nbytes < BeamSearch(model, tree, beam=BEAM).table_e.nbytes
    parity = check_parity(narrow, tmp_path / "narrow.onnx", histories, k=BEAM)
    assert parity["topk_equal_share"] == 1
    assert parity["max_abs_score_error"] < 1e-4
    ours, theirs = (
        OnnxSearch(graph, n_items=ITEMS, beam=BEAM).recommend(histories, 5)[0]
        for graph in (tmp_path / "narrow.onnx", whole)
    )
    shared = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(ours, theirs, strict=True)])
    assert shared >= 0.8


def test_large_tables_lie_beside_the_graph(
    trained: tuple[MISS, IndexTree, list[np.ndarray]], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tree, histories = trained
    search = BeamSearch(model, tree, beam=BEAM)
    assert graph_files(whole) == [whole]
    monkeypatch.setattr(onnx_export, "BESIDE", 1)
    export_search(search, tmp_path / "graph.onnx")
    graph, tables = graph_files(tmp_path / "graph.onnx")
    assert sorted(tmp_path.iterdir()) == [graph, tables], "nothing of the making is left"
    assert graph.stat().st_size < whole.stat().st_size
    expected = OnnxSearch(whole, n_items=ITEMS, beam=BEAM).recommend(histories, BEAM)
    got = OnnxSearch(graph, n_items=ITEMS, beam=BEAM).recommend(histories, BEAM)
    for one, two in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one, two)
    tables.unlink()
    with pytest.raises(Corrupt, match=r"graph.onnx is not a graph that ONNX Runtime can load"):
        OnnxSearch(graph, n_items=ITEMS, beam=BEAM)
