"""A user with a GPU would lose: the training, at the first tensor that was left behind on the processor.

No GPU is needed here: the processor plays one under the name cpu:0, and every tensor remembers on which of the two it would lie.
What this cannot show is a GPU's own speed and rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted import make_histories, ring_vectors
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from model import dense_training, device
from model.configure import configure
from model.device import accelerator_name, tensor
from model.histories import leave_one_out
from model.index_tree import build_tree
from model.training import TrainingConfig, train_model

GPU = torch.device("cpu", 0)
ITEMS = 60
SMALL = {
    "scorer": {
        "d": 16,
        "heads": 2,
        "layers": 1,
        "window": 12,
        "hidden": 8,
        "lifelong": {"kept": 8, "top_k": 4, "probes": 4},
    },
    "dense": {"epochs": 2, "min_level_nodes": 4},
    "lifelong": {"epochs": 1, "validation_users": 20, "tail_after": 3},
    "beam": 8,
}


class Mixed(RuntimeError):
    """What torch says of tensors on two devices."""


class TwoDevices(TorchFunctionMode):
    """Marks every tensor with the device it would lie on, and refuses what torch would refuse with a real one."""

    MAY_MIX = ("__setitem__", "copy_", "_has_compatible_shallow_copy_type", "set_")

    def __init__(self) -> None:
        super().__init__()
        self.met: set[str] = set()
        """Functions that saw a tensor on the GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        places = {t.lies for t in given if hasattr(t, "lies") and t.dim()}
        if name == "__get__" and getattr(func, "__self__", None) is torch.Tensor.device:
            return GPU if "there" in places else torch.device("cpu")
        if name == "__set__":  # parameter.data = what .to made of it
            if hasattr(args[1], "lies"):
                args[0].lies = args[1].lies
            return func(*args)
        if name == "numpy" and "there" in places:
            raise Mixed("can't convert a tensor of the GPU to numpy")
        if len(places) > 1 and name not in self.MAY_MIX:
            raise Mixed(f"{name}: expected all tensors to be on the same device")
        made = func(*args, **kwargs)
        if "there" in places:
            self.met.add(name)
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                each.lies = self._lies(name, args, kwargs, places)  # type: ignore[attr-defined]
        return made

    def _lies(self, name: str, args: Any, kwargs: Any, places: set[str]) -> str:
        if name == "cpu":
            return "here"
        if name == "to":
            named = [a for a in (*args[1:], *kwargs.values()) if isinstance(a, str | torch.device)]
            if named:
                return "there" if torch.device(named[0]) == GPU else "here"
        if places:
            return next(iter(places))
        return "there" if (kwargs.get("device") or torch.get_default_device()) == GPU else "here"


@contextmanager
def playing(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoDevices]:
    plain = torch.from_numpy

    def from_numpy(array: Any) -> torch.Tensor:  # no function mode sees this one
        made = plain(array)
        made.lies = "here"  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(device, "_accelerator", lambda: GPU)
    monkeypatch.setattr(torch, "from_numpy", from_numpy)
    with TwoDevices() as watched:
        yield watched


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any, Any]:
    whole = make_histories(80, ITEMS, shortest=8)
    train, validation, _ = leave_one_out(whole)
    return build_tree(ring_vectors(ITEMS)), train, validation


@pytest.mark.parametrize("pseudo", [False, True])
def test_no_tensor_is_left_behind_and_the_model_comes_back(
    data: tuple[Any, Any, Any], pseudo: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    config = replace(configure(TrainingConfig, SMALL, where="training"), pseudo_targets=pseudo)
    plain = train_model(*data, config)
    with playing(monkeypatch) as watched:
        placed = train_model(*data, config, work=tmp_path)
        assert {"scatter_add", "topk", "softmax", "addmm"} <= watched.met, "both stages ran there"
        for name, value in placed.model.state_dict().items():
            value.numpy()
            assert torch.equal(value, plain.model.state_dict()[name]), name
        again = train_model(*data, config, work=tmp_path)
    assert again.curves == placed.curves, "and goes on from its checkpoints"


def test_the_players_rules_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that cannot fail shows nothing."""
    with playing(monkeypatch) as watched, GPU:
        here, there = torch.from_numpy(np.ones(3)), tensor(np.ones(3))
        with pytest.raises(Mixed):
            here + there
        with pytest.raises(Mixed):
            there.numpy()
        assert (there + torch.ones(3)).cpu().numpy().sum() == 6
        assert there.device == GPU
        assert here.device == torch.device("cpu")
    assert "add" in watched.met


def test_an_error_brings_the_model_back(data: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)

    @device.accelerated
    def fails(trained: torch.nn.Linear) -> None:
        assert trained.weight.device == GPU
        raise KeyError("of its own")

    with playing(monkeypatch):
        with pytest.raises(KeyError):
            fails(model)
        assert model.weight.device == torch.device("cpu")
        assert torch.get_default_device() != GPU
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.are_deterministic_algorithms_enabled()


def test_half_the_precision_trains_as_well(data: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 autocast, which the processor knows too: the dense path learns, and its loss stays float32."""
    config = replace(configure(TrainingConfig, SMALL, where="training"))
    plain = train_model(*data, config).curves["dense"]
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    monkeypatch.setattr(dense_training, "reduced_precision", lambda: autocast)
    half = train_model(*data, config).curves["dense"]
    assert half != plain
    for a, b in zip(half, plain, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_moves() -> None:
    assert accelerator_name() is None
    array = np.zeros(3)
    tensor(array)[0] = 1
    assert array[0] == 1, "shared, not copied"
