"""A user would lose: hours, when a killed run starts over; and trust, when it then ends elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import make_histories, ring_vectors

from model.configure import configure
from model.dense_training import DenseConfig, exact_ndcg, windows
from model.errors import BadInput
from model.evaluation import evaluate
from model.files import digest_file
from model.histories import Histories, leave_one_out
from model.index_tree import IndexTree, build_tree
from model.lifelong import LifelongConfig
from model.lifelong_training import LifelongTraining, search_ndcg, train_lifelong
from model.scorer import MISS, ScorerConfig
from model.training import (
    TrainingConfig,
    adopt_parameters,
    load_parameters,
    new_model,
    save_parameters,
    train_model,
)
from model.transitions import followers
from model.tree_retriever import TreeRetriever

ITEMS = 64
TINY = TrainingConfig(
    scorer=ScorerConfig(d=16, window=8, hidden=16, dropout=0.0, lifelong=LifelongConfig(top_k=8, kept=12, probes=4)),
    dense=DenseConfig(epochs=6, batch_users=32, min_level_nodes=8, learning_rate=1e-2),
    lifelong=LifelongTraining(epochs=2, uniform=16, batch=32, max_history=32, validation_users=200),
    beam=8,
)


def _data(users: int = 300):
    return leave_one_out(make_histories(users, ITEMS, shortest=4, longest=20))


def _quiet(_: str) -> None:
    pass


def _is_slice(part: np.ndarray, whole: np.ndarray) -> bool:
    return any(np.array_equal(whole[i : i + len(part)], part) for i in range(len(whole) - len(part) + 1))


def test_windows_show_what_came_before_each_target_and_nothing_else() -> None:
    train, _, _ = _data(50)
    rows = 0
    for inputs, targets in windows(train, 6, 16, np.random.default_rng(0)):
        assert inputs.shape == targets.shape
        for before, target in zip(inputs, targets, strict=True):
            real = target >= 0
            assert any(_is_slice(target[real], train[u]) for u in range(len(train))), "a slice of somebody's history"
            assert list(before[real][1:]) == list(target[real][:-1])
            rows += 1
    assert rows == int((train.lengths > 0).sum())


def test_training_learns_the_ring_and_the_tree_finds_what_it_learnt() -> None:
    """Users walk the ring by one or two: the known answer is the next items on the way."""
    train, validation, test = _data(600)
    tree = build_tree(ring_vectors(ITEMS))
    model, _, curves = train_model(tree, train, validation, TINY, progress=_quiet)
    assert curves["dense"][0]["loss"] > curves["dense"][-1]["loss"]
    # untrained, content alone already says who is near
    assert exact_ndcg(new_model(tree, TINY), validation) + 0.2 < exact_ndcg(model, validation)
    result = evaluate(TreeRetriever(model, tree, beam=8), test, ks=(5,))
    assert result.recall(5) > 0.8
    # the stage keeps its best, and the dense path's own score is the first to beat
    points = [point["validation_ndcg@10"] for point in curves["lifelong"]]
    assert search_ndcg(model, tree, validation, beam=8, users=200) == pytest.approx(max(points))


def test_uniform_negatives_are_an_option_that_trains() -> None:
    train, validation, _ = _data(100)
    config = replace(
        TINY, lifelong=replace(TINY.lifelong, negatives="uniform", epochs=1), dense=replace(TINY.dense, epochs=1)
    )
    *_, curves = train_model(build_tree(ring_vectors(ITEMS)), train, validation, config, progress=_quiet)
    assert {"loss", "loss_dense", "gradient_norm"} <= set(curves["lifelong"][1])


def dense_alone(model: MISS, tree: IndexTree, config: TrainingConfig) -> MISS:
    lifelong = replace(config.scorer.lifelong, co_gsu=False, mm_gsu=False)
    short = MISS(tree, replace(config.scorer, lifelong=lifelong))
    short.load_state_dict({name: value for name, value in model.state_dict().items() if name in short.state_dict()})
    return short.eval()


def reads_counts_of(model: MISS, histories: Histories) -> bool:
    assert model.transitions is not None
    items, weights = followers(histories, model.config.lifelong.counts)
    own_items, own_weights = model.transitions.items[:-1].numpy(), model.transitions.weights[:-1].numpy()
    return np.array_equal(own_items, items) and np.array_equal(own_weights, weights)


def lifelong_stage(
    model: MISS, tree: IndexTree, checkpoint: Path | None = None, **options: float
) -> tuple[Histories, list[dict[str, float]]]:
    train, validation, _ = _data(80)
    config = replace(TINY.lifelong, validation_users=20, **options)
    return train, train_lifelong(
        model, tree, train, validation, config, beam=8, seed=0, checkpoint=checkpoint, progress=_quiet
    )


def test_a_lifelong_stage_stopped_within_an_epoch_ends_with_the_same_bytes(tmp_path: Path) -> None:
    tree = build_tree(ring_vectors(ITEMS))
    whole = new_model(tree, TINY)
    train, curve = lifelong_stage(whole, tree, epochs=3)
    broken, reads = new_model(tree, TINY), 0
    read = broken.read

    def stops(*arguments: object) -> object:
        nonlocal reads
        reads += torch.is_grad_enabled()
        if reads == 8:  # an epoch has five steps
            raise KeyboardInterrupt
        return read(*arguments)  # type: ignore[arg-type]

    broken.read = stops  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        lifelong_stage(broken, tree, tmp_path / "lifelong.pt", epochs=3)
    again = new_model(tree, TINY)
    _, resumed = lifelong_stage(again, tree, tmp_path / "lifelong.pt", epochs=3)
    assert reads_counts_of(again, train)
    for name, model in (("whole", whole), ("again", again)):
        save_parameters(model, tmp_path / f"{name}.npz")
    assert digest_file(tmp_path / "whole.npz") == digest_file(tmp_path / "again.npz")
    for one, other in zip(curve, resumed, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


_PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training import TINY, _data, ITEMS
from planted import ring_vectors
from model.index_tree import build_tree
from model.training import save_parameters, train_model
train, validation, _ = _data()
def tell(message):
    print(message, flush=True)
model, *_ = train_model(build_tree(ring_vectors(ITEMS)), train, validation, TINY, work=Path(sys.argv[1]), progress=tell)
save_parameters(model, Path(sys.argv[1]) / "parameters.npz")
"""


