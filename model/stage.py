"""One training stage: epochs, schedule, best parameters, patience, and a checkpoint that survives a kill.

- After every epoch the whole state (parameters, best parameters, optimizer, curve) goes to one file, replaced
  atomically and read back with `weights_only`; a killed run that starts again gives the model of one that was not.
- Randomness is a function of (seed, stage, epoch), never of what ran before.
- Processes that train together (`model.parallel`) go through it side by side: they find the same scores and so do the same.
"""

from __future__ import annotations

import io
import math
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.files import write_bytes
from model.parallel import group
from model.scorer import MISS

__all__ = ["Checkpoint", "Progress", "Report", "Stage", "parameter_norms", "stage_rng", "timeless"]

Progress = Callable[[str], None]
Report = Callable[[int, float], None]
"""Told (epoch, validation NDCG@10) after each epoch; what it raises ends the training."""


def stage_rng(seed: int, stage: str, epoch: int) -> np.random.Generator:
    """The random numbers of one epoch."""
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), epoch])


def timeless(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """The curve without the seconds: what the same seed and data give again, to the last bit."""
    return [{name: value for name, value in point.items() if name != "seconds"} for point in curve]


def parameter_norms(model: torch.nn.Module) -> dict[str, float]:
    """`parameter_norm` (L2 of all parameters) and `parameter_norm_<group>` of each top-level part of the model."""
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        group, norm = name.partition(".")[0], torch.linalg.vector_norm(parameter.detach(), dtype=torch.float64)
        squares[group] = squares.get(group, 0.0) + float(norm) ** 2
    groups = {f"parameter_norm_{group}": math.sqrt(square) for group, square in squares.items()}
    return {"parameter_norm": math.sqrt(sum(squares.values()))} | groups


_UNTOLD = ("loss_level_", "parameter_norm", "pseudo_targets_level_", "seconds")
"""What a point of a curve may hold and the line after an epoch leaves out."""


def _schedule(step: int, total: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


class Checkpoint:
    """State of one stage in one file, replaced atomically; read with weights_only: tensors and plain numbers alone."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """The state of the last finished epoch, or None."""
        if self.path is None or not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by `state`; of several processes that train together the first does, and the others wait."""
        if self.path is not None:
            together = group()
            if together.rank == 0:
                buffer = io.BytesIO()
                torch.save(state, buffer)
                write_bytes(self.path, buffer.getvalue())
            together.wait()


class Stage:
    """The epoch loop of both stages: schedule, best parameters, patience, checkpoint."""

    def __init__(
        self,
        name: str,
        *,
        model: MISS,
        seed: int,
        parameters: list[torch.nn.Parameter],
        epochs: int,
        patience: int,
        learning_rate: float,
        weight_decay: float,
        steps: int,
        checkpoint: Path | None,
        progress: Progress,
    ) -> None:
        self.name, self.model, self.seed, self.epochs, self.patience = name, model, seed, epochs, patience
        self.optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98))
        total, warmup = max(epochs * steps, 1), max(min(200, epochs * steps // 10), 1)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda s: _schedule(s, total, warmup))
        self.parameters, self.checkpoint = parameters, Checkpoint(checkpoint)
        self.progress: Progress = progress if group().rank == 0 else lambda _: None
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}

    def step(self, loss: Tensor) -> float:
        """One optimizer step; returns the gradient norm."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimizer.step()
        self.scheduler.step()
        return float(norm)

    @property
    def postfix(self) -> dict[str, str]:
        """What a progress bar shows of the last validation; nothing before the first."""
        return {"ndcg@10": f"{self.curve[-1]['validation_ndcg@10']:.4f}"} if self.curve else {}

    def _best_epoch(self) -> int:
        scores = [point["validation_ndcg@10"] for point in self.curve]
        return int(np.argmax(scores)) if scores else -1

    def run(
        self,
        epoch_fn: Callable[[int], dict[str, float]],
        *,
        start: float | None = None,
        report: Report | None = None,
    ) -> list[dict[str, float]]:
        """Run the epochs that are not done yet; the model ends with its best parameters. `start` is the score to beat."""
        state = self.checkpoint.load()
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.curve, self.best = state["curve"], state["best"]
            self.progress(f"{self.name}: resumed after epoch {len(self.curve)} of {self.epochs}")
        elif start is not None:
            self.curve, self.best = [{"validation_ndcg@10": start}], self._copy()
        skipped = int(start is not None)
        for epoch in range(len(self.curve) - skipped, self.epochs):
            if len(self.curve) - 1 - self._best_epoch() >= self.patience:
                break
            torch.manual_seed(int(stage_rng(self.seed, self.name, epoch).integers(2**62)))
            started = time.monotonic()
            # plain numbers: all a checkpoint may hold
            point = {name: float(value) for name, value in epoch_fn(epoch).items()}
            point["seconds"] = round(time.monotonic() - started, 3)
            self.curve.append(point)
            if self._best_epoch() == len(self.curve) - 1:
                self.best = self._copy()
            told = ", ".join(f"{name} {value:.4g}" for name, value in point.items() if not name.startswith(_UNTOLD))
            self.progress(f"{self.name} epoch {epoch + 1}/{self.epochs}: {told}, {point['seconds']:.0f} s")
            if report is not None:  # before the checkpoint: an epoch may be told twice, never not at all
                report(epoch, point["validation_ndcg@10"])
            self.checkpoint.save(
                {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.scheduler.state_dict(),
                    "curve": self.curve,
                    "best": self.best,
                }
            )
        self.model.load_state_dict(self.best or self.model.state_dict())
        return self.curve

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}
