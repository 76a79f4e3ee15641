"""Where training computes: on a GPU where torch sees one, else on the processor, by the same code.

- `accelerated` moves a model there and makes the device the default for as long as a function trains it; everything else
  (searching for users, saving, exporting) stays on the processor, where models live between trainings. To train on the
  processor beside a GPU: `CUDA_VISIBLE_DEVICES=`.
- On a GPU the dense path's reading runs under bf16 autocast and float32 products as TF32; losses, parameters and optimizer stay
  float32. What a GPU finds differs in its last digits from what a processor finds: digests repeat on one type of machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["accelerated", "accelerator_name", "reduced_precision", "tensor"]


_Arguments = ParamSpec("_Arguments")
_Model = TypeVar("_Model", bound=nn.Module)
_Result = TypeVar("_Result")


def _accelerator() -> torch.device | None:
    return torch.device("cuda") if torch.cuda.is_available() else None


def accelerator_name() -> str | None:
    """What the GPU calls itself; None without one."""
    found = _accelerator()
    return None if found is None else torch.cuda.get_device_name(found)


def tensor(array: NDArray[Any]) -> Tensor:
    """The array on the current default device; on the processor it shares the array's memory."""
    return torch.from_numpy(array).to(torch.get_default_device())


def accelerated(
    train: Callable[Concatenate[_Model, _Arguments], _Result],
) -> Callable[Concatenate[_Model, _Arguments], _Result]:
    """Decorate a function that trains its first argument: the model lies on the GPU meanwhile, and so does every tensor made.

    The model is back on the processor afterwards, also after an error. Without a GPU nothing changes.
    """

    @wraps(train)
    def run(model: _Model, /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        with _placed(model):
            return train(model, *arguments, **named)

    return run


@contextmanager
def _placed(model: nn.Module) -> Iterator[None]:
    device = _accelerator()
    if device is None:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what repeatable products ask for
    repeatable, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    precision = torch.get_float32_matmul_precision()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("high")
        model.to(device)
        with device:
            yield
    finally:
        model.to("cpu")
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(repeatable, warn_only=warned)


def reduced_precision() -> AbstractContextManager[Any]:
    """bf16 autocast where the default device is a GPU; on a processor products stay float32."""
    device = torch.get_default_device().type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu")
