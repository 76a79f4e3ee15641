"""Micro-batching: requests that arrive together share a call of the graph, and each gets what it would have got alone.

- As many threads as the limits say ask the graph. What arrives while they work waits; who is free takes its share of it. Where the
  graph is idle, a request waits a few milliseconds for company, counted from its own arrival.
- A call never mixes engines: what was asked of the old one is asked of it alone, also after a swap.
- Lengths come in buckets of powers of two, histories and excluded items each; short ones go first and are answered before a long
  one starts, so it neither pads nor delays them within a batch.
- Nobody waits without bound: a full queue refuses at once, and who has given up is not computed for.
- A thread lets go of a batch before it waits again, so it keeps no engine alive.

Not covered: priorities. Where every thread has a long history, who arrives after them waits for one of those searches.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.errors import Busy
from serving.limits import Limits
from serving.metrics import Metrics

if TYPE_CHECKING:
    from serving.engine import Engine

__all__ = ["Batcher", "Found", "Question", "buckets"]

SHORTEST = 6
"""Up to 2^6 behaviors are one bucket: the search pads what is shorter to its own window anyway."""

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Items (k,), -1 where no more are left, and scores (k,)."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One user to be searched for; checked by who asks: a bad one would fail the whole batch."""

    history: NDArray[np.int64]
    """(T,) item indices, oldest first."""
    excluded: NDArray[np.int64]
    """(X,) item indices not to return, once each."""
    k: int
    """How many items."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    engine: Engine
    question: Question
    answer: Future[Found] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


def _bucket(length: int) -> int:
    return max(SHORTEST, (length - 1).bit_length())


def buckets(questions: Sequence[Question]) -> list[list[int]]:
    """Rows that may share a call, least work first: of histories, and of excluded items, that differ at most by twice."""
    alike: dict[tuple[int, int], list[int]] = {}
    for row, each in enumerate(questions):
        alike.setdefault((_bucket(len(each.history)), _bucket(len(each.excluded))), []).append(row)
    return [alike[key] for key in sorted(alike)]


class Batcher:
    """One queue and the threads that empty it; they start with the first question."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._free = 0  # threads that take, or wait to
        self._closed = False
        metrics.waiting.set_function(lambda: len(self._queue))

    def ask(self, engine: Engine, questions: Sequence[Question]) -> list[Future[Found]]:
        """A future a question, in order; cancel one to give it up. All are taken or none.

        Raises Busy where the queue has no room for them.
        """
        asked = [_Waiting(engine=engine, question=question) for question in questions]
        with self._changed:
            if self._closed:
                raise Busy("the service is stopping; ask again in a moment")
            if len(self._queue) + len(asked) > self._limits.queue:
                raise Busy(f"{len(self._queue)} requests wait already, as many as may; ask again in a moment")
            self._queue.extend(asked)
            while len(self._threads) < self._limits.workers:
                self._threads.append(threading.Thread(target=self._work, name="miss-batches", daemon=True))
                self._threads[-1].start()
            self._changed.notify_all()
        return [each.answer for each in asked]

    def close(self) -> None:
        """Refuse what comes, and what still waits; returns when the threads have ended."""
        with self._changed:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for each in left:
            if each.answer.set_running_or_notify_cancel():
                each.answer.set_exception(Busy("the service is stopping; ask again in a moment"))
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while self._answer(self._take()):  # no name here holds a batch while the next one is waited for
            pass

    def _take(self) -> list[_Waiting]:
        """What goes together next: the oldest, and who follows it with the same engine; empty when closed."""
        with self._changed:
            self._free += 1
            try:
                while not self._company():
                    if self._closed:
                        return []
                share = min(-(-len(self._queue) // self._free), self._limits.batch)
                taken = [self._queue.popleft()]
                while len(taken) < share and self._queue[0].engine is taken[0].engine:
                    taken.append(self._queue.popleft())
                return taken
            finally:
                self._free -= 1

    def _company(self) -> bool:
        """Wait until something waits and has waited for company; False where another thread took it meanwhile, or on closing."""
        while not self._queue and not self._closed:
            self._changed.wait()
        if self._queue:
            until = self._queue[0].since + self._limits.wait_ms / 1000
            while 0 < len(self._queue) < self._limits.batch and not self._closed:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
        return bool(self._queue) and not self._closed

    def _answer(self, taken: list[_Waiting]) -> bool:
        """Answer them all; False where there are none, which ends the thread."""
        for rows in buckets([each.question for each in taken]):
            self._call([taken[row] for row in rows])
        return bool(taken)

    def _call(self, asked: Iterable[_Waiting]) -> None:
        wanted = [each for each in asked if each.answer.set_running_or_notify_cancel()]
        if not wanted:
            return
        questions = [each.question for each in wanted]
        try:
            items, scores = wanted[0].engine.recommend(
                [each.history for each in questions],
                max(each.k for each in questions),
                exclude=[each.excluded for each in questions],
            )
        except BaseException as error:  # also what is no Exception: nobody else would ever answer them
            for each in wanted:
                each.answer.set_exception(error)
            return
        self._metrics.batches.observe(len(wanted))
        for row, each in enumerate(wanted):
            each.answer.set_result((items[row, : each.question.k], scores[row, : each.question.k]))
