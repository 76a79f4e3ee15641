"""A user would lose: the future leaking in, padding changing an answer, the search not being the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import ring_vectors

from model.beam_search import BeamSearch, start_level
from model.dense_training import pad_left
from model.errors import BadInput
from model.index_tree import IndexTree, TreeConfig, build_tree
from model.level_loss import level_softmax_loss
from model.lifelong import LifelongConfig
from model.onnx_export import check_parity, export_search
from model.onnx_search import OnnxSearch
from model.scorer import MISS, ScorerConfig
from model.tree_retriever import TreeRetriever

ITEMS = 41
LIFELONG = LifelongConfig(top_k=5, kept=12, probes=4)
SMALL = ScorerConfig(d=8, heads=2, layers=2, window=6, dropout=0.1, hidden=8, lifelong=LIFELONG)
VARIANTS = {
    "both": SMALL,
    "short only": replace(SMALL, lifelong=replace(LIFELONG, co_gsu=False, mm_gsu=False)),
    "co": replace(SMALL, lifelong=replace(LIFELONG, mm_gsu=False)),
    "mm": replace(SMALL, lifelong=replace(LIFELONG, co_gsu=False)),
    "mm, id attention": replace(SMALL, lifelong=replace(LIFELONG, co_gsu=False, esu="id")),
    "ids alone": replace(SMALL, multi_modal_score=False),
}


def make_model(tree: IndexTree, config: ScorerConfig = SMALL, seed: int = 0) -> MISS:
    """A model none of whose parameters is at its neutral start."""
    torch.manual_seed(seed)
    model = MISS(tree, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def tree() -> IndexTree:
    return build_tree(ring_vectors(ITEMS))


def test_level_loss_is_cross_entropy_and_so_are_its_gradients() -> None:
    torch.manual_seed(0)
    h, e, bias = (
        torch.randn(600, 8, requires_grad=True),
        torch.randn(30, 8, requires_grad=True),
        torch.randn(30, requires_grad=True),
    )
    targets = torch.stack([torch.randint(0, 10, (600,)), torch.randint(0, 20, (600,))], dim=1)
    loss, by_level = level_softmax_loss(h, e, bias, targets, starts=[0, 10, 30], weights=[1.0, 2.0])
    logits = torch.addmm(bias, h, e.T)
    first, second = (
        torch.nn.functional.cross_entropy(logits[:, :10], targets[:, 0]),
        torch.nn.functional.cross_entropy(logits[:, 10:], targets[:, 1]),
    )
    torch.testing.assert_close(loss, first + 2 * second)
    torch.testing.assert_close(by_level, torch.stack([first, second]).detach())
    ours, theirs = (torch.autograd.grad(x, [h, e, bias]) for x in (loss, first + 2 * second))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_short_reading_never_sees_what_comes_after(tree: IndexTree) -> None:
    model = make_model(tree)
    window = torch.tensor([[3, 9, 20, 7, 1, 30]])
    changed = window.clone()
    changed[0, 4:] = torch.tensor([12, 2])
    tables = model.tables()
    with torch.no_grad():
        a, b = model.window(window, tables), model.window(changed, tables)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_on_the_left_and_company_in_a_batch_change_nothing(tree: IndexTree, name: str) -> None:
    retriever = TreeRetriever(make_model(tree, VARIANTS[name]), tree, beam=6)
    rng = np.random.default_rng(1)
    histories = [rng.permutation(ITEMS)[:n] for n in (0, 1, 2, 5, 6, 7, 13, 30)]
    together, scores = retriever.recommend(histories, 5)
    for row, history in enumerate(histories):
        alone, score = retriever.recommend([history], 5)
        assert together[row].tolist() == alone[0].tolist()
        np.testing.assert_allclose(scores[row], score[0], atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_beam_as_wide_as_the_catalogue_is_exhaustive_scoring(tree: IndexTree, name: str) -> None:
    """The oracle: every leaf scored, seen ones struck out, sorted."""
    model = make_model(tree, VARIANTS[name])
    history = np.array([4, 11, 3, 29, 17, 8, 40, 2])
    items, scores = TreeRetriever(model, tree, beam=ITEMS).recommend([history], 20)
    width = max(model.config.window, model.config.lifelong.kept)
    with torch.no_grad():
        tables = model.tables()
        leaves = torch.from_numpy(tree.item_leaf)[None]
        first_level = tuple(int(x) for x in tree.level_offsets[-2:])
        user = model.read(pad_left([history], width), tables, first_level)
        exact = model.score(user, leaves, tables)[0].numpy()
    exact[history] = -np.inf
    best = np.argsort(-exact)[:20]
    assert items[0].tolist() == best.tolist()
    np.testing.assert_allclose(scores[0], exact[best], atol=1e-5)


def test_lifelong_path_starts_as_exactly_the_dense_path(tree: IndexTree) -> None:
    torch.manual_seed(0)
    model = MISS(tree, SMALL).eval()
    with torch.no_grad():
        tables = model.tables()
        user = model.read(pad_left([np.arange(9)], 12), tables, (7, 15))
        nodes = torch.arange(tree.n_nodes)[None]
        dense = model.dense(user, tables.e[nodes], tables.bias[nodes])
        torch.testing.assert_close(model.score(user, nodes, tables), dense)


def test_what_was_seen_long_ago_reaches_the_score_only_through_the_lifelong_units(tree: IndexTree) -> None:
    recent, old = np.array([1, 2, 3, 4, 5, 6]), np.array([20, 21])
    long = np.concatenate([old, recent])
    for name, differs in (("both", True), ("co", True), ("mm", True), ("short only", False)):
        retriever = TreeRetriever(make_model(tree, VARIANTS[name]), tree, beam=ITEMS)
        (_, a), (_, b) = (retriever.recommend([h], 30, exclude=[long]) for h in (recent, long))
        assert np.allclose(a, b, atol=1e-6) != differs, name


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.sampled_from([2, 4]), st.integers(1, 12), st.lists(st.integers(0, 59), max_size=80))
def test_search_returns_only_what_is_left_and_all_of_it_where_the_beam_allows(
    n: int, branching: int, beam: int, excluded: list[int]
) -> None:
    excluded = [e % n for e in excluded]  # named twice now and then
    tree = build_tree(ring_vectors(n), TreeConfig(branching=branching))
    retriever = TreeRetriever(make_model(tree), tree, beam=beam)
    k = min(beam, n)
    items, scores = retriever.recommend([np.array([0])], k, exclude=[np.array(excluded, dtype=np.int64)])
    found = [i for i in items[0] if i >= 0]
    assert len(set(found)) == len(found)
    assert not set(found) & set(excluded)
    assert len(found) == min(k, n - len(set(excluded)))
    finite = scores[0][np.isfinite(scores[0])]
    assert (np.diff(finite) <= 1e-6).all()
    assert len(finite) == len(found)


def test_search_starts_where_the_design_says() -> None:
    tree = build_tree(ring_vectors(41))
    assert [start_level(tree, beam) for beam in (1, 2, 5, 16, 21, 500)] == [1, 2, 4, 5, 6, 6]
    with pytest.raises(BadInput, match="beam = 0"):
        BeamSearch(make_model(tree), tree, beam=0)


def test_k_is_checked(tree: IndexTree) -> None:
    retriever = TreeRetriever(make_model(tree), tree, beam=6)
    for k in (0, -1, ITEMS + 1):
        with pytest.raises(BadInput, match=f"k = {k} is out of range"):
            retriever.recommend([np.array([1])], k)
    with pytest.raises(BadInput, match="beam of 6"):
        retriever.recommend([np.array([1])], 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["both", "short only"])
def test_onnx_runtime_answers_as_torch_does(tree: IndexTree, name: str, tmp_path: Path) -> None:
    search = BeamSearch(make_model(tree, VARIANTS[name]), tree, beam=8)
    export_search(search, tmp_path / "a.onnx")
    rng = np.random.default_rng(0)
    report = check_parity(
        search, tmp_path / "a.onnx", [rng.integers(0, ITEMS, rng.integers(0, 40)) for _ in range(150)], k=8
    )
    assert report["max_abs_score_error"] <= 1e-4
    assert report["topk_equal_share"] >= 0.999
    assert {1, 2, 7, 64} <= set(report["batches"])
    assert report["lengths"][0] == 0
    assert b"beam_search.py" not in (tmp_path / "a.onnx").read_bytes(), "it says nothing of the machine that made it"
    onnx = OnnxSearch(tmp_path / "a.onnx", n_items=ITEMS, beam=8)
    items, _, co, mm = onnx.run(pad_left([np.arange(9)]).numpy(), np.full((1, 1), -1))
    assert (items >= 0).all(), "nothing was excluded, so the beam is full"
    if name == "both":
        assert set(co[0][co[0] >= 0]) == set(range(9)) == set(mm[0][mm[0] >= 0]), (
            "fewer behaviors than kept: all are named"
        )


def test_parity_check_finds_a_graph_of_another_model(tree: IndexTree, tmp_path: Path) -> None:
    config = VARIANTS["short only"]
    export_search(BeamSearch(make_model(tree, config, seed=1), tree, beam=4), tmp_path / "b.onnx")
    report = check_parity(
        BeamSearch(make_model(tree, config, seed=2), tree, beam=4), tmp_path / "b.onnx", [np.arange(5)], k=4
    )
    assert report["max_abs_score_error"] > 1e-3
