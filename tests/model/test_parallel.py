"""A user would lose: another batch, or another loss, because more processes train; a group that waits for a row nobody has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from planted import ring_vectors
from test_training import ITEMS, TINY, _data

from model.files import read_json, read_npz, write_json
from model.index_tree import build_tree
from model.lifelong_training import tail_lengths
from model.parallel import Group, group
from model.training import TrainingConfig, load_parameters, save_parameters, train_model

USERS = 97  # 12 batches of 8 and one of a single user, whom two processes cannot share


@given(targets=st.lists(st.integers(0, 9), min_size=1, max_size=40), size=st.integers(1, 5))
def test_every_row_is_one_process_and_every_target_weighs_the_same(targets: list[int], size: int) -> None:
    counts = np.array(targets)
    shares = [Group(rank, size).share(counts) for rank in range(size)]
    whose = [row for rows, share in shares if share or size == 1 for row in rows.tolist()]
    assert len(set(whose)) == len(whose)
    assert set(np.flatnonzero(counts).tolist()) <= set(whose)
    if counts.sum():
        # the mean over processes of share x mean is the mean over all targets
        values = np.random.default_rng(0).random(len(counts))
        means = [share * (values[rows] * counts[rows]).sum() / max(counts[rows].sum(), 1) for rows, share in shares]
        assert sum(means) / size == pytest.approx((values * counts).sum() / counts.sum())


def test_alone_there_is_nobody_to_wait_for() -> None:
    assert group() == Group(0, 1)
    module = torch.nn.Linear(1, 1)
    assert group().together(module) is module
    group().wait()


def _config(uniform: bool) -> TrainingConfig:
    train, _, _ = _data(USERS)
    config = replace(TINY, dense=replace(TINY.dense, epochs=2))
    tail = int(tail_lengths(train, config.lifelong).sum())
    batch = next(b for b in range(8, 64) if tail % b == 1)  # the last batch is of a single target here too
    return replace(
        config,
        lifelong=replace(config.lifelong, batch=batch, negatives="uniform" if uniform else "beam", tail_after=6),
    )


def _train(config: TrainingConfig, folder: Path) -> None:
    """Train with the group; the first process leaves parameters and curves."""
    train, validation, _ = _data(USERS)
    told: list[str] = []
    model, _, curves = train_model(
        build_tree(ring_vectors(ITEMS)), train, validation, config, work=folder, progress=told.append
    )
    if group().rank == 0:
        save_parameters(model, folder / "parameters.npz")
        write_json(folder / "curves.json", dict(curves))
    else:
        assert told == [], "one tells for all"


def _process(rank: int, size: int, config: TrainingConfig, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=size)
    try:
        _train(config, folder)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("uniform", [False, True])
def test_two_processes_learn_what_one_does(tmp_path: Path, uniform: bool) -> None:
    config, one, two = _config(uniform), tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    _train(config, one)
    torch.multiprocessing.spawn(_process, args=(2, config, two), nprocs=2)
    alone, together = (read_json(folder / "curves.json") for folder in (one, two))
    for stage in ("dense", "lifelong"):
        assert len(alone[stage]) == len(together[stage])
        for ours, theirs in zip(alone[stage], together[stage], strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours.keys() - {"seconds"}:
                # sums in another order, and what an optimizer makes of it
                assert theirs[name] == pytest.approx(ours[name], rel=0.02, abs=0.01), (stage, name)
    first, other = alone["dense"][0], together["dense"][0]
    assert other["loss"] == pytest.approx(first["loss"], rel=1e-3)
    tree = build_tree(ring_vectors(ITEMS))
    for folder in (one, two):
        load_parameters(tree, config, folder / "parameters.npz")
    assert not list(two.glob("*.tmp"))


@pytest.mark.slow
def test_two_processes_go_on_from_what_one_has_written_for_both(tmp_path: Path) -> None:
    config, whole, parts = _config(uniform=False), tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
        torch.multiprocessing.spawn(_process, args=(2, config, folder), nprocs=2)
        (folder / "meet").unlink(missing_ok=True)
    (parts / "lifelong.pt").unlink()
    (parts / "parameters.npz").unlink()
    torch.multiprocessing.spawn(_process, args=(2, config, parts), nprocs=2)
    found, again = (read_npz(folder / "parameters.npz") for folder in (whole, parts))
    assert all(np.array_equal(found[name], again[name]) for name in found)
