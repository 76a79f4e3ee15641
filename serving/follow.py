"""Keeps the service on what is promoted: looks, fetches, verifies, tries, swaps; a bad bundle leaves the old one serving.

- Where the promoted version is known from and how its bundle comes here is a `Source`'s business: no registry is known here.
- Digests come before parsing, the golden requests before the swap; both engines are in memory until the old one's requests end.
- What could not be loaded is not asked for again until something else is promoted or a pause has passed that grows with each
  failure; it is told once, and `miss_reload_failed` stays 1 for as long as something else serves than what is promoted.
- A source that does not answer changes nothing: what serves goes on, the questions become rarer, by chance not all at once.
- Nothing raised while following ends it.

Not covered: when a promotion may happen (its source serves what the gate has judged); loading in another process: a load takes its
share of the cores from the requests beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prometheus_client import Counter, Gauge

from model.errors import Busy, MissError
from serving.engine import Engine

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from serving.live import Live
    from serving.service import Service

__all__ = ["Follower", "Promoted", "Source"]

LONGEST_PAUSE_S = 300.0
FIRST_RETRY_S = 30.0
STOP_WAIT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """What should serve."""

    version: str
    """What the registry calls it."""
    digest: str
    """Its bundle's, as registered: 64 hex digits."""
    links: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Pages about it, {name: URL}."""


class Source(Protocol):
    """Where what is promoted comes from; called by one thread at a time."""

    def current(self) -> Promoted | None:
        """What is promoted now, None where nothing is; cheap where it has not changed. Raises where that cannot be known."""

    def fetch(self, promoted: Promoted) -> Path:
        """A folder with its bundle, whole. Raises Busy where it cannot be had now, anything else where it never can."""


class _Told:
    """What Prometheus reads about following."""

    def __init__(self, engines: weakref.WeakSet[Engine]) -> None:
        self.failed = Gauge(
            "miss_reload_failed",
            "1 while what is promoted cannot be loaded; what was promoted before serves on",
            registry=None,
        )
        self.failures = Counter("miss_reload_failures", "Promoted bundles that could not be loaded", registry=None)
        self.swaps = Counter("miss_swaps", "Bundles that began to serve", registry=None)
        self.swapped = Gauge("miss_swap_timestamp_seconds", "When the newest bundle began to serve", registry=None)
        self.seconds = Gauge("miss_swap_seconds", "From its promotion being seen to its serving", registry=None)
        self.unreachable = Gauge(
            "miss_registry_unreachable", "1 while it cannot be known what is promoted", registry=None
        )
        self.unanswered = Counter("miss_registry_failures", "Questions that the registry did not answer", registry=None)
        self.answered = Gauge("miss_registry_seen_timestamp_seconds", "When the registry answered last", registry=None)
        self.engines = Gauge("miss_engines", "Bundles in memory: 1, or 2 while one takes over", registry=None)
        self.engines.set_function(lambda: len(engines))

    @contextlib.contextmanager
    def at(self, registry: CollectorRegistry) -> Iterator[None]:
        """Readable there within the block."""
        every = list(vars(self).values())
        for each in every:
            registry.register(each)
        try:
            yield
        finally:
            for each in every:
                registry.unregister(each)


class Follower:
    """Keeps a `Live` on what a source says; `beside` runs it as long as a service does."""

    def __init__(
        self,
        source: Source,
        *,
        poll_s: float = 10.0,
        threads: int = 0,
        say: Callable[[str], None] = print,
        retry_s: float = FIRST_RETRY_S,
    ) -> None:
        """poll_s: seconds between two looks. threads: of each call of the graph, 0 is one per core.

        say: gets one sentence an event. retry_s: the first pause before a bundle that could not be loaded is tried again; each
        further one is twice as long.
        """
        self._source, self._poll_s, self._threads, self._say, self._retry_s = source, poll_s, threads, say, retry_s
        self._woken, self._stopped = threading.Event(), threading.Event()
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self.told = _Told(self._engines)
        self.promoted: Promoted | None = None
        """What serves; None before the first."""
        self._bad: Promoted | None = None
        self._retry_at, self._failures = 0.0, 0
        self._silences = 0
        self._untidy = False

    def wake(self) -> None:
        """Look now, not only when it is time; any thread may say so."""
        self._woken.set()

    @contextlib.asynccontextmanager
    async def beside(self, service: Service) -> AsyncIterator[None]:
        """Follow in a thread of its own, within the block."""
        self._stopped.clear()
        thread = threading.Thread(target=self._run, args=(service.live,), name="miss-follow", daemon=True)
        with self.told.at(service.metrics.registry):
            thread.start()
            try:
                yield
            finally:
                self._stopped.set()
                self._woken.set()
                await asyncio.to_thread(thread.join, STOP_WAIT_S)  # a download that goes on leaves nothing half

    def _run(self, live: Live) -> None:
        while not self._stopped.is_set():
            self._woken.clear()
            pause = self.look(live)
            self._woken.wait(pause)

    def look(self, live: Live) -> float:
        """Look once, and take over what is new; returns the seconds until the next look. Raises nothing."""
        begun = time.monotonic()
        if self._untidy and len(self._engines) < 2:  # the old one's last request has ended
            self._untidy = False
            _give_back()
        try:
            promoted = self._source.current()
        except Exception as error:
            return self._unanswered(live, error)
        self._answered()
        if promoted is None:
            if not live.ready:
                live.absent = (
                    "nothing is promoted yet; run `miss materialize`, which makes and promotes a first version"
                )
            return self._pause(self._poll_s)
        if promoted == self.promoted and live.ready:
            self._good()  # also where what was bad has been taken back
        elif promoted != self._bad or begun >= self._retry_at:
            try:
                engine = self._load(promoted)
            except Busy as error:  # the registry went away meanwhile: nothing is wrong with the bundle
                return self._unanswered(live, error)
            except Exception as error:
                self._failed(live, promoted, error)
            else:
                self._engines.add(engine)
                live.swap(engine)
                self.promoted, self._untidy = promoted, True
                self._good()
                self.told.swaps.inc()
                self.told.swapped.set_to_current_time()
                self.told.seconds.set(time.monotonic() - begun)
                self._say(f"version {promoted.version} (bundle {promoted.digest[:16]}) serves now")
        return self._pause(self._poll_s)

    def _load(self, promoted: Promoted) -> Engine:
        folder = self._source.fetch(promoted)
        engine = Engine(folder, version=promoted.version, digest=promoted.digest, threads=self._threads)
        engine.check_golden()
        return engine

    # -- what is told --------------------------------------------------------------------------------------------------

    def _good(self) -> None:
        self._bad, self._failures = None, 0
        self.told.failed.set(0)

    def _failed(self, live: Live, promoted: Promoted, error: Exception) -> None:
        self._failures = self._failures + 1 if promoted == self._bad else 1
        self._retry_at = time.monotonic() + self._pause(self._retry_s * 2.0 ** (self._failures - 1))
        self.told.failed.set(1)
        self.told.failures.inc()
        why = _sentence(error)
        if not live.ready:
            live.absent = f"version {promoted.version} is promoted and cannot be loaded: {why}"
        if promoted != self._bad:
            stays = f"version {live.engine.version} serves on" if live.ready else "nothing serves"
            self._say(f"version {promoted.version} is promoted and cannot be loaded, so {stays}: {why}")
        self._bad = promoted

    def _unanswered(self, live: Live, error: Exception) -> float:
        why = _sentence(error)
        if not live.ready:
            live.absent = f"it cannot be known what is promoted: {why}"
        if not self._silences:
            stays = f"version {live.engine.version} serves on" if live.ready else "nothing serves"
            self._say(f"it cannot be known what is promoted, so {stays}: {why}")
        self.told.unreachable.set(1)
        self.told.unanswered.inc()
        self._silences += 1
        return self._pause(self._poll_s * 2.0 ** min(self._silences, 16))

    def _answered(self) -> None:
        if self._silences:
            self._say("the registry answers again")
        self._silences = 0
        self.told.unreachable.set(0)
        self.told.answered.set_to_current_time()

    def _pause(self, seconds: float) -> float:
        """About as many seconds, at most `LONGEST_PAUSE_S` or a poll; by chance, so that a fleet spreads out."""
        return random.uniform(0.8, 1.2) * min(seconds, max(LONGEST_PAUSE_S, self._poll_s))


def _give_back() -> None:
    """Let the C library return what was freed: it keeps pages of the old engine, some MB for the first few swaps."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _sentence(error: Exception) -> str:
    told = " ".join(str(error).split())
    return told if isinstance(error, MissError) else f"{type(error).__name__}: {told[:300]}"
