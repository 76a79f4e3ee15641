"""Drift: how far a day's logs and catalogue lie from what the champion was trained on, and whether chance alone could do it.

- PSI on fixed bins: the bins are the champion's (items in tenths of its behaviors, its categories, lengths of history), never
  the day's. .1 warns, .2 acts, the usual reading of the index.
- The unit is the session, all that one user did on one day: behaviors of one session are far from independent, and a champion's
  training is sessions too. What 60 users do differs from what 6,000 did by chance alone, so every figure has its `noise`, and
  warns or acts only beyond it: the larger of what 1 of 100 draws of as many sessions of the training reach, and what 1 of 100
  of the training's own days reached (days are not draws: one brings newcomers, the next brings the old hands).
- MovieLens-1M, the 153 days of June to October 2000 (some 90 users a day) against all days before their month: the bare index
  acts on 31 % of the days, these figures on 4.6 % and warn on 2.6 %. Horror alone, the least popular tenth alone, and 25 %
  unknown items each act on every day they are planted on (`pytest tests/model/test_drift_movielens.py -s`, 2026-11-23).
- What is left there is no chance: popularity moves a little every month (PSI .02 to .04 for a champion of June 1, beyond chance on
  a third of the days, never near .2 for one of this month), and days with few newcomers, or one user with a thousand behaviors,
  move the lengths of histories, by far the noisiest figure (80 users: .13 by chance alone). The users of a young log grow older:
  that shift is real, and a younger champion is the answer.
- Which items are popular is told by one half of the training's users and how popular by the other: told by the same ones, the
  leaders of a small log are those with luck, and the next day looks like a shift.
- Items the champion does not know have a figure of their own and no bin: a bin that the reference leaves empty by
  definition would measure the smoothing.
- The catalogue is no sample: its figures have no noise.

Not covered: which user or item moved, drift that is slower than the champion is old, and days of fewer than 20 users, which
say nothing (see `MIN_USERS`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput

__all__ = [
    "ACT",
    "MIN_USERS",
    "WARN",
    "Compared",
    "Figure",
    "Reference",
    "Sessions",
    "catalogue_figures",
    "level_of",
    "psi",
    "sessions_of",
]

WARN, ACT = 0.1, 0.2
MIN_USERS = 20
"""Fewer users say nothing: of 20 sessions of MovieLens-1M, 1 draw of 100 reaches a PSI of .18 by items' popularity, of 10
sessions .85, so that nothing short of another catalogue would show; a recall of .5 halves by chance."""
DRAWS, QUANTILE, SEED = 200, 0.99, 0
MOST_DRAWN, MOST_KEPT = 2_000, 20_000
"""Sessions of one draw, where chance is far below .1 already, and sessions that are drawn from."""
MIN_DAYS = 10
"""Training days that are enough to tell what an ordinary day is."""
FLOOR = 1e-3
"""Added to every bin's share, so that an empty bin is finite."""
TENTHS, MOST_CATEGORIES = 10, 20
LENGTHS = (1, 10, 20, 50, 100, 200, 500)
"""Lower edges of the bins of history lengths; the first bin is no history."""
LOGS = ("popularity", "categories", "history_lengths")
_SPANS = [f"{low}-{high - 1}" for low, high in pairwise(LENGTHS)]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def psi(reference: NDArray[Any], counts: NDArray[Any], *, floor: float = FLOOR) -> Floats:
    """Population stability index, the sum over bins of (q - p) ln(q / p), for shares p of `reference` and q of `counts`.

    reference: (C,) or (..., C), counts: (..., C), any non-negative weights; returns (...,). `floor` is added to every share, and
    the shares are made to sum to one again. Symmetric, 0 for equal shares. Raises BadInput where either has no weight at all.
    """
    shares = []
    for weights in (np.asarray(reference, np.float64), np.asarray(counts, np.float64)):
        total = weights.sum(axis=-1, keepdims=True)
        if not (total > 0).all() or not np.isfinite(total).all() or (weights < 0).any():
            raise BadInput("a stability index compares two distributions: give weights from 0 up that do not sum to 0")
        shares.append((weights / total + floor) / (1 + floor * weights.shape[-1]))
    p, q = shares
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a day; its level follows from the others, so that the two cannot disagree."""

    name: str
    """snake_case."""
    value: float
    """What was found; the thresholds are about this."""
    reference: float
    """What it is on average where nothing has changed."""
    noise: float
    """What it has to exceed: chance reaches that much, or an ordinary day did."""
    users: int | None = None
    """Sample size; None where it is no sample."""
    warn: float = WARN
    act: float = ACT
    note: str = ""
    """How to read it."""

    @property
    def level(self) -> str:
        """ "too few", "ok", "warn" or "act"."""
        if self.users is not None and self.users < MIN_USERS:
            return "too few"
        if self.value < self.warn or self.value <= self.noise:
            return "ok"
        return "act" if self.value >= self.act else "warn"

    def to_json(self) -> dict[str, Any]:
        """JSON values: the fields and the level."""
        return asdict(self) | {"level": self.level}


def level_of(figures: Sequence[Figure]) -> str:
    """The worst level among figures; "too few" where a sample was too small and nothing is beyond a threshold."""
    levels = {figure.level for figure in figures}
    return next((level for level in ("act", "warn", "too few") if level in levels), "ok")


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """S sessions, each what one user did on one day; B behaviors in all."""

    offsets: Ints
    """(S + 1,) start of each session's slice."""
    items: Ints
    """(B,) item in the champion's order, -1 for one that it does not know."""
    before: Ints
    """(S,) behaviors of the user before the session."""
    users: Ints
    """(S,) index of the user."""
    days: Ints
    """(S,) days since 1970 (UTC)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def where(self, mask: NDArray[np.bool_]) -> Sessions:
        """The sessions of a (S,) mask."""
        lengths = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths[mask])]).astype(np.int64)
        kept = self.items[np.repeat(mask, lengths)]
        return Sessions(
            offsets=offsets, items=kept, before=self.before[mask], users=self.users[mask], days=self.days[mask]
        )


def sessions_of(offsets: Ints, items: NDArray[np.integer], days: NDArray[np.integer]) -> Sessions:
    """Cut histories where the day changes.

    offsets: (U + 1,) as in `Histories`. items: (B,) in the champion's order, -1 for unknown. days: (B,) days since 1970.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    first = np.ones(len(items), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (days[1:] != days[:-1])
    starts = np.flatnonzero(first)
    users = owner[starts]
    return Sessions(
        offsets=np.append(starts, len(items)).astype(np.int64),
        items=np.asarray(items, np.int64),
        before=(starts - offsets[users]).astype(np.int64),
        users=users.astype(np.int64),
        days=np.asarray(days[starts], np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class _ItemBins:
    """Bins of items: item i adds `weights[starts[i]:starts[i + 1]]` to those bins."""

    labels: tuple[str, ...]
    starts: Ints
    bins: Ints
    weights: Floats


def _by_popularity(counts: Ints) -> _ItemBins:
    """Tenths of the behaviors, from the most popular items on; what nobody touched is in the last."""
    order = np.argsort(-counts, kind="stable")
    before = np.empty(len(counts))
    before[order] = np.cumsum(counts[order]) - counts[order]
    bins = np.minimum((TENTHS * before / counts.sum()).astype(np.int64), TENTHS - 1)
    labels = ("head", *(f"tenth {i}" for i in range(2, TENTHS)), "tail")
    return _ItemBins(labels=labels, starts=np.arange(len(counts) + 1), bins=bins, weights=np.ones(len(counts)))


def _split(categories: str | None) -> list[str]:
    return list(dict.fromkeys(part for each in (categories or "").split(",") if (part := each.strip())))


def _by_category(categories: Sequence[str | None], mass: NDArray[np.integer]) -> _ItemBins:
    """The categories with most mass, all others, and none; an item of several adds an equal share to each."""
    named = [_split(each) for each in categories]
    total: dict[str, float] = {}
    for names, weight in zip(named, mass.tolist(), strict=True):
        for name in names:
            total[name] = total.get(name, 0.0) + weight / len(names)
    labels = sorted(total, key=lambda name: (-total[name], name))[:MOST_CATEGORIES]
    return _in_bins(named, (*labels, "other", "none"))


def _in_bins(named: Sequence[Sequence[str]], labels: tuple[str, ...]) -> _ItemBins:
    place = {name: bin_ for bin_, name in enumerate(labels[:-2])}
    other, none = len(labels) - 2, len(labels) - 1
    bins = [[place.get(name, other) for name in names] or [none] for names in named]
    sizes = np.array([len(each) for each in bins], dtype=np.int64)
    return _ItemBins(
        labels=labels,
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        bins=np.array([bin_ for each in bins for bin_ in each], dtype=np.int64),
        weights=np.repeat(1.0 / np.maximum(sizes, 1), sizes),
    )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A day beside the reference, on the same bins."""

    labels: tuple[str, ...]
    reference: Floats
    """(C,) share of each bin."""
    day: Floats
    """(C,)"""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "labels": list(self.labels),
            "reference": [round(float(each), 6) for each in self.reference],
            "day": [round(float(each), 6) for each in self.day],
        }


class Reference:
    """What the champion was trained on: its bins, and what sessions and days drawn from them look like."""

    def __init__(self, sessions: Sessions, *, categories: Sequence[str | None]) -> None:
        """sessions: of its training. categories: (N,) of each item it knows, comma-separated. Raises BadInput for no behavior."""
        if not (sessions.items >= 0).any():
            raise BadInput("there is no reference: the champion's training has no behavior on an item that it knows")
        # an item that leads by luck leads no more on the next day: users who tell which items lead do not tell by how much
        halves = [sessions.where(sessions.users % 2 == half) for half in (0, 1)]
        ranked, counted = halves if all((half.items >= 0).any() for half in halves) else (sessions, sessions)
        counts = [np.bincount(each.items[each.items >= 0], minlength=len(categories)) for each in (ranked, sessions)]
        self._bins = {"popularity": _by_popularity(counts[0]), "categories": _by_category(categories, counts[1])}
        self.labels = {name: bins.labels for name, bins in self._bins.items()} | {
            "history_lengths": ("0", *_SPANS, f"{LENGTHS[-1]}+")
        }
        self.totals: dict[str, Floats] = {}
        self._sessions: dict[str, Floats] = {}
        self._resampled: dict[str, Floats] = {}
        self._ordinary: dict[str, float] = {}
        for name in LOGS:
            own = counted if name == "popularity" else sessions
            keep = np.zeros(len(own), dtype=bool)
            keep[np.random.default_rng(SEED).permutation(len(own))[:MOST_KEPT]] = True
            kept = own.where(keep)
            self._sessions[name] = self._histograms(name, kept, np.arange(len(kept)), len(kept))
            self.totals[name] = self._histograms(name, own, np.zeros(len(own), np.int64), 1)[0]
            times = np.random.default_rng(SEED).multinomial(len(kept), np.full(len(kept), 1 / len(kept)), DRAWS)
            self._resampled[name] = times @ self._sessions[name]
            days, day_of, users = np.unique(own.days, return_inverse=True, return_counts=True)
            found = self._histograms(name, own, day_of, len(days))
            found = found[(users >= MIN_USERS) & (found.sum(axis=1) > 0)]
            reached = psi(self.totals[name], found) if len(found) >= MIN_DAYS else np.zeros(1)
            self._ordinary[name] = float(np.quantile(reached, QUANTILE))

    def figures(self, day: Sessions) -> tuple[list[Figure], dict[str, Compared]]:
        """Figures of the day's logs, and what lies in which bin; none of it for a day without sessions."""
        figures, compared = [], {}
        for name in LOGS:
            counts = self._histograms(name, day, np.zeros(len(day), np.int64), 1)[0]
            if counts.sum() <= 0:
                continue
            mean, noise = self._chance(name, len(day))
            figures.append(
                Figure(
                    name=name,
                    value=float(psi(self.totals[name], counts)),
                    reference=mean,
                    noise=max(noise, self._ordinary[name]),
                    users=len(day),
                    note=f"PSI; by chance {noise:.3f}, an ordinary day {self._ordinary[name]:.3f}",
                )
            )
            total = self.totals[name]
            compared[name] = Compared(
                labels=self.labels[name], reference=total / total.sum(), day=counts / counts.sum()
            )
        if len(day.items):
            unknown = float((day.items < 0).mean())
            note = "share of behaviors on items that the champion does not know"
            figures.append(
                Figure(name="unknown_items", value=unknown, reference=0.0, noise=0.0, users=len(day), note=note)
            )
        return figures, compared

    def _chance(self, name: str, users: int) -> tuple[float, float]:
        """(mean, upper quantile) of PSI over draws of that many sessions, each against training that was drawn again too."""
        rng, sessions = np.random.default_rng(SEED + 1), self._sessions[name]
        rows = rng.integers(0, len(sessions), (DRAWS, min(users, MOST_DRAWN)))
        drawn = np.stack([sessions[each].sum(axis=0) for each in rows])
        usable = (drawn.sum(axis=1) > 0) & (self._resampled[name].sum(axis=1) > 0)
        if not usable.any():
            return 0.0, 2 * float(np.log(1 / FLOOR))  # no index is larger
        found = psi(self._resampled[name][usable], drawn[usable])
        return float(found.mean()), float(np.quantile(found, QUANTILE))

    def _histograms(self, name: str, sessions: Sessions, groups: NDArray[np.integer], n_groups: int) -> Floats:
        """(G, C) weight in each bin, by group of sessions; groups: (S,)."""
        lengths, n_bins = np.diff(sessions.offsets), len(self.labels[name])
        group = np.repeat(groups, lengths)
        if name == "history_lengths":
            starts = np.repeat(sessions.before - sessions.offsets[:-1], lengths)
            bins = np.searchsorted(LENGTHS, starts + np.arange(len(sessions.items)), side="right")
            weights = np.ones(len(bins))
        else:
            of, known = self._bins[name], sessions.items >= 0
            items, group = sessions.items[known], group[known]
            sizes = of.starts[items + 1] - of.starts[items]
            within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            at = np.repeat(of.starts[items], sizes) + within
            bins, weights, group = of.bins[at], of.weights[at], np.repeat(group, sizes)
        flat = np.bincount(group * n_bins + bins, weights=weights, minlength=n_groups * n_bins)
        return np.asarray(flat.reshape(n_groups, n_bins), dtype=np.float64)


def catalogue_figures(
    known_ids: NDArray[np.str_],
    known_categories: Sequence[str | None],
    ids: NDArray[np.str_],
    categories: Sequence[str | None],
    *,
    content: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[list[Figure], dict[str, Compared]]:
    """Figures of a catalogue (M items) against the champion's (N items), and what lies in which bin.

    content: name -> (share of the champion's items that have it, share of today's), such as a picture; its figure is the change.
    Raises BadInput for an empty catalogue.
    """
    if not len(known_ids) or not len(ids):
        raise BadInput(f"catalogues of {len(known_ids)} and {len(ids)} items cannot be compared: give items")
    bins = _by_category(known_categories, np.ones(len(known_ids), np.int64))
    counts = [
        np.bincount(each.bins, weights=each.weights, minlength=len(bins.labels))
        for each in (bins, _in_bins([_split(each) for each in categories], bins.labels))
    ]
    unknown = float(1 - np.isin(ids, known_ids).mean())
    found = {
        "catalogue_categories": (float(psi(*counts)), 0.0, "PSI of items' categories"),
        "catalogue_unknown_items": (unknown, 0.0, "share of items that the champion does not know"),
    }
    for name, (then, now) in (content or {}).items():
        found[f"catalogue_{name}"] = (abs(now - then), 0.0, f"change: {then:.3f} of items had it, {now:.3f} have")
    figures = [
        Figure(name=name, value=value, reference=reference, noise=0.0, note=note)
        for name, (value, reference, note) in found.items()
    ]
    shares = [each / each.sum() for each in counts]
    return figures, {"catalogue_categories": Compared(labels=bins.labels, reference=shares[0], day=shares[1])}
