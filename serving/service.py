"""What every endpoint shares: the engine that serves, the limits, the counters, and the way to the graph.

- A request takes `service.live.engine` once and hands it on: nothing below asks again, so an answer is of one version.
- Everything about a request is checked before it waits with others, so that a bad one fails alone.

Not covered: what an answer looks like over HTTP (`serving.api`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from model.errors import BadInput
from serving.batching import Batcher, Found, Question
from serving.catalogue import Recommended
from serving.limits import Limits
from serving.live import Live
from serving.metrics import Metrics
from serving.turns import Turns

if TYPE_CHECKING:
    from serving.engine import Engine

__all__ = ["Answered", "Asked", "Service"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One user's request."""

    user: str | None = None
    """Whose stored history is read, where none is given."""
    history: Sequence[str] | None = None
    """Item ids, oldest first."""
    k: int
    """How many items."""
    exclude: Sequence[str] = ()
    """Item ids not to return, beside those of the history."""
    categories: Sequence[str] = ()
    """Only items that have any of these; all items where none is named."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What one user is offered."""

    items: list[Recommended]
    """Best first; fewer than k where no more are left."""
    popular: bool
    """Whether this is what everybody likes, because nothing is known of the user."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service; `close` it when it ends."""

    live: Live
    """What serves now."""
    challenger: Live = field(default_factory=Live)
    """What may serve next, for a reviewer to compare; mostly nothing."""
    limits: Limits
    """What is refused."""
    metrics: Metrics
    """What is counted."""
    name: str = "miss-retrieval"
    """What the Open Inference Protocol calls the model."""
    batcher: Batcher = field(init=False)
    """The way to the graph."""
    turns: Turns = field(init=False)
    """The way to what is decoded, encoded and searched for on a thread."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batcher", Batcher(self.limits, self.metrics))
        object.__setattr__(self, "turns", Turns(self.limits.workers, self.limits.queue))

    def close(self) -> None:
        """Stop the thread; what still waits is refused."""
        self.batcher.close()

    async def recommend(self, engine: Engine, asked: Sequence[Asked]) -> list[Answered]:
        """Answers in order, all of `engine`.

        Raises BadInput for what cannot be answered, Busy where too many wait already.
        """
        questions = [question(engine, each) for each in asked]
        futures = self.batcher.ask(engine, [each for each in questions if each is not None])
        # gathered at once: cancelling this, as a timeout does, gives them all up
        found = iter(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        return [
            self._popular(engine, each) if wanted is None else _named(engine, next(found))
            for each, wanted in zip(asked, questions, strict=True)
        ]

    def _popular(self, engine: Engine, asked: Asked) -> Answered:
        self.metrics.popular.inc()
        items = engine.popular_items(asked.k, exclude_ids=asked.exclude, categories=asked.categories)
        return Answered(items=items, popular=True)


def question(engine: Engine, asked: Asked) -> Question | None:
    """What the graph is asked; None where nothing is known of the user. Raises BadInput for what cannot be asked."""
    engine.check_k(asked.k)
    gone = engine.excluded(asked.exclude, asked.categories)
    if asked.history is not None:
        history = engine.to_indices(asked.history)
    elif asked.user is None:
        raise BadInput("the request names no user and gives no history; send either")
    else:
        stored = engine.stored(asked.user)
        if stored is None:
            return None
        history = stored
    return Question(history=history, excluded=np.unique(np.concatenate([history, gone])), k=asked.k)


def _named(engine: Engine, found: Found) -> Answered:
    return Answered(items=engine.catalogue.named(*found), popular=False)
