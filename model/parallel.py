"""Training in several processes at once (torch.distributed), each with the whole model: what is whose, and what all have found.

- Every process goes through the same batches, drawn from the same random numbers, and takes some rows of each. So the batch that a
  step learns from does not depend on how many processes there are.
- Means over a batch weigh every target alike, however many of them a process has: a process weighs its mean by `Group.share`, and
  DistributedDataParallel takes the mean over processes.
- Without torch.distributed a process is alone, and nothing is computed in another way than it was.

Every process holds all parameters, their gradients, two moments of the optimizer and the best epoch's copy: 20 bytes a parameter,
so that a table of 100 million nodes of 128 dimensions takes 256 GB in each. That is the limit; tables are not split.

Not covered: how processes find each other (`assets.compute`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Group", "group"]


@dataclass(frozen=True)
class Group:
    """The processes that train one model together; this one among them."""

    rank: int
    """This process, counted from 0. The first one writes checkpoints and tells of progress."""
    size: int
    """How many there are."""

    def share(self, targets: NDArray[np.integer]) -> tuple[NDArray[np.int64], float]:
        """Rows of a batch that are this process', and what a mean over their targets weighs in the mean over all processes.

        targets: (n,) how many targets each row of the batch has. Whoever is left without a row takes the first, which weighs 0.
        """
        rows = np.arange(self.rank, len(targets), self.size)
        if not len(rows):
            return np.zeros(1, np.int64), 0.0
        return rows, float(self.size * targets[rows].sum() / max(targets.sum(), 1))

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, of the shape of `values`."""
        if self.size == 1:
            return values
        found = values.detach().clone().to(torch.get_default_device())
        dist.all_reduce(found)
        return found.to(values.device)

    def totals(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """`total` of an array."""
        return self.total(torch.from_numpy(values)).numpy()

    def together(self, step: nn.Module) -> nn.Module:
        """The same module, whose gradients are means over all processes; of its parameters those that are learnt now."""
        if self.size == 1:
            return step
        # some parts of a model take no part in a stage
        return nn.parallel.DistributedDataParallel(step, broadcast_buffers=False, find_unused_parameters=True)

    def own_dropout(self) -> None:
        """Go on with random numbers of this process alone, for what is no part of a batch's content."""
        if self.rank:
            torch.manual_seed(torch.initial_seed() + self.rank)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


def group() -> Group:
    """The processes that train with this one; it alone where torch.distributed was not set up."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return Group(0, 1)
