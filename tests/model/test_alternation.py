"""A user would lose: a model over another tree than it is searched with, hours to a kill, or a tree that is none any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import make_histories, ring_vectors
from test_reassignment import swapped
from test_training import ITEMS, TINY, _data, _quiet

from model import alternation
from model.alternation import ReassignConfig
from model.configure import configure
from model.errors import BadInput
from model.files import digest_file
from model.histories import leave_one_out
from model.index_tree import IndexTree, TreeConfig, build_tree, check_tree, insert_items, tree_from_order
from model.lifelong_training import search_ndcg
from model.reassignment import Reassignment, reassign
from model.scorer import MISS
from model.stage import timeless
from model.training import (
    Trained,
    TrainingConfig,
    dense_alone,
    load_parameters,
    new_model,
    save_parameters,
    train_model,
)
from model.tuning import read_space

CONFIG = replace(
    TINY,
    dense=replace(TINY.dense, epochs=2, learning_rate=3e-3),
    lifelong=replace(TINY.lifelong, epochs=1),
    reassign=ReassignConfig(rounds=2, epochs=2, moves=10),
)


def shuffled(items: int = ITEMS, branching: int = 2, seed: int = 0) -> IndexTree:
    """A tree that nobody would want: there is something to gain by moving items."""
    order = np.random.default_rng(seed).permutation(items)
    return tree_from_order(order, ring_vectors(items), TreeConfig(branching=branching))


def train(
    tree: IndexTree, config: TrainingConfig = CONFIG, work: Path | None = None, told: list[str] | None = None
) -> Trained:
    histories, validation, _ = _data(120)
    return train_model(tree, histories, validation, config, work=work, progress=_quiet if told is None else told.append)


def digest_of(found: Trained, folder: Path) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    save_parameters(found.model, folder / "parameters.npz")
    found.tree.save(folder / "tree.npz")
    return digest_file(folder / "parameters.npz"), digest_file(folder / "tree.npz")


def timeless_curves(curves: Mapping[str, list[dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
    return {stage: timeless(curve) for stage, curve in curves.items()}


@pytest.fixture(scope="module")
def found() -> Trained:
    return train(shuffled())


def test_the_tree_keeps_its_shape_and_its_capacity_and_a_round_moves_no_more_than_it_may(found: Trained) -> None:
    before, after = shuffled(), found.tree
    assert check_tree(after)["passed"]
    for name in ("parent", "children", "level_offsets"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    assert np.array_equal(before.sizes(), after.sizes())
    rounds = [point for point in found.curves["reassign"] if "moved_items" in point]
    assert len(found.curves["reassign"]) == 4
    assert [found.curves["reassign"].index(point) for point in rounds] == [1, 3], "said with a round's last epoch"
    assert all(0 < point["moved_items"] <= 10 and point["evidence_gain"] > 0 for point in rounds)
    changed = int((before.item_leaf != after.item_leaf).sum())
    assert 0 < changed <= 20


@pytest.mark.parametrize(("items", "branching", "grown"), [(64, 4, 0), (50, 2, 3), (9, 2, 0), (1, 2, 0)])
def test_any_tree_comes_back_whole(items: int, branching: int, grown: int) -> None:
    """Wider branchings, trees that items were inserted into, and trees too small to have anything moved."""
    tree = shuffled(items, branching)
    if grown:
        tree = insert_items(tree, ring_vectors(items)[:grown])
    histories, validation, _ = leave_one_out(make_histories(40, tree.n_items, shortest=1, longest=10))
    ended = train_model(tree, histories, validation, replace(CONFIG, beam=4), progress=_quiet)
    assert check_tree(ended.tree)["passed"]
    assert np.array_equal(tree.sizes(), ended.tree.sizes())
    assert sorted(ended.tree.leaf_item[ended.tree.item_leaf].tolist()) == list(range(tree.n_items))


def test_the_reported_tree_is_the_one_the_parameters_belong_to(found: Trained, tmp_path: Path) -> None:
    """The training that counts is that of any tree: the same as if one had come with the tree that came out."""
    assert not np.array_equal(found.tree.item_leaf, shuffled().item_leaf)
    plain = train(found.tree, replace(CONFIG, reassign=ReassignConfig()))
    assert digest_of(plain, tmp_path / "plain") == digest_of(found, tmp_path / "found")
    assert timeless_curves(plain.curves) == timeless_curves({k: found.curves[k] for k in ("dense", "lifelong")})
    assert list(found.curves) == ["reassign", "dense", "lifelong"]
    _, validation, _ = _data(120)
    best = max(point["validation_ndcg@10"] for point in found.curves["lifelong"])
    read = load_parameters(
        IndexTree.load(tmp_path / "found" / "tree.npz"), CONFIG, tmp_path / "found" / "parameters.npz"
    )
    assert search_ndcg(read, found.tree, validation, beam=8, users=200) == pytest.approx(best)
    other = load_parameters(shuffled(), CONFIG, tmp_path / "found" / "parameters.npz")
    assert search_ndcg(other, shuffled(), validation, beam=8, users=200) != pytest.approx(best), (
        "its shape fits, so that nothing else would tell"
    )


def test_misplaced_items_find_their_places_again() -> None:
    right = build_tree(ring_vectors(ITEMS))
    config = replace(
        CONFIG,
        dense=replace(CONFIG.dense, min_level_nodes=2, min_steps=20),
        reassign=ReassignConfig(rounds=1, epochs=1, moves=2),
    )
    ended = train(swapped(right, 5, 37), replace(config, lifelong=replace(config.lifelong, epochs=0)))
    assert np.array_equal(ended.tree.item_leaf, right.item_leaf)
    np.testing.assert_allclose(ended.tree.z, right.z, atol=1e-6)
    assert ended.curves["reassign"][-1]["moved_items"] == 2


def test_a_round_starts_from_the_last_ones_parameters_and_a_leaf_follows_its_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[tuple[dict[str, torch.Tensor], Reassignment]] = []
    starts: list[dict[str, torch.Tensor]] = []

    def copy(model: MISS) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in model.state_dict().items()}

    real_reassign, real_train = alternation.reassign, alternation.train_dense

    def reassigned(tree: IndexTree, model: MISS, *a: object, **o: object) -> Reassignment:
        ends.append((copy(model), real_reassign(tree, model, *a, **o)))  # type: ignore[arg-type]
        return ends[-1][1]

    def trained(model: MISS, *a: object, **o: object) -> object:
        starts.append(copy(model))
        return real_train(model, *a, **o)  # type: ignore[arg-type]

    monkeypatch.setattr(alternation, "reassign", reassigned)
    monkeypatch.setattr(alternation, "train_dense", trained)
    train(shuffled())
    fresh = new_model(shuffled(), dense_alone(CONFIG)).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in starts[0].items())
    (end, placed), start = ends[0], starts[1]
    assert len(placed.moved)
    old = shuffled()
    for item in range(ITEMS):
        new_leaf, old_leaf = placed.tree.item_leaf[item], old.item_leaf[item]
        assert torch.equal(start["node_embedding"][new_leaf], end["node_embedding"][old_leaf])
        assert torch.equal(start["node_bias"][new_leaf], end["node_bias"][old_leaf])
    inner = int(old.level_offsets[old.depth])
    assert torch.equal(start["node_embedding"][:inner], end["node_embedding"][:inner])
    others = [name for name in start if not name.startswith("node_")]
    assert others
    assert all(torch.equal(start[name], end[name]) for name in others)


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("before", ["reassign", "save", "unlink", "lifelong"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_resumed_run_ends_where_an_unbroken_one_ends(
    found: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, number: int
) -> None:
    """Killed between the epochs of a round and its end, as its end is written, after it, and in the training that follows."""
    calls = [0]

    def kills(real: object) -> object:
        def call(*a: object, **o: object) -> object:
            calls[0] += 1
            if calls[0] == number:
                raise Killed
            return real(*a, **o)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        if before == "reassign":
            patch.setattr(alternation, "reassign", kills(reassign))
        elif before == "lifelong":
            patch.setattr("model.training.train_lifelong", kills(None))
            calls[0] = number - 1
        else:
            owner = alternation.Checkpoint if before == "save" else Path
            name = "save" if before == "save" else "unlink"
            real = getattr(owner, name)

            def own(self: object, *a: object, **o: object) -> object:
                path = str(self.path if before == "save" else self)  # type: ignore[attr-defined]
                if path.endswith(f"round-{number}.pt" if before == "save" else f"round-{number}-dense.pt"):
                    raise Killed
                return real(self, *a, **o)

            patch.setattr(owner, name, own)
        with pytest.raises(Killed):
            train(shuffled(), work=tmp_path / "work")
    told: list[str] = []
    again = train(shuffled(), work=tmp_path / "work", told=told)
    assert digest_of(again, tmp_path / "again") == digest_of(found, tmp_path / "found")
    assert timeless_curves(again.curves) == timeless_curves(found.curves)
    rounds = {"reassign": number - 1, "save": number - 1, "unlink": number, "lifelong": 2}[before]
    assert sum("done before" in line for line in told) == rounds, "a finished round is not trained again"
    assert not list((tmp_path / "work").glob("round-*-dense.pt"))


def test_a_run_stopped_within_an_epoch_of_a_round_goes_on_after_the_one_before(found: Trained, tmp_path: Path) -> None:
    def stops(line: str) -> None:
        if line.startswith("round 2 epoch 1/"):
            raise Killed

    histories, validation, _ = _data(120)
    with pytest.raises(Killed):
        train_model(shuffled(), histories, validation, CONFIG, work=tmp_path / "work", progress=stops)
    told: list[str] = []
    again = train(shuffled(), work=tmp_path / "work", told=told)
    assert digest_of(again, tmp_path / "again") == digest_of(found, tmp_path / "found")
    assert told[0] == "round 1 of 2: done before"
    assert told[1].startswith("round 2 epoch 1/2")


def test_rounds_end_where_nobody_moves() -> None:
    """A tree of one trained level has nowhere to move to."""
    config = replace(CONFIG, dense=replace(CONFIG.dense, min_level_nodes=ITEMS))
    told: list[str] = []
    tree = shuffled()
    ended = train(tree, config, told=told)
    assert [line for line in told if " of 2: " in line] == ["round 1 of 2: 0 items change places"]
    assert np.array_equal(ended.tree.item_leaf, tree.item_leaf)


def test_without_rounds_nothing_differs_whatever_the_other_options_say(tmp_path: Path) -> None:
    tree = shuffled()
    plain = train(tree, replace(CONFIG, reassign=ReassignConfig()))
    off = train(tree, replace(CONFIG, reassign=ReassignConfig(rounds=0, epochs=9, moves=999)), work=tmp_path / "work")
    assert off.tree is tree
    assert digest_of(off, tmp_path / "off") == digest_of(plain, tmp_path / "plain")
    assert list(off.curves) == ["dense", "lifelong"]
    assert not list((tmp_path / "work").glob("round*"))
    assert TrainingConfig().reassign.rounds == 0


@pytest.mark.parametrize("pseudo", [False, True])
def test_neighbours_on_the_ring_come_together_though_the_tree_was_drawn_at_random(pseudo: bool) -> None:
    """The scorer alone says who belongs together: mean distance of neighbours' leaves."""
    config = replace(
        TINY,
        dense=replace(TINY.dense, epochs=1, min_level_nodes=2, learning_rate=1e-3),
        lifelong=replace(TINY.lifelong, epochs=0),
        pseudo_targets=pseudo,
        reassign=ReassignConfig(rounds=4, epochs=1, moves=64),
    )
    learnt = train(shuffled(), config)
    right = build_tree(ring_vectors(ITEMS))
    ours, drawn, best = (np.abs(t.item_leaf - np.roll(t.item_leaf, 1)).mean() for t in (learnt.tree, shuffled(), right))
    assert best < ours < 0.7 * drawn
    assert pseudo == any(name.startswith("pseudo_targets_level_") for name in learnt.curves["reassign"][0])


def test_options_that_cannot_be_are_refused() -> None:
    given = {"reassign": {"rounds": "2", "epochs": 1}}
    assert configure(TrainingConfig, given, where="training").reassign == ReassignConfig(rounds=2, epochs=1)
    for wrong in ({"rounds": -1}, {"epochs": 0}, {"moves": 1}):
        with pytest.raises(BadInput, match="reassign: rounds"):
            configure(TrainingConfig, {"reassign": wrong}, where="training")
    with pytest.raises(BadInput, match=r"reassign\.rounds cannot be searched"):
        read_space({"reassign.rounds": [0, 1]}, TrainingConfig())
    assert list(read_space({"pseudo_targets": [True, False]}, TrainingConfig())) == ["pseudo_targets"]
