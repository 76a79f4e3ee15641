"""A user would lose: levels that learn from the wrong targets, gradients that are not the loss's, a default that changes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import ring_vectors
from test_training import ITEMS, TINY, _data, _quiet
from torch import Tensor

from model.configure import configure
from model.dense_training import DenseConfig, _TrainedLevels, exact_ndcg, seen_before, train_dense
from model.files import digest_file
from model.index_tree import IndexTree, TreeConfig, build_tree, insert_items
from model.level_loss import level_softmax_loss
from model.scorer import NodeTables
from model.training import TrainingConfig, new_model, save_parameters, train_model


def grown(n: int, branching: int, inserted: int) -> IndexTree:
    """A tree with some items inserted later, where there is room for them."""
    tree = build_tree(ring_vectors(n), TreeConfig(branching=branching))
    free = int((tree.children[tree.nodes(tree.depth - 1)] < 0).sum()) if tree.depth else 0
    return insert_items(tree, ring_vectors(n)[: min(inserted, free)]) if min(inserted, free) else tree


def finds(tree: IndexTree, score: np.ndarray, node: int, target: int, gone: set[int]) -> bool:
    """Whether a greedy descent from a node, by (M,) scores, ends at the target; ties go to it, leaves `gone` are no rivals."""
    own = set(tree.paths()[target].tolist())
    while tree.leaf_item[node] < 0:
        children = [c for c in tree.children[node].tolist() if c >= 0 and (c not in gone or c in own)]
        if not children:
            return False
        best = max(score[c] for c in children)
        node = next((c for c in children if c in own and score[c] == best), None) or max(
            children, key=lambda c: score[c]
        )
    return int(tree.leaf_item[node]) == target


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 50),
    branching=st.sampled_from([2, 4, 8]),
    inserted=st.integers(0, 3),
    least=st.integers(1, 9),
    seed=st.integers(0, 1000),
    coarse=st.booleans(),
    hides=st.booleans(),
)
def test_a_target_counts_where_a_greedy_descent_finds_it(
    n: int, branching: int, inserted: int, least: int, seed: int, coarse: bool, hides: bool
) -> None:
    tree = grown(n, branching, inserted)
    levels = _TrainedLevels(tree, DenseConfig(min_level_nodes=least))
    rng = np.random.default_rng(seed)
    # coarse: scores of -1, 0 and 1, of which many are level; one dimension, so that a score is exact
    e = rng.integers(-1, 2, (tree.n_nodes, 1)) if coarse else rng.standard_normal((tree.n_nodes, 1))
    tables = NodeTables(
        torch.tensor(e, dtype=torch.float64), torch.zeros(tree.n_nodes, dtype=torch.float64), *[torch.empty(0)] * 3
    )
    target = torch.from_numpy(rng.integers(0, tree.n_items, 12))
    seen = torch.from_numpy(rng.integers(-1, tree.n_items, (12, 1 + tree.n_items // 3))) if hides else None
    counts = levels.pseudo_targets(torch.ones(12, 1, dtype=torch.float64), target, seen, tables)
    assert counts.shape == (12, len(levels.levels))
    paths = tree.paths()
    for row, item in enumerate(target.tolist()):
        gone = {int(tree.item_leaf[i]) for i in (seen[row].tolist() if seen is not None else []) if i >= 0}
        expected = [finds(tree, e[:, 0], int(paths[item, h]), item, gone) for h in levels.levels]
        assert counts[row].tolist() == expected
    assert counts[:, -1].all(), "a leaf that is the target's own is always a positive"


def reference(
    h: Tensor, e: Tensor, bias: Tensor, targets: Tensor, starts: list[int], positives: Tensor, hidden: Tensor | None
) -> Tensor:
    """(L,) loss of each level by plain autograd: cross-entropy where a position counts, 0 elsewhere, over all positions."""
    losses = []
    for level, (a, b) in enumerate(pairwise(starts)):
        logits = h @ e[a:b].T + bias[a:b]
        if hidden is not None and b == starts[-1]:
            gone = torch.zeros(len(h), b - a + 1, dtype=torch.bool)
            gone.scatter_(1, torch.where(hidden >= 0, hidden, b - a), True)
            gone[torch.arange(len(h)), targets[:, level]] = False
            logits = logits.masked_fill(gone[:, : b - a], -torch.inf)
        each = torch.nn.functional.cross_entropy(logits, targets[:, level], reduction="none")
        losses.append((each * positives[:, level]).sum() / len(h))
    return torch.stack(losses)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("positions", [1, 256, 600])  # a chunk is 256
def test_loss_and_gradients_are_those_of_the_positions_that_count(positions: int, hides: bool) -> None:
    torch.manual_seed(positions)
    starts, weights = [0, 10, 30, 67], [1.0, 0.5, 2.0]
    dtype = torch.float32 if hides else torch.float64
    h, e, bias = (torch.randn(*size, dtype=dtype, requires_grad=True) for size in ((positions, 8), (67, 8), (67,)))
    targets = torch.stack([torch.randint(0, n, (positions,)) for n in (10, 20, 37)], dim=1)
    positives = torch.rand(positions, 3) < torch.tensor([0.1, 0.5, 1.0])
    hidden = torch.randint(-1, 37, (positions, 9)) if hides else None
    loss, by_level = level_softmax_loss(
        h, e, bias, targets, starts=starts, weights=weights, hidden=hidden, positives=positives
    )
    wanted = reference(h, e, bias, targets, starts, positives, hidden)
    total = (wanted * torch.tensor(weights, dtype=dtype)).sum()
    torch.testing.assert_close(by_level.to(dtype), wanted.detach(), rtol=1e-5, atol=1e-6)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    close = {"rtol": 1e-4, "atol": 3e-6} if hides else {"rtol": 1e-9, "atol": 1e-12}
    for ours, theirs in zip(*(torch.autograd.grad(3 * x, [h, e, bias]) for x in (loss, total)), strict=True):
        torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize("branching", [2, 4])
def test_the_dense_path_s_gradients_are_autograds_with_what_counts_read_off_the_tree(branching: int) -> None:
    """Windows with padding, items that come back, items hidden: as training has them."""
    tree = build_tree(ring_vectors(21), TreeConfig(branching=branching))
    levels = _TrainedLevels(tree, DenseConfig(min_level_nodes=4))
    torch.manual_seed(1)
    e, bias = torch.randn(tree.n_nodes, 6, requires_grad=True), torch.randn(tree.n_nodes, requires_grad=True)
    inputs = torch.tensor([[-1, -1, 3, 9, 3], [7, 1, 20, 5, 2], [0, 4, 8, 12, 16]])
    targets = torch.tensor([[-1, 3, 9, 3, 12], [1, 20, 5, 2, 7], [4, 8, 12, 16, 20]])
    chosen = targets >= 0
    h = torch.randn(3, 5, 6)[chosen].requires_grad_()
    known = h, targets[chosen], seen_before(inputs)[chosen], NodeTables(e, bias, *[torch.empty(0)] * 3)
    positives = levels.pseudo_targets(*known)
    assert 0 < positives.double().mean() < 1
    loss, by_level = levels.loss(*known, positives)
    paths, terms = tree.paths(), []
    for row, (item, seen) in enumerate(zip(known[1].tolist(), known[2].tolist(), strict=True)):
        gone = {int(tree.item_leaf[i]) for i in seen if i >= 0 and i != item}
        score = (e.detach() @ h[row].detach() + bias.detach()).numpy()
        for place, level in enumerate(levels.levels):
            if not finds(tree, score, int(paths[item, level]), item, gone):
                continue
            nodes = [x for x in tree.nodes(level).tolist() if x not in gone]
            logits = e[nodes] @ h[row] + bias[nodes]
            own = nodes.index(int(paths[item, level]))
            terms.append(levels.weights[place] * (torch.logsumexp(logits, 0) - logits[own]))
    total = torch.stack(terms).sum() / len(h)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    for ours, theirs in zip(*(torch.autograd.grad(x, [h, e, bias]) for x in (loss, total)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert not by_level.requires_grad


def as_it_was(
    h: Tensor, e: Tensor, bias: Tensor, targets: Tensor, starts: list[int], weights: list[float], hidden: Tensor | None
) -> list[Tensor]:
    """Loss by level and gradients as before there were pseudo-targets: every chunk of positions, every level."""
    grads, losses, scale = [torch.zeros_like(x) for x in (h, e, bias)], torch.zeros(len(weights)), 1.0 / len(h)
    for level, (a, b) in enumerate(pairwise(starts)):
        for begin in range(0, len(h), 256):
            part, target = slice(begin, begin + 256), targets[begin : begin + 256, level, None]
            x = torch.addmm(bias[a:b], h[part], e[a:b].T.contiguous())
            if hidden is not None and level == len(weights) - 1:
                own, gone = x.gather(1, target), hidden[part]
                x.scatter_add_(1, gone.clamp(min=0), torch.where(gone >= 0, -1e9, 0.0))
                x.scatter_(1, target, own)
            q = torch.softmax(x, dim=1)
            chosen = q.gather(1, target)
            losses[level] -= chosen.clamp(min=1e-38).log().sum()
            q.scatter_(1, target, chosen - 1)
            grads[0][part].addmm_(q, e[a:b], alpha=weights[level] * scale)
            grads[1][a:b].addmm_(q.T, h[part], alpha=weights[level] * scale)
            grads[2][a:b].add_(q.sum(0), alpha=weights[level] * scale)
    return [losses * scale, *grads]


@pytest.mark.parametrize("hides", [False, True])
def test_without_the_option_every_position_counts_on_every_level(hides: bool) -> None:
    torch.manual_seed(0)
    starts, weights = [0, 40, 100, 227], [1.0, 1.0, 2.0]
    h, e, bias = (torch.randn(*size, requires_grad=True) for size in ((700, 32), (227, 32), (227,)))
    targets = torch.stack([torch.randint(0, n, (700,)) for n in (40, 60, 127)], dim=1)
    hidden = torch.randint(-1, 127, (700, 20)) if hides else None
    loss, by_level = level_softmax_loss(h, e, bias, targets, starts=starts, weights=weights, hidden=hidden)
    ours = [by_level, *torch.autograd.grad(loss, [h, e, bias])]
    with torch.no_grad():
        wanted = as_it_was(h, e, bias, targets, starts, weights, hidden)
    for mine, theirs in zip(ours, wanted, strict=True):  # sums of other chunks, so not the last bit
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_training_with_pseudo_targets_learns_and_tells_how_many_counted(tmp_path: Path) -> None:
    train, validation, _ = _data(120)
    tree = build_tree(ring_vectors(ITEMS))
    config = replace(TINY, pseudo_targets=True, lifelong=replace(TINY.lifelong, epochs=0))
    model, found, curves = train_model(tree, train, validation, config, progress=_quiet)
    assert found is tree
    assert exact_ndcg(new_model(tree, config), validation) + 0.2 < exact_ndcg(model, validation)
    first, last = curves["dense"][0], curves["dense"][-1]
    levels = [int(name.rpartition("_")[2]) for name in first if name.startswith("loss_level_")]
    for point in (first, last):
        shares = [point[f"pseudo_targets_level_{h}"] for h in levels]
        assert shares[-1] == 1
        assert shares == sorted(shares), "who counts on a level counts on all below"
    assert first[f"pseudo_targets_level_{levels[0]}"] < last[f"pseudo_targets_level_{levels[0]}"]
    short = replace(config.dense, epochs=1)
    off = train_dense(new_model(tree, config), tree, train, validation, short, seed=0, progress=_quiet)
    assert not any(name.startswith("pseudo") for name in off[0])
    save_parameters(model, tmp_path / "once.npz")
    again = train_model(tree, train, validation, config, progress=_quiet).model
    save_parameters(again, tmp_path / "again.npz")
    assert digest_file(tmp_path / "once.npz") == digest_file(tmp_path / "again.npz")


def test_it_is_off_by_default_and_an_option_of_training() -> None:
    assert not TrainingConfig().pseudo_targets
    assert configure(TrainingConfig, {"pseudo_targets": "true"}, where="training").pseudo_targets
