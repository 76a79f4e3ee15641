"""Who searches would lose: a fair comparison with what they have, hours when a search is killed, and the same answer twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted import make_histories, ring_vectors

from model import tuning
from model.dense_training import DenseConfig
from model.errors import BadInput
from model.histories import leave_one_out
from model.index_tree import build_tree
from model.lifelong import LifelongConfig
from model.lifelong_training import LifelongTraining
from model.scorer import ScorerConfig
from model.training import TrainingConfig, train_model
from model.tuning import STARTS, Search, Tried, best_of, read_space

ITEMS, EPOCHS = 32, 3
TINY = TrainingConfig(
    scorer=ScorerConfig(d=8, heads=2, layers=1, window=8, hidden=8, lifelong=LifelongConfig(top_k=4, kept=8, probes=4)),
    dense=DenseConfig(batch_users=32, min_level_nodes=8, learning_rate=1e-2),
    lifelong=LifelongTraining(epochs=1, uniform=8, batch=32, max_history=16, validation_users=50),
    beam=8,
)
SPACE = {"dense.learning_rate": {"low": 1e-3, "high": 3e-2, "log": True}, "scorer.layers": [1, 2]}


def make(space: Any = SPACE, *, config: TrainingConfig = TINY, seed: int = 0) -> Search:
    train, validation, _ = leave_one_out(make_histories(60, ITEMS, shortest=4, longest=16))
    tree = build_tree(ring_vectors(ITEMS, 8))
    return Search(tree, train, validation, config=config, space=read_space(space, config), epochs=EPOCHS, seed=seed)


def run(search: Search, folder: Path, trials: int, *, new: list[int] | None = None) -> list[Tried]:
    tried = []
    for each, is_new in search.run(trials, database=folder / "optuna.db", study="s", work=folder / "work"):
        tried.append(each)
        if new is not None and is_new:
            new.append(each.number)
    return tried


def timeless(tried: list[Tried]) -> list[Tried]:
    return [replace(each, seconds=0.0) for each in tried]


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it, and Optuna's database and the checkpoint stay as they were."""


def killed_in(monkeypatch: pytest.MonkeyPatch, call: int, epoch: int) -> None:
    """The `call`th training from now on is killed when `epoch` is told, before it is written down."""
    real, calls = tuning.train_dense, [0]

    def train(*arguments: Any, report: Callable[[int, float], None], **options: Any) -> Any:
        calls[0] += 1

        def told(number: int, value: float) -> None:
            if (calls[0], number) == (call, epoch):
                raise Killed
            report(number, value)

        return real(*arguments, report=told, **options)

    monkeypatch.setattr(tuning, "train_dense", train)


# -- trials --------------------------------------------------------------------------------------------------------------


def test_trial_0_is_what_one_has_and_scores_what_its_training_scores(tmp_path: Path) -> None:
    search = make()
    (first,) = run(search, tmp_path, 1)
    assert (first.number, first.state) == (0, "done")
    assert first.options == {"dense.learning_rate": 1e-2, "scorer.layers": 1}
    config = replace(TINY, dense=replace(TINY.dense, epochs=EPOCHS))
    *_, curves = train_model(search.tree, search.train, search.validation, config, progress=lambda _: None)
    assert list(first.curve.values()) == pytest.approx([point["validation_ndcg@10"] for point in curves["dense"]])
    assert first.value == max(first.curve.values())


def test_same_seed_same_trials_another_seed_others(tmp_path: Path) -> None:
    once, again, other = (
        run(make(seed=seed), tmp_path / name, 7) for name, seed in (("once", 0), ("again", 0), ("other", 1))
    )
    assert timeless(once) == timeless(again)
    assert once[0].options == other[0].options
    assert once[0].value == other[0].value, "a search's seed is not training's"
    assert all(a.options != b.options for a, b in zip(once[1:], other[1:], strict=True))
    assert all(1e-3 <= each.options["dense.learning_rate"] <= 3e-2 for each in once + other)


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_killed_search_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    whole = run(make(), tmp_path / "whole", 6)
    with monkeypatch.context() as patch:
        killed_in(patch, 3, epoch)
        with pytest.raises(Killed):
            run(make(), tmp_path / "broken", 6)
    new: list[int] = []
    assert timeless(run(make(), tmp_path / "broken", 6, new=new)) == timeless(whole)
    assert new == [2, 3, 4, 5]
    assert not list((tmp_path / "broken" / "work").glob("*"))
    assert run(make(), tmp_path / "broken", 3, new=new)[5:], "what was tried stays part of the study"
    assert new == [2, 3, 4, 5]


def test_a_trial_that_ends_the_process_again_and_again_fails_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make(), tmp_path, 1)
    for _ in range(STARTS):
        with monkeypatch.context() as patch:
            killed_in(patch, 1, 0)
            with pytest.raises(Killed):
                run(make(), tmp_path, 3)
    _, deadly, after = run(make(), tmp_path, 3)
    assert (deadly.state, deadly.value) == ("failed", None)
    assert f"ended the process {STARTS} times" in deadly.note
    assert after.state == "done"


def test_options_that_were_tried_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = tuning.train_dense, []
    monkeypatch.setattr(tuning, "train_dense", lambda *a, **o: calls.append(1) or real(*a, **o))
    tried = run(make({"scorer.layers": [1, 2]}), tmp_path, 6)
    assert len(tried) == 6
    assert len(calls) == 2
    repeated = [each for each in tried if each.note]
    assert len(repeated) == 4
    assert all(each.value == tried[int(each.note.removeprefix("as trial "))].value for each in repeated)


