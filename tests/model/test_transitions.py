"""A user would lose: what really follows what, where a node of the tree misreads it or a narrow beam cannot find it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import make_histories, ring_vectors
from test_transition_counts import of

from model.beam_search import BeamSearch
from model.dense_training import pad_left
from model.index_tree import IndexTree, TreeConfig, build_tree, insert_items
from model.lifelong import LifelongConfig
from model.onnx_export import check_parity, export_search
from model.scorer import MISS, ScorerConfig
from model.training import TrainingConfig, load_parameters, save_parameters
from model.transitions import DECAYS, TransitionConfig, TransitionStrength, followers
from model.tree_retriever import TreeRetriever

FLOOR = 1e-3
"""Share of the strongest that nothing is told below."""
COUNTS = TransitionConfig(followers=6, shrink=2.0)
CO = LifelongConfig(top_k=5, kept=12, probes=4, mm_gsu=False, counts=COUNTS)
SMALL = ScorerConfig(d=8, heads=2, layers=1, window=6, dropout=0.0, hidden=8, lifelong=CO)


def table(tree: IndexTree, leads: dict[int, dict[int, float]], width: int = 4) -> TransitionStrength:
    """A reading of transitions given by hand: item -> {follower: weight}."""
    n = tree.n_items
    items, weights = np.full((n, width), n, np.int64), np.zeros((n, width), np.float32)
    for item, found in leads.items():
        items[item, : len(found)], weights[item, : len(found)] = list(found), list(found.values())
    reading = TransitionStrength(tree, TransitionConfig(followers=width))
    reading.fill(items, weights)
    return reading


def strengths(
    tree: IndexTree, reading: TransitionStrength, history: list[int], first_level: int, *, least: float = FLOOR
) -> np.ndarray:
    """(C, n) by loops: behaviors of weight above `least` summed a leaf, a node the best of its items, log of the share."""
    n, paths = tree.n_items, tree.paths()
    first = int(tree.level_offsets[first_level])
    out = np.zeros((len(DECAYS), tree.n_nodes - first))
    for row, decay in enumerate(DECAYS):
        leaf = np.zeros(n)
        for age, item in enumerate(reversed(history)):
            if item < 0 or decay**age <= least:
                continue
            for follower, weight in zip(reading.items[item].tolist(), reading.weights[item].tolist(), strict=True):
                if follower < n:
                    leaf[follower] += decay**age * weight
        for node in range(first, tree.n_nodes):
            under = np.flatnonzero((paths == node).any(axis=1))
            out[row, node - first] = math.log(leaf[under].max() / max(leaf.max(), 1e-12) + FLOOR)
    return out


def random_reading(tree: IndexTree, seed: int) -> TransitionStrength:
    """Counts of random walks over the tree's items; some items are in no walk and lead nowhere."""
    rng = np.random.default_rng(seed)
    n = tree.n_items
    reading = TransitionStrength(tree, COUNTS)
    walks = [rng.integers(0, max(n - n // 5, 1), rng.integers(0, 9)).tolist() for _ in range(12)]
    reading.fill(*followers(of(walks, n), COUNTS))
    return reading


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 37),
    branching=st.sampled_from([2, 4]),
    history=st.lists(st.integers(0, 10_000), max_size=60),
    seed=st.integers(0, 50),
)
def test_every_node_of_every_level_has_the_strength_of_its_best_item(
    n: int, branching: int, history: list[int], seed: int
) -> None:
    tree = build_tree(ring_vectors(n), TreeConfig(branching=branching))
    reading = random_reading(tree, seed)
    row = [item % n for item in history]
    for first_level in range(tree.depth + 1):
        found = reading(pad_left([np.array(row, np.int64)]), first_level)
        assert found.shape == (1, len(DECAYS), tree.n_nodes - int(tree.level_offsets[first_level]))
        np.testing.assert_allclose(found[0], strengths(tree, reading, row, first_level), atol=2e-4)


@pytest.mark.parametrize("n", [5, 17, 33])
def test_single_children_pass_their_strength_up(n: int) -> None:
    tree = build_tree(ring_vectors(n))
    single = np.flatnonzero((tree.children >= 0).sum(axis=1) == 1)
    assert len(single), "the case is there"
    reading = random_reading(tree, 1)
    found = reading(torch.tensor([[0, 1, 2, 3]]), 0)[0].numpy()
    np.testing.assert_array_equal(found[:, single], found[:, tree.children[single, 0]])
    np.testing.assert_allclose(found, strengths(tree, reading, [0, 1, 2, 3], 0), atol=2e-4)


def test_items_attached_later_are_read_at_their_own_leaf() -> None:
    old = build_tree(ring_vectors(11))
    tree = insert_items(old, ring_vectors(16)[11:13])
    reading = table(tree, {2: {12: 1.0, 4: 0.5}, 12: {11: 0.25}})
    for history in ([2], [2, 12]):
        found = reading(torch.tensor([history]), 1)
        np.testing.assert_allclose(found[0], strengths(tree, reading, history, 1), atol=2e-4)
    assert found[0, 0, int(tree.item_leaf[11] - tree.level_offsets[1])] > math.log(0.1)


def test_what_follows_the_newest_behaviors_is_told_from_what_follows_all() -> None:
    """One behavior leads to item 5, four older ones to item 6: by hand, at each decay."""
    tree = build_tree(ring_vectors(8))
    reading = table(tree, {0: {5: 1.0}, 1: {6: 0.5}})
    found = reading(torch.tensor([[1, 1, 1, 1, 0]]), tree.depth)[0]
    column = tree.item_leaf - tree.level_offsets[tree.depth]
    for row, decay in enumerate(DECAYS):
        newest, older = 1.0, 0.5 * sum(decay**age for age in (1, 2, 3, 4))
        best = max(newest, older)
        assert found[row, column[5]].item() == pytest.approx(math.log(newest / best + FLOOR), abs=1e-5)
        assert found[row, column[6]].item() == pytest.approx(math.log(older / best + FLOOR), abs=1e-5)
        assert found[row, column[7]].item() == pytest.approx(math.log(FLOOR), abs=1e-5)


def test_padding_and_company_in_a_batch_change_nothing() -> None:
    tree = build_tree(ring_vectors(21))
    reading = random_reading(tree, 4)
    rng = np.random.default_rng(2)
    rows = [rng.integers(0, 21, n) for n in (0, 1, 2, 6, 14, 43, 44, 90)]
    together = reading(pad_left(rows), 1)
    for row, history in enumerate(rows):
        torch.testing.assert_close(together[row], reading(pad_left([history]), 1)[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(together[row], reading(pad_left([history], 130), 1)[0], rtol=0, atol=1e-6)


def test_who_says_nothing_or_had_what_nobody_followed_gets_finite_strengths() -> None:
    tree = build_tree(ring_vectors(9))
    reading = table(tree, {0: {1: 1.0}})
    for history in ([-1], [-1, -1, -1], [7], [-1, 7, 8]):
        found = reading(torch.tensor([history]), 0)
        torch.testing.assert_close(found, torch.full_like(found, math.log(FLOOR)))
    empty = TransitionStrength(tree, COUNTS)  # nothing counted yet
    assert empty(torch.tensor([[3, 4]]), 0).isfinite().all()


@pytest.mark.parametrize(("row", "decay"), list(enumerate(DECAYS)))
def test_a_behavior_is_forgotten_only_where_it_weighs_less_than_the_floor(row: int, decay: float) -> None:
    """The newest behavior leads to item 5, one of some age to item 6, with the same weight."""
    tree = build_tree(ring_vectors(8))
    reading = table(tree, {0: {5: 1.0}, 1: {6: 1.0}})
    leaf = int(tree.item_leaf[6] - tree.level_offsets[tree.depth])

    def told(age: int) -> float:
        return float(reading(torch.tensor([[1] + [2] * (age - 1) + [0]]), tree.depth)[0, row, leaf])

    gone = next((age for age in range(1, 60) if told(age) < math.log(FLOOR) + 1e-6), None)
    if decay == 1:
        assert gone is None
        assert told(300) == pytest.approx(0, abs=2e-3), "the whole history"
    else:
        assert gone is not None
        assert decay**gone <= FLOOR < decay ** (gone - 1)
        for age in (1, gone - 1):
            assert told(age) == pytest.approx(math.log(decay**age + FLOOR), abs=1e-4)


@pytest.mark.parametrize(
    ("leads", "history"),
    [
        pytest.param({0: {5: 1.0}}, [0] + [2] * 6, id="newest behaviors that lead nowhere"),
        pytest.param({0: {5: 1.0}, 1: {6: 0.001}}, [0] * 9 + [1] * 6, id="newest behaviors that say next to nothing"),
        pytest.param({0: {5: 1.0}, 1: {6: 1.0}}, [0] * 90 + [2] * 42 + [1], id="many old behaviors that agree"),
    ],
)
def test_what_a_fast_decay_no_longer_looks_up_a_slower_one_still_tells(
    leads: dict[int, dict[int, float]], history: list[int]
) -> None:
    """The look-up ends at an age, also where newer behaviors say nothing; something is told of every behavior all the same."""
    tree = build_tree(ring_vectors(8))
    reading = table(tree, leads)
    found = reading(torch.tensor([history]), tree.depth)[0].numpy()
    np.testing.assert_allclose(found, strengths(tree, reading, history, tree.depth), atol=1e-4)
    exact = strengths(tree, reading, history, tree.depth, least=0)
    assert np.abs(found - exact).max() > math.log(2), "a fast decay has let go of what it would tell without an end"
    np.testing.assert_allclose(found[-1], exact[-1], atol=1e-4, err_msg="the whole history, undecayed")


def filled(tree: IndexTree, config: ScorerConfig, seed: int = 0) -> MISS:
    """A model that reads counts, none of its parameters at its neutral start."""
    torch.manual_seed(seed)
    model = MISS(tree, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.transition_gain.add_(1.0)
    assert model.transitions is not None
    model.transitions.fill(*followers(make_histories(80, tree.n_items, seed=7), config.lifelong.counts))
    return model.eval()


def test_the_score_adds_each_levels_gains_of_the_dense_score_and_of_the_strengths() -> None:
    """(1 + a_h) (h . e_n + bias_n) + b_h . t_n, the rest of the lifelong path being at its start."""
    tree = build_tree(ring_vectors(13))
    model = filled(tree, SMALL)
    with torch.no_grad():
        for neutral in (model.gates, model.mlp_out.weight, model.mlp_out.bias):
            neutral.zero_()
    history = [3, 4, 5, 8]
    assert model.transitions is not None
    told = strengths(tree, model.transitions, history, 1)
    with torch.no_grad():
        tables = model.tables()
        user = model.read(pad_left([np.array(history)], 12), tables, (1, 3))
        for level in range(1, tree.depth + 1):
            nodes = torch.from_numpy(tree.nodes(level))[None]
            dense = model.dense(user, tables.e[nodes], tables.bias[nodes])[0].numpy()
            a, b = float(model.dense_gain[level]), model.transition_gain[level].numpy()
            wanted = (1 + a) * dense + b @ told[:, nodes[0].numpy() - 1]
            np.testing.assert_allclose(model.score(user, nodes, tables)[0], wanted, atol=2e-3)


@pytest.mark.parametrize("decay", range(len(DECAYS)))
def test_a_beam_of_three_finds_what_follows_most(decay: int) -> None:
    """With nothing but one strength in the score, the tree's answer is that of all items: no node hides its best item."""
    n = 41
    tree = build_tree(np.random.default_rng(0).standard_normal((n, 6)).astype(np.float32))  # followers far apart
    torch.manual_seed(0)
    model = MISS(tree, SMALL)
    with torch.no_grad():
        for parameter in (model.node_embedding, model.content.weight):
            parameter.zero_()
        model.transition_gain[:, decay] = 1.0
    train = make_histories(80, n, seed=7)
    assert model.transitions is not None
    model.transitions.fill(*followers(train, COUNTS))
    users = [train[u] for u in range(20) if len(train[u])]
    items, _ = TreeRetriever(model.eval(), tree, beam=3).recommend(
        users, 3, exclude=[np.array([], np.int64)] * len(users)
    )
    for row, history in enumerate(users):
        exact = strengths(tree, model.transitions, history.tolist(), tree.depth)[decay]
        score = exact[tree.item_leaf - tree.level_offsets[tree.depth]]
        np.testing.assert_allclose(score[items[row]], np.sort(score)[::-1][:3], atol=1e-4)


def test_search_with_counts_is_scoring_every_item_whoever_shares_the_batch() -> None:
    n = 29
    tree = build_tree(ring_vectors(n))
    model = filled(tree, replace(SMALL, lifelong=replace(CO, mm_gsu=True)))
    retriever = TreeRetriever(model, tree, beam=n)
    rng = np.random.default_rng(5)
    users = [rng.permutation(n)[:length] for length in (0, 1, 5, 6, 7, 13, 20)]
    items, scores = retriever.recommend(users, 8)
    first_level = tuple(int(x) for x in tree.level_offsets[-2:])
    for row, history in enumerate(users):
        alone, score = retriever.recommend([history], 8)
        assert alone[0].tolist() == items[row].tolist()
        np.testing.assert_allclose(score[0], scores[row], atol=1e-5)
        with torch.no_grad():
            tables = model.tables()
            user = model.read(pad_left([history], max(12, len(history))), tables, first_level)
            exact = model.score(user, torch.from_numpy(tree.item_leaf)[None], tables)[0].numpy()
        exact[history] = -np.inf
        assert items[row].tolist() == np.argsort(-exact)[:8].tolist()


def test_counts_are_saved_with_the_parameters(tmp_path: Path) -> None:
    tree = build_tree(ring_vectors(13))
    model = filled(tree, SMALL)
    save_parameters(model, tmp_path / "p.npz")
    again = load_parameters(tree, TrainingConfig(scorer=SMALL), tmp_path / "p.npz")
    assert model.transitions is not None
    assert again.transitions is not None
    assert (model.transitions.weights > 0).any()
    for name in ("items", "weights"):
        assert torch.equal(getattr(model.transitions, name), getattr(again.transitions, name))
    users = [np.array([3, 4, 5]), np.array([], np.int64)]
    a, b = (TreeRetriever(m, tree, beam=6).recommend(users, 6) for m in (model, again))
    assert a[0].tolist() == b[0].tolist()
    assert a[1].tolist() == b[1].tolist()


def test_counts_belong_to_cogsu_and_can_be_left_out() -> None:
    tree = build_tree(ring_vectors(9))
    for lifelong in (replace(CO, transitions=False), replace(CO, co_gsu=False, mm_gsu=True)):
        torch.manual_seed(0)
        model = MISS(tree, replace(SMALL, lifelong=lifelong)).eval()
        assert model.transitions is None
        assert not any("transition" in name for name in model.state_dict())
        assert TreeRetriever(model, tree, beam=9).recommend([np.array([1, 2])], 5)[0].shape == (1, 5)


@pytest.mark.slow
def test_onnx_runtime_reads_the_same_counts_in_histories_of_any_length(tmp_path: Path) -> None:
    """Lengths on both sides of every age at which a decay stops looking, and of the example's that the graph was traced with."""
    n = 13
    tree = build_tree(ring_vectors(n))
    search = BeamSearch(filled(tree, SMALL), tree, beam=3)
    export_search(search, tmp_path / "a.onnx")
    rng = np.random.default_rng(0)
    lengths = [*range(9), 30, 31, 32, 42, 43, 44, 200] * 3
    histories = [
        np.concatenate([rng.integers(0, n, max(length - 1, 0)), [row % n]])[:length]
        for row, length in enumerate(lengths)
    ]
    report = check_parity(search, tmp_path / "a.onnx", [h.astype(np.int64) for h in histories], k=3)
    assert report["max_abs_score_error"] <= 1e-4
    assert report["topk_equal_share"] == 1.0
    assert report["lengths"] == [0, 200]