def _start(work: Path) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    program = textwrap.dedent(_PROGRAM).format(tests=str(here))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", program, str(work)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("until", ["dense epoch 3", "lifelong epoch 1"])
def test_a_killed_run_ends_where_an_unbroken_one_ends(tmp_path: Path, until: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for work in (whole, broken):
        work.mkdir()
    with _start(whole) as unbroken:
        unbroken.communicate(timeout=300)
    assert unbroken.returncode == 0
    with _start(broken) as victim:
        assert victim.stdout is not None
        for line in victim.stdout:
            if line.startswith(until):
                time.sleep(0.05)
                victim.send_signal(signal.SIGKILL)
                break
    assert victim.returncode == -signal.SIGKILL
    with _start(broken) as again:
        told = again.communicate(timeout=300)[0]
    assert again.returncode == 0
    assert "resumed after epoch" in told
    assert digest_file(whole / "parameters.npz") == digest_file(broken / "parameters.npz")
    ended, train = load_parameters(build_tree(ring_vectors(ITEMS)), TINY, broken / "parameters.npz"), _data()[0]
    assert reads_counts_of(ended, train), "everybody's behaviors, not those less what the stage learnt from"


def test_parameters_round_trip_and_another_tree_is_refused(tmp_path: Path) -> None:
    tree = build_tree(ring_vectors(ITEMS))
    model = new_model(tree, TINY)
    save_parameters(model, tmp_path / "p.npz")
    again = load_parameters(tree, TINY, tmp_path / "p.npz")
    history = [np.array([3, 4, 5])]
    a, b = (TreeRetriever(m, tree, beam=8).recommend(history, 8) for m in (model.eval(), again))
    assert a[0].tolist() == b[0].tolist()
    with pytest.raises(BadInput, match="another model"):
        load_parameters(build_tree(ring_vectors(ITEMS + 9)), TINY, tmp_path / "p.npz")
    train, validation, _ = _data(20)
    with pytest.raises(BadInput, match="materialize index_tree again"):
        train_model(build_tree(ring_vectors(ITEMS + 9)), train, validation, TINY)


def test_a_dense_path_that_others_trained_is_taken_over_and_one_of_another_shape_is_refused(tmp_path: Path) -> None:
    tree = build_tree(ring_vectors(ITEMS))
    trained = dense_alone(new_model(tree, replace(TINY, seed=5)), tree, TINY)
    save_parameters(trained, tmp_path / "dense.npz")
    model = new_model(tree, TINY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adopt_parameters(model, tmp_path / "dense.npz")
    theirs, after = trained.state_dict(), model.state_dict()
    for name, value in after.items():
        assert torch.equal(value, theirs[name] if name in theirs else before[name]), name
    assert set(after) - set(theirs) >= {"dense_gain", "transition_gain", "gates", "transitions.weights"}
    users = [np.array([3, 4, 5]), np.array([], np.int64)]
    a, b = (TreeRetriever(m.eval(), tree, beam=8).recommend(users, 8) for m in (trained, model))
    assert a[0].tolist() == b[0].tolist(), "the lifelong path starts as exactly this dense path"
    wide = replace(TINY, scorer=replace(TINY.scorer, d=24))
    with pytest.raises(BadInput, match=r"dense\.npz holds \S+ of shape \(.*16.*\), this model \(.*24.*\)"):
        adopt_parameters(new_model(tree, wide), tmp_path / "dense.npz")
    with pytest.raises(BadInput, match="node_"):
        adopt_parameters(new_model(build_tree(ring_vectors(ITEMS + 9)), TINY), tmp_path / "dense.npz")


@pytest.mark.parametrize("users", [-1, 0, 1, 5, 10_000])
def test_the_first_users_of_an_evaluation_are_those_users_whole(users: int) -> None:
    _, validation, _ = _data(40)
    part = validation.first(users)
    kept = min(max(users, 0), len(validation))
    assert (len(part), len(part.seen), part.split) == (kept, kept, "validation")
    assert part.users.tolist() == validation.users[:kept].tolist()
    assert part.targets.tolist() == validation.targets[:kept].tolist()
    assert [part.seen[u].tolist() for u in range(kept)] == [validation.seen[u].tolist() for u in range(kept)]


def test_options_are_read_from_text_and_mistakes_are_named() -> None:
    config = configure(
        TrainingConfig, {"dense": {"epochs": "3"}, "scorer": {"lifelong": {"co_gsu": "false"}}}, where="training"
    )
    assert config.dense.epochs == 3
    assert not config.scorer.lifelong.co_gsu
    with pytest.raises(BadInput, match=r"training\.dense\.epoch is no option"):
        configure(TrainingConfig, {"dense": {"epoch": 3}}, where="training")
    with pytest.raises(BadInput, match=r"training\.beam = 'wide' is not usable"):
        configure(TrainingConfig, {"beam": "wide"}, where="training")
    with pytest.raises(BadInput, match="not a multiple of heads"):
        configure(ScorerConfig, {"d": 10, "heads": 3})
