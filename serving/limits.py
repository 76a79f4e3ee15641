"""What the service refuses, in one place: sizes, lengths, and how long and how many may wait.

- Each is an option of the setting `serving`: `MISS_SERVING__QUEUE=500`.

Not covered: limits for each caller; a proxy in front keeps those.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from model.errors import BadInput

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one service."""

    body_bytes: int = 1 << 20
    """Largest body of a request; 413 beyond."""
    batch: int = 64
    """Most users in one request, and most requests in one call of the graph; 422 beyond."""
    k: int = 1000
    """Most items in one answer; 422 beyond. An index finds no more than its beam, whatever this says."""
    history: int = 20_000
    """Longest history, and longest list of items to exclude; 422 beyond."""
    queue: int = 256
    """Most users waiting for the graph; 503 beyond."""
    wait_ms: float = 2.0
    """How long a request waits for others to share a call of the graph, where the graph is idle."""
    workers: int = 2
    """Calls of the graph side by side, each on its share of the cores: on two cores two calls on one thread each answer more than
    one on two, whose threads mostly wait for each other."""
    timeout_s: float = 10.0
    """From the first byte of a request to the first of its answer; 504 beyond."""
    agent_calls: int = 100
    """Calls of tools that one session of an agent has."""
    agent_results: int = 1000
    """Items that one session of an agent may be given, over all its calls."""
    agent_sessions: int = 128
    """Sessions of agents that are kept, each with its last picture; who has been silent longest makes room."""

    @property
    def threads(self) -> int:
        """Of ONNX Runtime in each call: the cores, shared out."""
        return max((os.cpu_count() or 1) // self.workers, 1)

    def __post_init__(self) -> None:
        """Raises BadInput for what would refuse everything."""
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "wait_ms" else 1e-3
            if not least <= value < float("inf"):
                raise BadInput(f"serving.{field.name} = {value} must be a number above 0; leave it out for the default")
        if self.workers < 1:
            raise BadInput(f"serving.workers = {self.workers} must be at least 1")
        if self.queue < self.batch:
            raise BadInput(f"serving.queue = {self.queue} must hold a batch of serving.batch = {self.batch}")
