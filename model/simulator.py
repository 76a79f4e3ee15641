"""Simulated behavior logs over a real taxonomy: what the demo catalogue's users do.

Notable choices
- A user holds a dozen interests (groups of the taxonomy). Two of them are active at a time and mostly take turns, event
  by event. An event falls into the one whose turn it is with probability `interest_share`, anywhere in the catalogue
  (by popularity) otherwise.
- Inside an interest the user mostly moves on to a near neighbour in taxonomy order, from the place where this interest
  was last left: a sequence model has an order and a rhythm to learn, item-kNN has neighbours to find, popularity neither.
- Interests drift: with a new session an active interest may give way to another one, and now and then the least dear
  one is dropped for one nearby in the taxonomy. What was left recently comes back soon, what was left long ago waits.
  Returns are planted: with probability `return_share` the choice is the interest that has been away longest, if that is
  `return_gap` events or more, and it resumes where it stopped. A short window cannot know which interest that is; a
  lifelong history can.
- Popularity is Zipf over a random permutation of the catalogue; lengths are log-normal, clipped to 1..`max_events`.
- No item repeats within a user. Time only moves forward: seconds within a session, hours to days between sessions.
- One step serves all users at once; users are ordered by length so that those still active are a prefix, and the
  Python loop runs `max_events` times whatever the number of users.
- Cost: 1,500 users, 200k events over 1,898 items in 2-5 s on one core (tests/model/test_simulator.py, 2026-11-22).

Not covered: seasons, trends, one user influencing another, ratings, repeated consumption.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput

__all__ = ["Simulated", "SimulatorConfig", "simulate"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """What the simulated users are like; times in seconds since 1970, UTC."""

    users: int = 1500
    """How many users."""
    seed: int = 2025
    """Same seed and catalogue: same logs."""
    median_events: float = 100.0
    """Median of the log-normal history length."""
    sigma_events: float = 0.8
    """Standard deviation of the logarithm of the history length."""
    max_events: int = 1000
    """Longest history."""
    interests: int = 12
    """Interests a user holds at a time, active or waiting."""
    interest_share: float = 0.85
    """Share of events that belong to the interest whose turn it is."""
    threads: int = 2
    """Interests that are active at a time, at most `interests`."""
    turns: float = 0.75
    """Probability that the next event goes on with the next of them, not with the same one."""
    neighbour_share: float = 0.85
    """Of those, share that moves on from the last place in taxonomy order; the rest goes by popularity."""
    neighbour_reach: float = 2.5
    """Scale of the exponential over the distance moved on, in items."""
    session_events: float = 8.0
    """Mean events of a session."""
    switch: float = 0.75
    """Probability that a new session puts another interest in the place of one that is active."""
    drift: float = 0.15
    """Probability that such a change takes up a new interest instead of the least dear one."""
    return_share: float = 0.6
    """Probability that such a change goes back to the interest away longest, where one is away long enough."""
    return_gap: int = 200
    """Events an interest must have been away for such a return."""
    zipf: float = 0.9
    """Exponent of item popularity."""
    window_days: int = 365
    """Days over which the logs spread."""
    end: int = 1_735_689_600
    """Every event is before this time; the default is 2025-01-01."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """B events, ordered by user and then by position."""

    users: NDArray[np.int32]
    """(B,) user index."""
    items: NDArray[np.int32]
    """(B,) item index, in the order of `groups`."""
    timestamps: NDArray[np.int64]
    """(B,) seconds since 1970, UTC; strictly increasing within a user."""
    positions: NDArray[np.int32]
    """(B,) 0, 1, 2, ... within each user."""
    interests: NDArray[np.int32]
    """(B,) group of the interest whose turn it was: what a perfect observer would know."""
    sessions: Bools
    """(B,) whether the event opens a session."""


class _Catalogue:
    """Groups as padded rows of members, with popularity on top."""

    def __init__(self, groups: Ints, *, zipf: float, rng: np.random.Generator) -> None:
        self.group_of = groups
        self.n_items, self.n_groups = len(groups), int(groups.max()) + 1
        order = np.argsort(groups, kind="stable")
        self.sizes = np.bincount(groups, minlength=self.n_groups)  # (G,)
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.rank = np.empty(self.n_items, np.int64)  # place of an item within its group
        self.rank[order] = np.arange(self.n_items) - np.repeat(starts, self.sizes)
        self.members = np.full((self.n_groups, int(self.sizes.max())), -1, np.int64)  # (G, M)
        self.members[groups, self.rank] = np.arange(self.n_items)
        self.weight = (1.0 + rng.permutation(self.n_items)) ** -zipf  # (N,)
        self.cumulative = np.cumsum(self.weight) / self.weight.sum()
        self.log_weight = np.log(self.weight)
        self.log_group_weight = np.log(np.bincount(groups, weights=self.weight, minlength=self.n_groups) + 1e-12)


class _Users:
    """State of all users; every method works on the first `alive` of them."""

    def __init__(self, config: SimulatorConfig, catalogue: _Catalogue, rng: np.random.Generator) -> None:
        self.config, self.catalogue, self.rng = config, catalogue, rng
        n_users, slots = config.users, config.interests
        self.seen = np.zeros((n_users, catalogue.n_items), bool)
        self.remaining = np.tile(catalogue.sizes, (n_users, 1))  # (U, G) items not yet seen
        noise = rng.gumbel(size=(n_users, catalogue.n_groups)) + catalogue.log_group_weight
        held = np.argsort(-noise, axis=1)[:, :slots]
        self.groups = held[:, np.arange(slots) % held.shape[1]]  # (U, K); repeats where the taxonomy is small
        self.dear = rng.gamma(1.0, size=(n_users, slots)) + 0.05  # (U, K) affinity
        self.left = np.full((n_users, slots), -1)  # (U, K) step of the last event in this interest
        self.place = np.full((n_users, slots), -1)  # (U, K) rank of the last item taken in this interest
        first = np.argsort(-(np.log(self.dear) + rng.gumbel(size=self.dear.shape)), axis=1)
        self.ring = first[:, : min(config.threads, slots)]  # (U, P) slots of the active interests, which take turns
        self.phase = np.zeros(n_users, np.int64)  # (U,) place in the ring
        self.active = self.ring[:, 0].copy()

    def turn(self, users: Ints, step: int) -> None:
        """Choose another interest for these users: a return, a new one, or one of those held."""
        if not len(users):
            return
        config, rng = self.config, self.rng
        groups, left, dear = self.groups[users], self.left[users], self.dear[users]
        other = np.ones(groups.shape, bool)
        np.put_along_axis(other, self.ring[users], False, axis=1)
        other |= ~other.any(axis=1, keepdims=True)  # as many threads as interests: any may be taken
        open_ = np.take_along_axis(self.remaining[users], groups, axis=1) > 0
        usable = open_ & other
        away = np.where(usable & (left >= 0) & (step - left >= config.return_gap), step - left, -1)
        returns = (away.max(axis=1) >= 0) & (rng.random(len(users)) < config.return_share)
        stale = np.where(
            left >= 0, 5.0 * (step - left) / config.return_gap, 1.5
        )  # recent ones alternate, the rest wait
        held = np.where(usable, np.log(dear) - stale, -np.inf) + rng.gumbel(size=dear.shape)
        chosen = np.where(returns, away.argmax(axis=1), held.argmax(axis=1))
        fresh = ~returns & ((rng.random(len(users)) < config.drift) | ~usable.any(axis=1))
        chosen[fresh] = np.where(other, dear + open_ * 1e3, np.inf)[fresh].argmin(axis=1)  # an exhausted one goes first
        self._take_up(users[fresh], chosen[fresh])
        self.active[users] = chosen
        self.ring[users, self.phase[users]] = chosen

    def _take_up(self, users: Ints, slots: Ints) -> None:
        """Replace the interest in `slots` by a new one, near the active one in the taxonomy or popular."""
        if not len(users):
            return
        n_groups = self.catalogue.n_groups
        current = self.groups[users, self.active[users]]
        distance = np.abs(np.arange(n_groups)[None, :] - current[:, None])
        near = np.minimum(distance, n_groups - distance) <= 3
        logits = self.catalogue.log_group_weight + 2.5 * near + self.rng.gumbel(size=near.shape)
        possible = self.remaining[users] > 0
        held = np.zeros_like(possible)
        np.put_along_axis(held, self.groups[users], True, axis=1)
        preferred = possible & ~held
        allowed = np.where(preferred.any(axis=1, keepdims=True), preferred, possible)
        self.groups[users, slots] = np.where(allowed, logits, -np.inf).argmax(axis=1)
        self.dear[users, slots] = self.rng.gamma(1.0, size=len(users)) + 0.05
        self.left[users, slots] = self.place[users, slots] = -1

    def inside(self, users: Ints) -> Ints:
        """(len(users),) an unseen item of each user's active interest; Gumbel-max over the group's members."""
        slots = self.active[users]
        groups, place = self.groups[users, slots], self.place[users, slots]
        members = self.catalogue.members[groups]  # (A, M)
        free = (members >= 0) & ~np.take_along_axis(self.seen[users], np.maximum(members, 0), axis=1)
        ranks = np.arange(members.shape[1])[None, :]
        ahead = (ranks - place[:, None] - 1) % self.catalogue.sizes[groups][:, None]
        moves_on = (place >= 0) & (self.rng.random(len(users)) < self.config.neighbour_share)
        logits = np.where(
            moves_on[:, None], -ahead / self.config.neighbour_reach, self.catalogue.log_weight[np.maximum(members, 0)]
        )
        best = np.where(free, logits + self.rng.gumbel(size=logits.shape), -np.inf).argmax(axis=1)
        self.place[users, slots] = best
        taken: Ints = members[np.arange(len(users)), best]
        return taken

    def anywhere(self, users: Ints) -> Ints:
        """(len(users),) an unseen item of the whole catalogue by popularity; rejection, then an exact draw."""
        last = self.catalogue.n_items - 1
        items = np.full(len(users), -1)
        for _ in range(6):
            open_ = np.flatnonzero(items < 0)
            drawn = np.minimum(np.searchsorted(self.catalogue.cumulative, self.rng.random(len(open_))), last)
            items[open_] = np.where(self.seen[users[open_], drawn], -1, drawn)
        open_ = np.flatnonzero(items < 0)
        if len(open_):
            logits = self.catalogue.log_weight + self.rng.gumbel(size=(len(open_), last + 1))
            items[open_] = np.where(self.seen[users[open_]], -np.inf, logits).argmax(axis=1)
        return items

    def step(self, alive: int, step: int) -> tuple[Ints, Bools, Ints]:
        """One event of each of the first `alive` users: (items, opens a session, active group)."""
        users = np.arange(alive)
        self.phase[:alive] = (self.phase[:alive] + (self.rng.random(alive) < self.config.turns)) % self.ring.shape[1]
        self.active[:alive] = self.ring[users, self.phase[:alive]]
        opens = self.rng.random(alive) < 1.0 / self.config.session_events
        exhausted = self.remaining[users, self.groups[users, self.active[users]]] == 0
        self.turn(np.flatnonzero(exhausted | (opens & (self.rng.random(alive) < self.config.switch))), step)
        inside = self.rng.random(alive) < self.config.interest_share
        items = np.empty(alive, np.int64)
        items[inside] = self.inside(users[inside])
        items[~inside] = self.anywhere(users[~inside])
        self.seen[users, items] = True
        self.remaining[users, self.catalogue.group_of[items]] -= 1
        self.left[users, self.active[users]] = step
        return items, opens, self.groups[users, self.active[users]].copy()


def _timestamps(
    config: SimulatorConfig, lengths: Ints, users: Ints, positions: Ints, opens: Bools, rng: np.random.Generator
) -> Ints:
    """(B,) seconds: sessions of minutes, spread over a span of the window that differs by user."""
    window_s = config.window_days * 86_400
    within = 5 + rng.exponential(40.0, len(users)).astype(np.int64)
    weight = np.where(opens & (positions > 0), rng.exponential(1.0, len(users)), 0.0)
    total = np.bincount(users, weights=weight, minlength=len(lengths))
    span = window_s * rng.uniform(0.2, 0.9, len(lengths)) / np.maximum(total, 1.0)
    gaps = np.where(weight > 0, 1800 + (weight * span[users]).astype(np.int64), within)
    gaps[positions == 0] = 0
    elapsed = np.cumsum(gaps)
    first = np.cumsum(lengths) - lengths
    elapsed -= np.repeat(elapsed[first], lengths)
    duration = elapsed[first + lengths - 1]
    slack = rng.random(len(lengths)) * np.maximum(window_s - duration, 0)
    start = config.end - 1 - duration - slack.astype(np.int64)
    return np.asarray(start[users] + elapsed, np.int64)


def simulate(config: SimulatorConfig, groups: NDArray[np.integer]) -> Simulated:
    """Simulate `config.users` users over a catalogue of N items.

    `groups` (N,): the taxonomy's subgroup of each item, 0..G-1, neighbouring numbers being related; items stand in
    taxonomy order, so that neighbours within a group are alike. Raises `BadInput` for an empty catalogue, no users,
    or lengths below one.
    """
    if groups.ndim != 1 or not len(groups) or int(groups.min()) < 0:
        raise BadInput(f"the simulator needs one group number per item, not an array of shape {groups.shape}")
    if config.users < 1 or config.max_events < 1 or min(config.interests, config.threads, config.session_events) < 1:
        raise BadInput(
            f"users, max_events, interests, threads and session_events must be 1 or more, not those of {config}"
        )
    rng = np.random.default_rng(config.seed)
    catalogue = _Catalogue(groups.astype(np.int64), zipf=config.zipf, rng=rng)
    drawn = np.rint(np.exp(rng.normal(np.log(config.median_events), config.sigma_events, config.users)))
    lengths = np.clip(drawn, 1, min(config.max_events, catalogue.n_items)).astype(np.int64)
    by_length = np.argsort(-lengths, kind="stable")  # simulated user s is user by_length[s]
    sorted_lengths = lengths[by_length]
    longest = int(sorted_lengths[0])

    items = np.full((config.users, longest), -1, np.int32)  # (U, T)
    opens = np.zeros((config.users, longest), bool)
    active = np.zeros((config.users, longest), np.int32)
    state = _Users(config, catalogue, rng)
    for step in range(longest):
        alive = int(np.searchsorted(-sorted_lengths, -step, side="left"))  # users whose length is above `step`
        items[:alive, step], opens[:alive, step], active[:alive, step] = state.step(alive, step)
    opens[:, 0] = True

    place = np.argsort(by_length, kind="stable")  # row of user u
    real = items[place] >= 0
    users, positions = np.nonzero(real)
    sessions = opens[place][real]
    return Simulated(
        users=users.astype(np.int32),
        items=items[place][real],
        timestamps=_timestamps(config, lengths, users, positions, sessions, rng),
        positions=positions.astype(np.int32),
        interests=active[place][real],
        sessions=sessions,
    )
