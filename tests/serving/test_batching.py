"""What callers would lose when many ask at once: the answer each would get alone, and a refusal in time instead of a long wait."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import BEAM, N_ITEMS

from model.errors import Busy
from serving.batching import Batcher, Question, buckets
from serving.engine import Engine
from serving.limits import Limits
from serving.live import Live
from serving.metrics import Metrics


def question(history: Any, k: int = 5, excluded: Any = None) -> Question:
    gone = np.unique(np.asarray(history if excluded is None else excluded, dtype=np.int64))
    return Question(history=np.asarray(history, dtype=np.int64), excluded=gone, k=k)


class Held:
    """An engine that answers when it is let, and keeps what it was asked: batches one can look at."""

    def __init__(self, *, held: bool = True) -> None:
        self.calls: list[list[np.ndarray]] = []
        self.busy, self.go = threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def recommend(self, histories: Any, k: int, *, exclude: Any) -> Any:
        self.calls.append(list(histories))
        self.busy.set()
        assert self.go.wait(20)
        rows = np.array([[len(each)] * k for each in histories])
        return rows, rows.astype(np.float32)


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    found = Batcher(Limits(queue=64, wait_ms=1.0, workers=1), Metrics(Live()))
    yield found
    found.close()


def test_two_hundred_at_once_get_what_each_gets_alone(engine: Engine) -> None:
    """Sharing a call with strangers must not change what anybody is offered."""
    rng = np.random.default_rng(0)
    asked = [
        question(rng.integers(0, N_ITEMS, int(rng.choice([0, 1, 7, 40, 130, 700]))), int(rng.integers(1, BEAM + 1)))
        for _ in range(200)
    ]
    metrics = Metrics(Live())
    batcher = Batcher(Limits(), metrics)
    found: list[Future | None] = [None] * len(asked)
    barrier = threading.Barrier(20)

    def ask(first: int) -> None:
        barrier.wait()
        for row in range(first, len(asked), 20):
            (found[row],) = batcher.ask(engine, [asked[row]])

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each, future in zip(asked, found, strict=True):
        assert future is not None
        items, scores = future.result(60)
        alone, alone_scores = engine.recommend([each.history], each.k, exclude=[each.excluded])
        np.testing.assert_array_equal(items, alone[0])
        np.testing.assert_allclose(scores, alone_scores[0], atol=1e-5)
    batcher.close()
    calls = next(iter(metrics.batches.collect())).samples
    assert next(each.value for each in calls if each.name.endswith("_sum")) == 200
    assert next(each.value for each in calls if each.name.endswith("_count")) < 100, "they shared calls"


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=40))
def test_rows_of_a_call_are_alike_and_none_is_lost(lengths: list[tuple[int, int]]) -> None:
    """One user with twenty years of behaviors must not pad sixty others to as many."""
    asked = [question(np.zeros(t, np.int64), excluded=np.arange(x)) for t, x in lengths]
    found = buckets(asked)
    assert sorted(row for rows in found for row in rows) == list(range(len(asked)))
    for rows in found:
        for of in (0, 1):
            own = [max(lengths[row][of], 33) for row in rows]
            assert max(own) < 2 * min(own)


def test_who_waits_meanwhile_goes_together_short_ones_first(batcher: Batcher) -> None:
    """What arrives while the graph works is one batch, and a long history in it delays no short one."""
    held = Held()
    first = batcher.ask(held, [question([1])])  # type: ignore[arg-type]
    assert held.busy.wait(10)
    rest = [batcher.ask(held, [question(np.zeros(n, np.int64))])[0] for n in (900, 2, 3, 800, 4)]  # type: ignore[arg-type]
    held.go.set()
    wait([*first, *rest], 10)
    assert [[len(each) for each in call] for call in held.calls] == [[1], [2, 3, 4], [900, 800]]
    assert [future.result()[0].tolist() for future in rest] == [[n] * 5 for n in (900, 2, 3, 800, 4)]


def test_a_batch_never_mixes_engines(batcher: Batcher) -> None:
    """During a promotion an answer is of the old version or of the new one, and says which."""
    old, new = Held(), Held(held=False)
    first = batcher.ask(old, [question([1])])  # type: ignore[arg-type]
    assert old.busy.wait(10)
    rest = [batcher.ask(each, [question([1, 2])])[0] for each in (old, old, new, old, new, new)]  # type: ignore[arg-type]
    old.go.set()
    wait([*first, *rest], 10)
    assert [len(call) for call in old.calls] == [1, 2, 1]
    assert [len(call) for call in new.calls] == [1, 2]


def test_a_full_queue_refuses_at_once_takes_all_or_none_and_recovers(batcher: Batcher) -> None:
    """Beyond what can be answered in time a caller learns it now, not after its patience."""
    held = Held()
    futures = batcher.ask(held, [question([1])])  # type: ignore[arg-type]
    assert held.busy.wait(10)
    futures += batcher.ask(held, [question([1])] * 60)  # type: ignore[arg-type]
    with pytest.raises(Busy, match="60 requests wait"):
        batcher.ask(held, [question([1])] * 5)  # type: ignore[arg-type]
    futures += batcher.ask(held, [question([1])] * 4)  # type: ignore[arg-type]
    with pytest.raises(Busy, match="64 requests wait"):
        batcher.ask(held, [question([1])])  # type: ignore[arg-type]
    held.go.set()
    assert not wait(futures, 10).not_done
    (after,) = batcher.ask(held, [question([1])])  # type: ignore[arg-type]
    assert after.result(10)


def test_who_has_given_up_is_not_computed_for(batcher: Batcher) -> None:
    """After a pile-up the graph must not work for people who are gone."""
    held = Held()
    first = batcher.ask(held, [question([1])])  # type: ignore[arg-type]
    assert held.busy.wait(10)
    gone, stays = batcher.ask(held, [question([1, 2]), question([1, 2, 3])])  # type: ignore[arg-type]
    assert gone.cancel()
    held.go.set()
    assert stays.result(10)
    with pytest.raises(CancelledError):
        gone.result(1)
    assert [[len(each) for each in call] for call in held.calls] == [[1], [3]]
    assert first[0].result(1)


def test_a_failure_is_told_to_those_it_concerns_and_the_next_is_answered(batcher: Batcher) -> None:
    """One call that fails must not leave callers waiting, nor end the service."""

    class Broken:
        def recommend(self, *_: Any, **__: Any) -> Any:
            raise MemoryError("no more")

    (lost,) = batcher.ask(Broken(), [question([1])])  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        lost.result(10)
    (found,) = batcher.ask(Held(held=False), [question([1])])  # type: ignore[arg-type]
    assert found.result(10)


def test_an_idle_queue_keeps_no_engine(batcher: Batcher) -> None:
    """Memory of an old version goes back after a promotion, also where nobody asks again."""
    old = Held(held=False)
    batcher.ask(old, [question([1])])[0].result(10)  # type: ignore[arg-type]
    gone = weakref.ref(old)
    del old
    until = time.monotonic() + 5
    while gone() is not None and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None


def test_two_threads_share_what_waits() -> None:
    """Two cores answer two callers at a time, and neither waits behind a long history on the other core."""
    batcher, slow, held = Batcher(Limits(workers=2, wait_ms=0.5), Metrics(Live())), Held(), Held()
    (long,) = batcher.ask(slow, [question(np.zeros(900, np.int64))])  # type: ignore[arg-type]
    assert slow.busy.wait(10)
    for _ in range(50):
        held.go.set()
        (found,) = batcher.ask(held, [question([1])])  # type: ignore[arg-type]
        assert found.result(10)
    assert not long.done()
    slow.go.set()
    assert long.result(10)
    held.go.clear()
    held.calls.clear()
    futures = batcher.ask(held, [question([1, 2])] * 10)  # type: ignore[arg-type]
    until = time.monotonic() + 10
    while len(held.calls) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    assert sorted(map(len, held.calls)) == [5, 5]
    held.go.set()
    assert not wait(futures, 10).not_done
    batcher.close()


def test_closing_answers_everybody_and_ends_the_thread() -> None:
    """A service that stops leaves nobody hanging."""
    batcher, held = Batcher(Limits(workers=1), Metrics(Live())), Held()
    first = batcher.ask(held, [question([1])])  # type: ignore[arg-type]
    assert held.busy.wait(10)
    (waits,) = batcher.ask(held, [question([1])])  # type: ignore[arg-type]
    threading.Timer(0.1, held.go.set).start()
    batcher.close()
    assert first[0].result(1)
    with pytest.raises(Busy, match="stopping"):
        waits.result(1)
    with pytest.raises(Busy, match="stopping"):
        batcher.ask(held, [question([1])])  # type: ignore[arg-type]