def test_what_is_behind_the_others_is_pruned_and_is_never_the_best(tmp_path: Path) -> None:
    tried = run(make({"dense.learning_rate": {"low": 1e-9, "high": 3e-2, "log": True}}), tmp_path, 12)
    pruned = [each for each in tried if each.state == "pruned"]
    assert pruned
    assert all(len(each.curve) < EPOCHS for each in pruned)
    assert all(each.state == "done" for each in tried[:5])
    best = best_of(tried)
    assert best.state == "done"
    assert best.value == max(each.value for each in tried if each.value is not None)
    assert best_of([replace(tried[0], value=0.5), replace(tried[1], value=0.5)]).number == 0


def test_a_model_that_overflows_finds_nothing(tmp_path: Path) -> None:
    """Scores that are no numbers rank every target first: NDCG 1, the best of all."""
    tried = run(make({"dense.learning_rate": [1e-2, 1e30]}), tmp_path, 5)
    (overflowed,) = {
        (e.value, e.note) for e in tried if e.options["dense.learning_rate"] == 1e30 and "as" not in e.note
    }
    assert overflowed == (0.0, "its parameters overflowed")
    assert best_of(tried).number == 0


def test_options_that_do_not_go_together_fail_alone(tmp_path: Path) -> None:
    tried = run(make({"scorer.d": [8, 9]}), tmp_path, 5)
    failed = [each for each in tried if each.state == "failed"]
    assert "d = 9 is not a multiple of heads = 2" in {each.note for each in failed}
    assert best_of(tried).options == {"scorer.d": 8}


# -- spaces --------------------------------------------------------------------------------------------------------------


def test_a_space_holds_what_one_has() -> None:
    space = read_space(
        {
            "scorer.window": [64, 128],
            "scorer.layers": {"low": 3, "high": 4},
            "dense.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
            "scorer.attention": ["softmax"],
            "dense.hide_seen": [False],
        },
        TINY,
    )
    assert space["scorer.window"].choices == (64, 128, 8)
    assert (space["scorer.layers"].low, space["scorer.layers"].high) == (1, 4)
    assert (space["dense.learning_rate"].low, space["dense.learning_rate"].high) == (1e-4, 1e-2)
    assert space["scorer.attention"].choices == ("softmax", "pointwise")
    assert space["dense.hide_seen"].choices == (False, True)
    assert set(read_space(tuning.SPACE, TrainingConfig())) == set(tuning.SPACE)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "a JSON object of options"),
        ({}, "a JSON object of options"),
        ({"dense.rate": [1]}, "dense.rate is no option of training; DenseConfig knows batch_users"),
        ({"dense.learning_rate.x": [1]}, "is no option of training"),
        ({"scorer": [1]}, "scorer is a group of options"),
        ({"dense.epochs": [1, 2]}, "dense.epochs cannot be searched"),
        ({"lifelong.batch": [1, 2]}, "lifelong.batch cannot be searched"),
        ({"scorer.lifelong.kept": [1, 2]}, "scorer.lifelong.kept cannot be searched"),
        ({"scorer.layers": []}, "neither a list of values"),
        ({"scorer.layers": 3}, "neither a list of values"),
        ({"scorer.layers": {"low": 1}}, "neither a list of values"),
        ({"scorer.layers": {"low": 1, "high": 2, "step": 1}}, "neither a list of values"),
        ({"scorer.layers": ["two"]}, "scorer.layers cannot be 'two'"),
        ({"scorer.layers": {"low": 1.5, "high": 3}}, "scorer.layers cannot be 1.5"),
        ({"scorer.attention": ["softmx"]}, "scorer.attention cannot be 'softmx'"),
        ({"scorer.attention": {"low": 1, "high": 3}}, "scorer.attention has no range"),
        ({"scorer.layers": {"low": 3, "high": 2}}, "is no range"),
        ({"scorer.dropout": {"low": 0, "high": 0.4, "log": True}}, "is no range"),
        ({"scorer.dropout": {"low": 0.1, "high": float("inf")}}, "is no range"),
    ],
)
def test_what_is_no_space_is_named(given: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told) as error:
        read_space(given, TINY)
    assert "\n" not in str(error.value)


def test_a_log_scale_that_cannot_hold_what_one_has() -> None:
    config = replace(TINY, dense=replace(TINY.dense, weight_decay=0.0))
    with pytest.raises(BadInput, match=r"dense.weight_decay is 0.0 now"):
        read_space({"dense.weight_decay": {"low": 1e-6, "high": 1e-2, "log": True}}, config)


def test_a_study_is_of_its_data_options_space_epochs_and_seed() -> None:
    versions = {"index_tree": "a", "training_histories": "b"}
    same = make().identity(**versions)
    assert same == make().identity(**versions)
    others = [
        make().identity(index_tree="a", training_histories="c"),
        make(seed=1).identity(**versions),
        make({"scorer.layers": [1, 2]}).identity(**versions),
        make(config=replace(TINY, seed=3)).identity(**versions),
    ]
    assert len({same, *others}) == 5


def test_the_picture_is_the_same_twice(tmp_path: Path) -> None:
    from model.tuning_plot import search_history

    space = SPACE | {"scorer.attention": ["pointwise", "softmax"], "dense.hide_seen": [True, False]}
    tried = run(make(space), tmp_path, 3)
    picture = search_history(tried, log=["dense.learning_rate"])
    assert picture.startswith(b"\x89PNG")
    assert picture == search_history(tried, log=["dense.learning_rate"])
    with pytest.raises(BadInput, match="nothing to draw"):
        search_history([replace(tried[0], state="failed", value=None)])
