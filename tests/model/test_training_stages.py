"""A user would lose: what each stage learns from, and what its loss and its validation say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import ring_vectors
from test_training import ITEMS, TINY, _data, _quiet, dense_alone, lifelong_stage, reads_counts_of
from torch import Tensor

from model.dense_training import DenseConfig, _TrainedLevels, exact_ndcg, seen_before, train_dense
from model.histories import Histories
from model.index_tree import TreeConfig, build_tree
from model.level_loss import level_softmax_loss
from model.lifelong_training import LifelongTraining, _samples, search_ndcg, tail_lengths
from model.scorer import MISS, NodeTables
from model.stage import parameter_norms
from model.training import dense_histories, new_model, train_model
from model.transitions import followers


def _oracle(
    h: Tensor, e: Tensor, bias: Tensor, targets: Tensor, starts: list[int], hidden: Tensor | None
) -> list[Tensor]:
    """Cross-entropy of each level in float64, what is hidden from a position cut out of its last level."""
    h, e, bias = h.double(), e.double(), bias.double()
    losses = []
    for level, (a, b) in enumerate(pairwise(starts)):
        logits = h @ e[a:b].T + bias[a:b]
        if hidden is not None and b == starts[-1]:
            gone = torch.zeros(len(h), b - a + 1, dtype=torch.bool)
            gone.scatter_(1, torch.where(hidden >= 0, hidden, b - a), True)
            gone[torch.arange(len(h)), targets[:, level]] = False
            logits = logits.masked_fill(gone[:, : b - a], -torch.inf)
        losses.append(torch.nn.functional.cross_entropy(logits, targets[:, level]))
    return losses


def _check_loss(positions: int, *, hides: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(positions)
    starts, weights = [0, 10, 30, 67], [1.0, 0.5, 2.0]
    h, e, bias = (torch.randn(*size, dtype=dtype, requires_grad=True) for size in ((positions, 8), (67, 8), (67,)))
    targets = torch.stack([torch.randint(0, n, (positions,)) for n in (10, 20, 37)], dim=1)
    # columns named twice, none (-1), and now and then the target itself
    hidden = torch.cat([torch.randint(-1, 37, (positions, 9)), torch.full((positions, 1), -1)], dim=1)
    hidden[::3, 4], hidden[::2, 7] = targets[::3, 2], hidden[::2, 6]
    hidden = hidden if hides else None
    loss, by_level = level_softmax_loss(h, e, bias, targets, starts=starts, weights=weights, hidden=hidden)
    wanted = _oracle(h, e, bias, targets, starts, hidden)
    total = sum((w * x for w, x in zip(weights, wanted, strict=True)), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(by_level.double(), torch.stack(wanted).detach(), rtol=1e-5, atol=1e-6)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(3 * x, [h, e, bias]) for x in (loss, total))
    close = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 3e-6}
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.to(dtype), **close)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("positions", [1, 255, 256, 257, 600])  # a chunk is 256
def test_level_loss_and_gradients_are_cross_entropys_of_what_is_not_hidden(positions: int, hides: bool) -> None:
    _check_loss(positions, hides=hides, dtype=torch.float32)


def test_level_loss_keeps_the_precision_it_is_given() -> None:
    _check_loss(300, hides=False, dtype=torch.float64)


def test_level_loss_keeps_the_precision_it_is_given_with_items_hidden() -> None:
    _check_loss(300, hides=True, dtype=torch.float64)


def test_a_target_hidden_from_itself_stays_and_what_is_hidden_learns_nothing() -> None:
    torch.manual_seed(0)
    h, e, bias = (torch.randn(*size, requires_grad=True) for size in ((2, 4), (5, 4), (5,)))
    targets = torch.tensor([[2], [0]])
    # to the first everything but 1 and the target is hidden, to the second everything there is
    hidden = torch.tensor([[0, 2, 2, 3, 4], [0, 1, 2, 3, 4]])
    loss, by_level = level_softmax_loss(h, e, bias, targets, starts=[0, 5], weights=[1.0], hidden=hidden)
    logits = (h @ e.T + bias).detach()
    alone = torch.nn.functional.cross_entropy(logits[:1, [1, 2]], torch.tensor([1]))
    assert by_level.item() == pytest.approx(alone.item() / 2, rel=1e-5), "nothing to be told from costs nothing"
    of_h, of_e, of_bias = torch.autograd.grad(loss, [h, e, bias])
    assert not of_h[1].any()
    assert not of_e[[0, 3, 4]].any()
    assert not of_bias[[0, 3, 4]].any()
    assert of_bias[2] < 0 < of_bias[1]


@pytest.mark.parametrize("branching", [2, 4])
def test_items_of_the_window_before_a_target_are_no_alternatives_to_it(branching: int) -> None:
    """By position: a softmax over all items but those before it in the window; inner levels hide nothing."""
    tree = build_tree(ring_vectors(21), TreeConfig(branching=branching))
    levels = _TrainedLevels(tree, DenseConfig(min_level_nodes=4))
    torch.manual_seed(1)
    e, bias = torch.randn(tree.n_nodes, 6), torch.randn(tree.n_nodes)
    inputs = torch.tensor([[-1, -1, 3, 9, 3], [7, 1, 20, 5, 2]])
    targets = torch.tensor([[-1, 3, 9, 3, 12], [1, 20, 5, 2, 7]])  # 3 comes back, as the target and as an input
    h, chosen = torch.randn(2, 5, 6), targets >= 0
    loss, by_level = levels.loss(
        h[chosen], targets[chosen], seen_before(inputs)[chosen], NodeTables(e, bias, *[torch.empty(0)] * 3)
    )
    assert levels.weights == [1.0] * (len(levels.levels) - 1) + [2.0]
    total, paths = 0.0, tree.paths()
    for place, level in enumerate(levels.levels):
        terms = []
        for row, position in torch.nonzero(chosen).tolist():
            target = int(targets[row, position])
            before = {i for i in inputs[row, : position + 1].tolist() if i >= 0} - {target}
            gone = {int(tree.item_leaf[i]) for i in before} if level == tree.depth else set()
            nodes = [n for n in tree.nodes(level).tolist() if n not in gone]
            logits = (e[nodes] @ h[row, position] + bias[nodes]).double()
            terms.append(torch.logsumexp(logits, 0) - logits[nodes.index(int(paths[target, level]))])
        mean = float(torch.stack(terms).mean())
        assert by_level[place].item() == pytest.approx(mean, rel=1e-5)
        total += levels.weights[place] * mean
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_hiding_what_was_seen_is_an_option_of_the_leaves_alone() -> None:
    train, validation, _ = _data(60)
    tree, first = build_tree(ring_vectors(ITEMS)), []
    for hide in (True, False):
        config = replace(TINY.dense, epochs=1, hide_seen=hide, learning_rate=0.0)
        curve = train_dense(new_model(tree, TINY), tree, train, validation, config, seed=0, progress=_quiet)
        first.append(curve[0])
    shown = [name for name in first[0] if name.startswith("loss_level_")]
    assert [first[0][n] < first[1][n] - 1e-3 for n in shown] == [False] * (len(shown) - 1) + [True]
    assert [first[0][n] for n in shown[:-1]] == pytest.approx([first[1][n] for n in shown[:-1]])


def test_validation_of_the_dense_path_reads_a_user_as_a_search_does_whoever_shares_the_batch() -> None:
    _, validation, _ = _data(100)
    tree, config = build_tree(ring_vectors(ITEMS)), replace(TINY, scorer=replace(TINY.scorer, window=24))
    model = new_model(tree, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    served = search_ndcg(dense_alone(model, tree, config), tree, validation, beam=ITEMS, users=len(validation))
    for batch in (1, 16, 256):
        assert exact_ndcg(model, validation, batch=batch) == pytest.approx(served, abs=1e-6), f"batches of {batch}"


@pytest.fixture(scope="module")
def curves_and_lines() -> tuple[dict[str, list[dict[str, float]]], list[str], MISS]:
    train, validation, _ = _data(80)
    lines: list[str] = []
    config = replace(TINY, dense=replace(TINY.dense, epochs=2), lifelong=replace(TINY.lifelong, batch=4), beam=4)
    model, _, curves = train_model(build_tree(ring_vectors(ITEMS)), train, validation, config, progress=lines.append)
    return dict(curves), lines, model


def test_curves_hold_the_norms_of_the_parameters_and_the_loss_of_every_trained_level(curves_and_lines) -> None:
    """What a reviewer looks at where a training went wrong; all of a curve goes to MLflow under these names."""
    curves, _, model = curves_and_lines
    dense, lifelong = curves["dense"], curves["lifelong"]
    assert {f"loss_level_{h}" for h in (3, 4, 5, 6)} <= set(dense[0])
    searched = [float(v) for n, v in lifelong[1].items() if n.startswith("loss_level_")]
    assert len(searched) > 1, "the levels that batches were drawn of"
    assert min(searched) <= lifelong[1]["loss"] <= max(searched)
    groups = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert {"node_embedding", "node_bias", "content", "short", "co_gsu", "mm_gsu", "gates", "mlp_out"} <= groups
    for point in (*dense, *lifelong[1:]):
        assert {f"parameter_norm_{group}" for group in groups} <= set(point)
        parts = [point[f"parameter_norm_{group}"] for group in groups]
        assert point["parameter_norm"] == pytest.approx(np.sqrt(np.square(parts).sum()))
    assert dense[0]["parameter_norm_node_embedding"] < dense[1]["parameter_norm_node_embedding"]
    assert dense[0]["parameter_norm_mm_gsu"] == dense[1]["parameter_norm_mm_gsu"], "not this stage's"
    assert len({point["parameter_norm_short"] for point in lifelong[1:]}) == 1, "frozen"
    assert lifelong[1]["parameter_norm_mlp_out"] > 0
    found = parameter_norms(model)
    assert found["parameter_norm_short"] == pytest.approx(
        float(torch.cat([p.detach().flatten() for p in model.short.parameters()]).norm()), rel=1e-5
    )


def test_the_line_after_an_epoch_stays_short(curves_and_lines) -> None:
    _, lines, _ = curves_and_lines
    assert len(lines) == 4
    assert not [line for line in lines if "norm_" in line or "parameter_norm" in line or "level" in line]
    assert max(map(len, lines)) < 120
    assert lines[0].startswith("dense epoch 1/2: loss ")
    assert "validation_ndcg@10" in lines[0]


def test_progress_bars_show_the_loss_and_the_last_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, list[dict[str, str]]] = {}

    class Bar:
        def __init__(self, items: object, *, desc: str, **_: object) -> None:
            self.items, self.own = items, shown.setdefault(desc, [])

        def __iter__(self) -> object:
            return iter(self.items)  # type: ignore[call-overload]

        def set_postfix(self, told: dict[str, str], *, refresh: bool) -> None:
            self.own.append(told)

    for module in ("dense_training", "lifelong_training"):
        monkeypatch.setattr(f"model.{module}.tqdm", Bar)
    train, validation, _ = _data(40)
    tree, config = build_tree(ring_vectors(ITEMS)), replace(TINY, dense=replace(TINY.dense, epochs=2))
    curves = train_model(tree, train, validation, config, progress=_quiet).curves
    assert list(shown) == ["dense 1/2", "dense 2/2", "lifelong 1/2", "lifelong 2/2"]
    assert all("loss" in each for told in shown.values() for each in told)
    assert not any("ndcg@10" in each for each in shown["dense 1/2"]), "nothing was validated yet"
    seen = {
        "dense 2/2": curves["dense"][0],
        "lifelong 1/2": curves["lifelong"][0],
        "lifelong 2/2": curves["lifelong"][1],
    }
    for bar, point in seen.items():
        assert {each["ndcg@10"] for each in shown[bar]} == {f"{point['validation_ndcg@10']:.4f}"}


def _numbered(lengths: list[int]) -> Histories:
    """Histories in which every behavior is an item of its own: an item says whose it is, and where it stands."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(offsets=offsets, items=np.arange(offsets[-1], dtype=np.int32), n_items=int(offsets[-1]) + 1)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 20), max_size=9),
    tail=st.integers(0, 4),
    after=st.integers(0, 12),
    batch=st.integers(1, 7),
    most=st.integers(1, 8),
)
def test_the_two_stages_share_each_history_out_and_nothing_is_trained_on_twice(
    lengths: list[int], tail: int, after: int, batch: int, most: int
) -> None:
    train = _numbered(lengths)
    lifelong = LifelongTraining(tail=tail, tail_after=after, batch=batch, max_history=most)
    dense = dense_histories(train, replace(TINY, lifelong=lifelong))
    own = tail_lengths(train, lifelong)
    for user, length in enumerate(lengths):
        assert len(dense[user]) + own[user] == length
        assert dense[user].tolist() == train[user][: length - own[user]].tolist()
        assert len(dense[user]) >= min(length, after), "the dense path keeps what it needs of a short history"
        assert own[user] == min(tail, max(length - after, 0))
    tails = set(train.items.tolist()) - set(dense.items.tolist())
    orders = []
    for epoch in range(3):
        batches = _samples(train, lifelong, np.random.default_rng(epoch))
        targets = [int(t) for _, target in batches for t in target]
        orders.append(targets)
        assert sorted(targets) == sorted(tails), "each epoch, each once"
        assert len(batches) == -(-len(tails) // batch)
        assert all(1 <= len(target) == len(before) <= batch for before, target in batches)
        for before, target in ((b, int(t)) for group in batches for b, t in zip(*group, strict=True)):
            start = train.offsets[np.searchsorted(train.offsets, target, side="right") - 1]
            assert before.tolist() == list(range(max(start, target - most), target)), "the newest of what came before"
    if len(tails) > 8:
        assert len({tuple(order) for order in orders}) > 1, "in another order"


def test_without_a_lifelong_stage_the_dense_path_learns_from_everything() -> None:
    train, _, _ = _data(30)
    off = replace(TINY.scorer, lifelong=replace(TINY.scorer.lifelong, co_gsu=False, mm_gsu=False))
    for config in (replace(TINY, scorer=off), replace(TINY, lifelong=replace(TINY.lifelong, epochs=0))):
        assert dense_histories(train, config).items.tolist() == train.items.tolist()
    assert len(dense_histories(train, TINY).items) < len(train.items)


@pytest.mark.parametrize("rate", [1e-2, 0.0])
def test_counts_leave_out_what_is_learnt_from_and_hold_everybodys_when_it_is_judged(rate: float) -> None:
    """Counted over its own future, a transition is always right: the stage would learn to believe it blindly."""
    tree = build_tree(ring_vectors(ITEMS))
    model = new_model(tree, TINY)
    train = _data(80)[0]
    less = train.drop_last(tail_lengths(train, TINY.lifelong))
    assert not np.array_equal(*(followers(x, TINY.scorer.lifelong.counts)[1] for x in (train, less)))
    read, learning, judging = model.read, [], []

    def spy(*arguments: object) -> object:
        (learning if torch.is_grad_enabled() else judging).append(
            (reads_counts_of(model, less), reads_counts_of(model, train))
        )
        return read(*arguments)  # type: ignore[arg-type]

    model.read = spy  # type: ignore[method-assign, assignment]
    _, curve = lifelong_stage(model, tree, learning_rate=rate)
    assert len(curve) == 3
    assert learning == [(True, False)] * (2 * -(-int(tail_lengths(train, TINY.lifelong).sum()) // 32))
    assert set(judging) == {(False, True)}
    assert len(judging) == 3, "the starting point and two epochs"
    assert reads_counts_of(model, train), "also where the stage ends with what it started from"
    assert all(p.requires_grad for p in model.parameters())
