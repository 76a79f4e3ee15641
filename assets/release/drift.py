"""One home's days against its champion: what `model.drift` compares, collected from the bundle and the warehouse.

- The reference is the champion's training as the warehouse has it: the behaviors its bundle counts of each user, with the days
  on which they came, which the bundle does not hold. A day it was trained on may be compared too; what it was trained on is no
  question to it.
- The catalogue is compared as it is now, whatever the day.
- What was found lies in `drift/<day>.json` under the home, its pictures beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.stores.registry import CHAMPION, ModelVersionInfo
from assets.stores.resource import Stores
from model.drift import MIN_USERS, Figure, Reference, catalogue_figures, level_of, sessions_of
from model.errors import NotReady
from model.files import MANIFEST, read_json, read_npz, write_bytes, write_json
from model.gate import GateConfig

if TYPE_CHECKING:
    from model.onnx_search import OnnxSearch

__all__ = ["NOTHING", "Compare", "reason", "record", "table"]

NOTHING = "nothing to compare"
POOL = 400
"""Users of the champion's training whose answers tell what coverage was."""
SHOWN_DAYS = 30
EPOCH = date(1970, 1, 1)


class Compare:
    """Days of a home against one champion; what all days share is read once."""

    def __init__(self, stores: Stores, *, log: Callable[[str], None]) -> None:
        """Raises `NotReady` where there is no champion, or nothing it was trained on is in the warehouse."""
        champion = stores.registry.by_alias(CHAMPION)
        if champion is None:
            raise NotReady("there is no champion yet; run `miss materialize`")
        self.champion: ModelVersionInfo = champion
        self.bundle = stores.bundle(champion)
        log(f"comparing with champion version {champion.version}")
        self.items = read_npz(self.bundle / "items.npz")
        self.catalogue = stores.warehouse.items_frame()
        found, users, days = stores.warehouse.histories()
        ids = self.catalogue["item_id"].to_numpy(dtype=np.str_)
        place = {item: index for index, item in enumerate(self.items["item_id"].tolist())}
        ours = np.array([place.get(item, -1) for item in ids.tolist()], dtype=np.int64)
        self.offsets, self.behaviors = found.offsets, ours[found.items]
        self.sessions = sessions_of(self.offsets, self.behaviors, days)
        self.stored = read_npz(self.bundle / "histories.npz")
        lengths = dict(zip(self.stored["user_id"].tolist(), np.diff(self.stored["offsets"]).tolist(), strict=True))
        self.known = np.array([lengths.get(user, 0) for user in users.tolist()], dtype=np.int64)
        self.users = users
        trained = np.arange(len(days)) - np.repeat(self.offsets[:-1], found.lengths) < np.repeat(
            self.known, found.lengths
        )
        if not trained.any():
            raise NotReady(
                f"no behavior that champion version {champion.version} was trained on is in the warehouse; run `miss rebuild`"
            )
        ends = np.concatenate([[0], np.cumsum(np.minimum(self.known, found.lengths))]).astype(np.int64)
        training = sessions_of(ends, self.behaviors[trained], days[trained])
        self.reference = Reference(training, categories=self.items["categories"].tolist())

    def day(self, day: str) -> dict[str, Any]:
        """What was found of a day (ISO): {"day", "champion", "level", "why", "users", "behaviors", "figures", "bins"}."""
        number = (date.fromisoformat(day) - EPOCH).days
        sessions = self.sessions.where(self.sessions.days == number)
        about = {"day": day, "champion": {"version": self.champion.version, "digest": self.champion.digest}}
        about |= {"users": len(sessions), "behaviors": len(sessions.items)}
        if not len(sessions):
            return about | nothing(f"no behavior came on {day}")
        figures, bins = self.reference.figures(sessions)
        figures += self._live(sessions)
        own, of_items = catalogue_figures(
            self.items["item_id"],
            self.items["categories"].tolist(),
            self.catalogue["item_id"].to_numpy(dtype=np.str_),
            [str(each) if isinstance(each, str) else None for each in self.catalogue["categories"]],
            content=self._content(),
        )
        figures += own
        # a figure of few users among the day's many says nothing; a day of few users says nothing at all
        judged = [each for each in figures if each.level != "too few" or len(sessions) < MIN_USERS]
        told = [each.to_json() for each in figures]
        shown = {name: each.to_json() for name, each in (bins | of_items).items()}
        return about | {"level": level_of(judged), "why": reason(day, told), "figures": told, "bins": shown}

    def _content(self) -> dict[str, tuple[float, float]]:
        """Share of items with a description, and with a picture, then and now; nothing where the bundle does not say."""
        then = read_json(self.bundle / MANIFEST)["meta"].get("content", {})
        return {name: (float(share), float(self.catalogue[name].notna().mean())) for name, share in then.items()}

    # -- the champion's own answers ------------------------------------------------------------------------------------

    def _live(self, sessions: Any) -> list[Figure]:
        from model.drift_live import answers, coverage_figure, questions, recall_figure

        asked = questions(sessions, self.offsets, self.behaviors, known=self.known)
        if not len(asked):
            return []
        found, figures = answers(self._search, asked.seen, self._k), []
        if any(recall > 0 for recall, _ in self._evaluated.values()):
            figures.append(recall_figure(found, asked, self._evaluated, k=self._k))
        if len(self._pool) >= 2:
            figures.append(coverage_figure(found, self._pool, n_items=self._search.n_items, k=self._k))
        return figures

    @cached_property
    def _search(self) -> OnnxSearch:
        from model.onnx_search import OnnxSearch

        meta = read_json(self.bundle / MANIFEST)["meta"]["model"]
        return OnnxSearch(self.bundle / "retrieval.onnx", n_items=int(meta["n_items"]), beam=int(meta["beam"]))

    @property
    def _k(self) -> int:
        return min(GateConfig.for_catalogue(self._search.n_items).k, self._search.beam)

    @cached_property
    def _pool(self) -> NDArray[np.int64]:
        """Answers for some users of the champion's training."""
        from model.drift_live import answers

        offsets, items = self.stored["offsets"], self.stored["items"]
        some = np.random.default_rng(0).permutation(np.flatnonzero(np.diff(offsets) > 0))[:POOL]
        return answers(self._search, [items[offsets[u] : offsets[u + 1]] for u in some], self._k)

    @cached_property
    def _evaluated(self) -> dict[bool, tuple[float, int]]:
        """The champion's recall on its test items, apart for those that begin their user's day and those that do not."""
        from assets.evaluation import saved_evaluations
        from model.drift_live import hits_by_kind

        if not (own := saved_evaluations(self.bundle / "per_user")[:1]):
            return {}
        # the test item is the last that the champion knew of its user, in the order of its bundle
        place = {user: index for index, user in enumerate(self.users.tolist())}
        ids = self.stored["user_id"][own[0].users]
        ours = np.array([place.get(user, -1) for user in ids.tolist()], dtype=np.int64)
        last = self.offsets[np.maximum(ours, 0)] + self.known[np.maximum(ours, 0)] - 1
        begins = np.isin(last, self.sessions.offsets[:-1])
        return hits_by_kind(own[0].hits(self._k)[ours >= 0], begins[ours >= 0])


