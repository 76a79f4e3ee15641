"""What would be lost to training by several: another model, hours after a worker's death, an error nobody reads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import make_histories, ring_vectors

from assets.compute import Shard, engine
from assets.compute.local import LocalEngine
from assets.compute.training import Fit, Found, fit, trained
from model.configure import configure
from model.errors import BadInput
from model.files import read_json, read_npz
from model.histories import EvaluationSet, Histories, leave_one_out
from model.index_tree import IndexTree, build_tree
from model.training import TrainingConfig, load_parameters, train_model

ITEMS, USERS = 64, 120
OPTIONS = {
    "scorer": {"d": 16, "window": 8, "hidden": 16, "dropout": 0.0, "lifelong": {"kept": 12, "top_k": 8, "probes": 4}},
    "dense": {"epochs": 3, "min_level_nodes": 8, "learning_rate": 1e-2},
    "lifelong": {"epochs": 2, "max_history": 32, "tail_after": 6, "validation_users": 100},
    "beam": 8,
}


def asked(folder: Path, *, items: int = ITEMS) -> Fit:
    """A training of seconds; items: of the tree, as many as the histories are over unless something is to be wrong."""
    folder.mkdir()
    build_tree(ring_vectors(items)).save(folder / "tree.npz")
    for name, part in zip(
        ("train", "validation"), leave_one_out(make_histories(USERS, ITEMS, shortest=4, longest=20)), strict=False
    ):
        part.save(folder / f"{name}.npz")
    for name in ("model", "work"):
        (folder / name).mkdir()
    return Fit(
        tree=str(folder / "tree.npz"),
        histories=str(folder),
        options=OPTIONS,
        target=str(folder / "model"),
        work=str(folder / "work"),
    )


def _quiet(_: str) -> None:
    pass


def alike(found: Found, other: Found) -> None:
    """The same training but for the order of its sums."""
    for stage in ("dense", "lifelong"):
        for one, two in zip(found.curves[stage], other.curves[stage], strict=True):
            for name in ("loss", "validation_ndcg@10"):
                assert one.get(name, 0) == pytest.approx(two.get(name, 0), rel=0.02, abs=0.01), (stage, name)


def test_this_process_alone_trains_as_ever(tmp_path: Path) -> None:
    of, told = asked(tmp_path / "one"), list[str]()
    found = trained(LocalEngine(told.append), of)
    config = configure(TrainingConfig, OPTIONS)
    tree = IndexTree.load(Path(of.tree))
    train, validation = Histories.load(tmp_path / "one/train.npz"), EvaluationSet.load(tmp_path / "one/validation.npz")
    model, _, curves = train_model(tree, train, validation, config, progress=_quiet)
    written = read_npz(Path(of.target) / "parameters.npz")
    assert all(np.array_equal(value.numpy(), written[name]) for name, value in model.state_dict().items())
    assert [p["loss"] for p in found.curves["dense"]] == [p["loss"] for p in curves["dense"]]
    assert (found.workers, found.items_moved) == (1, 0)
    assert sum("dense epoch" in line for line in told) == 3


@pytest.mark.ray
def test_two_nodes_train_what_one_process_does(cluster: Any, tmp_path: Path) -> None:
    of, told = asked(tmp_path / "two"), list[str]()
    on_ray = engine("ray", told.append)
    found = trained(on_ray, of)
    assert found.workers == on_ray.used()["workers"] == 2
    assert told[0] == "training: 2 workers of 1 CPU"
    assert sum("dense epoch" in line for line in told) == 3, "told once, and here"
    alike(found, trained(LocalEngine(_quiet), asked(tmp_path / "one")))
    tree = IndexTree.load(Path(of.target) / "tree.npz")
    load_parameters(tree, configure(TrainingConfig, OPTIONS), Path(of.target) / "parameters.npz")


def dying(folder: Path, *when: str) -> Callable[[Shard, Callable[[str], None]], None]:
    """`fit`, whose first worker is killed once at each of these: as it says so."""

    def work(of: Shard, progress: Callable[[str], None]) -> None:
        def tell(line: str) -> None:
            progress(line)
            for each in when:
                marker = folder / each
                if line.startswith(each) and not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

        fit(of, tell)

    return work


@pytest.mark.ray
def test_a_lost_worker_costs_no_finished_epoch(cluster: Any, tmp_path: Path) -> None:
    of, told = asked(tmp_path / "two"), list[str]()
    when = "dense epoch 2", "lifelong epoch 2"
    engine("ray", told.append).together(dying(tmp_path, *when), asdict(of), folder=Path(of.work))
    for each in when:
        assert (tmp_path / each).exists()
        assert f"{each.split()[0]}: resumed after epoch {1 + each.startswith('lifelong')} of" in "\n".join(told)
    assert sum(line.startswith("dense epoch 1/") for line in told) == 1
    found = Found(**read_json(Path(of.work) / "found.json"))
    alike(found, trained(LocalEngine(_quiet), asked(tmp_path / "undisturbed")))


@pytest.mark.ray
def test_what_training_refuses_is_told_as_it_was(cluster: Any, tmp_path: Path) -> None:
    of = asked(tmp_path / "wrong", items=32)
    with pytest.raises(BadInput, match=r"^the tree holds 32 items, the histories 64; materialize index_tree again$"):
        trained(engine("ray", _quiet), of)
