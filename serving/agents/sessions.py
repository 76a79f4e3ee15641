"""Sessions of agents: what each has left, what it carries from one call to the next, and the log of all calls.

- A session is known by a name that nobody can guess, which its first answer holds. Where the connection itself is one agent's
  (stdio, or a transport with a session of its own), it need not be named.
- A budget bounds a loop that an agent has run into; it is no bound on who may ask: that is the token, and a proxy.
- Sessions live in this process. Who has been silent for half an hour is forgotten, and so is the most silent one where there are
  too many.

Not covered: sessions over several processes.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import BadInput
from serving.limits import Limits

if TYPE_CHECKING:
    from serving.engine import Engine
    from serving.search import Box

__all__ = ["IDLE_S", "CallLog", "Session", "Sessions"]

IDLE_S = 1800.0
LOG_BYTES, LOG_FILES = 10 << 20, 5


@dataclass(kw_only=True)
class Session:
    """One agent's."""

    name: str
    """What later calls name it by."""
    calls: int
    """Calls left."""
    results: int
    """Items left."""
    weights: dict[str, float] = field(default_factory=dict)
    """What text and picture count in a search with both."""
    excluded: dict[str, None] = field(default_factory=dict)
    """Item ids that are not to come back, in the order they were named."""
    picture: bytes | None = None
    """The last that was searched with."""
    box: Box | None = None
    """The part of it that was meant."""
    used: float = 0.0
    """When it was last asked for."""

    def charge(self) -> None:
        """One call less. Raises BadInput where none, or no result, is left."""
        if self.calls <= 0 or self.results <= 0:
            what = "calls" if self.calls <= 0 else "results"
            raise BadInput(f"session {self.name} has used all of its {what}; work with what was found")
        self.calls -= 1

    def exclude(self, engine: Engine, item_ids: Sequence[str], most: int) -> list[str]:
        """All that are excluded now, these among them; what the engine no longer knows is left out.

        Raises BadInput for ids that it does not know, and for more than `most`.
        """
        engine.to_indices(item_ids)
        together = self.excluded | dict.fromkeys(item_ids)
        if len(together) > most:
            raise BadInput(f"session {self.name} would exclude {len(together):,} items, at most {most:,}; start over")
        self.excluded = together
        return [item for item in together if engine.catalogue.find(item) is not None]

    def shares(self, weights: dict[str, float] | None) -> tuple[float, float]:
        """What text and picture count from now on."""
        if weights is not None:
            self.weights = dict(weights)
        return self.weights.get("text", 1.0), self.weights.get("image", 1.0)

    def start_over(self) -> None:
        """Carry nothing any more; what was used stays used."""
        self.weights, self.excluded, self.picture, self.box = {}, {}, None, None


class Sessions:
    """Those of one service; used by the event loop alone."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._known: OrderedDict[str, Session] = OrderedDict()  # the most silent first

    def __len__(self) -> int:
        return len(self._known)

    def of(self, named: str | None, connection: str | None = None) -> Session:
        """The session that a call names, that of its connection, or a new one. Raises BadInput for a name that is not known."""
        now = self._clock()
        while self._known and next(iter(self._known.values())).used + IDLE_S < now:
            self._known.popitem(last=False)
        name = named or connection or secrets.token_urlsafe(12)
        if named and named not in self._known:
            raise BadInput(
                f"session {named[:80]!r} is not known here, or was silent for {IDLE_S / 60:g} minutes; leave `session` "
                "out to begin another"
            )
        if name not in self._known:
            while len(self._known) >= self._limits.agent_sessions:
                self._known.popitem(last=False)
            self._known[name] = Session(name=name, calls=self._limits.agent_calls, results=self._limits.agent_results)
        session = self._known[name]
        session.used = now
        self._known.move_to_end(name)
        return session


class CallLog:
    """One line of JSON a call: when, which session, which tool, what it cost, how it ended; no picture, no words of the query."""

    def __init__(self, path: Path | None) -> None:
        """path: where it is written, at most 50 MiB in all; nowhere where None."""
        self._log = logging.Logger("miss.agents", logging.INFO)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(
                path, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8", delay=True
            )
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._log.addHandler(handler)

    def write(self, **told: Any) -> None:
        """Add a line."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
        self._log.info(json.dumps({"time": now} | told, ensure_ascii=False))

    def close(self) -> None:
        """Close the file."""
        for handler in list(self._log.handlers):
            self._log.removeHandler(handler)
            handler.close()