def nothing(why: str) -> dict[str, Any]:
    """What is said of a day on which there is nothing to compare."""
    return {"level": NOTHING, "why": why, "figures": [], "bins": {}}


def reason(day: str, figures: Sequence[Mapping[str, Any]], *, least: str = "warn") -> str:
    """Why a day is not as it was, for people: the figures at or beyond a level, and the threshold each has reached."""
    levels = ("warn", "act") if least == "warn" else ("act",)
    beyond = [each for each in figures if each["level"] in levels]
    told = [f"{each['name']} {each['value']:.2f} >= {each[each['level']]:g}" for each in beyond]
    return f"drift on {day}: {'; '.join(told)}" if told else ""


def table(document: Mapping[str, Any]) -> str:
    """A day's figures as Markdown."""
    if not document["figures"]:
        return str(document["why"])
    lines = ["| figure | value | unchanged | beyond chance from | level | |", "|---|---:|---:|---:|---|---|"]
    for each in document["figures"]:
        numbers = " | ".join(f"{each[name]:.3f}" for name in ("value", "reference", "noise"))
        lines.append(f"| {each['name']} | {numbers} | {each['level']} | {each['note']} |")
    return "\n".join(lines)


def record(root: Path, document: Mapping[str, Any]) -> dict[str, Path]:
    """Write a day's document and pictures under `root`; name of each picture -> its file."""
    from model.plots import bins_compared, drift_by_day

    day = document["day"]
    write_json(root / f"{day}.json", document)
    files = [path for path in sorted(root.glob("????-??-??.json")) if path.stem <= day]
    shown = [read_json(path) for path in files[-SHOWN_DAYS:]]
    values = {each["day"]: {f["name"]: f["value"] for f in each["figures"]} for each in shown if each["figures"]}
    acting = {each["day"]: [f["name"] for f in each["figures"] if f["level"] == "act"] for each in shown}
    pictures = {}
    if document["bins"]:
        pictures["bins"] = bins_compared(document["bins"], title=f"{day} beside the champion's training")
    if values:
        pictures["days"] = drift_by_day(values, acting=acting)
    for name, png in pictures.items():
        write_bytes(root / "pictures" / f"{day}-{name}.png", png)
    return {name: root / "pictures" / f"{day}-{name}.png" for name in pictures}
