"""Promotion: which registered bundle the service may load, on whose word and by which verdict.

- `promote` and `bootstrap` ask for a passing verdict for exactly the version's digest, at most seven days old.
- `rollback` goes to `previous` at once; running it twice goes back again, running it again after a kill does not.
- Everything starts by finishing what a kill left (`assets.stores.champion`), under one lock; refusals are in the ledger too.

Not covered: the gate that writes verdicts; what reviewers say in MLflow (`assets.release.review`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from assets.stores.books import Books
from assets.stores.champion import Champion, utc_now
from assets.stores.registry import CHALLENGER, CHAMPION, PREVIOUS, ModelVersionInfo, Registry
from assets.stores.warehouse import Warehouse
from model.errors import NotReady

__all__ = ["Promotion", "status"]


class Promotion:
    """Moves `champion` and `previous` of a registry and keeps the ledger; `now` is the clock of the verdicts' age."""

    def __init__(
        self, books: Books, registry: Registry, *, two_people: bool = False, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.books, self.registry = books, registry
        self.champion = Champion(books, registry, two_people=two_people, now=now)

    def promote(self, version: str, *, actor: str, reason: str) -> ModelVersionInfo:
        """Make `version` champion, the champion before it `previous`; nothing happens where it is champion already.

        Raises `Refused` (and writes it down) where the verdict for this digest is missing, failed, for another bundle or
        older than seven days; `BadInput` where the version does not exist.
        """
        with self.registry.lock():
            self.champion.reconcile()
            target = self.registry.version(version)
            return target if CHAMPION in target.aliases else self._move(target, "promote", actor, reason)

    def bootstrap(
        self, version: str, *, actor: str = "miss", reason: str = "the home had no champion"
    ) -> ModelVersionInfo | None:
        """Make `version` the home's first champion; None where another version is champion, which then stays.

        Raises as `promote` does.
        """
        with self.registry.lock():
            self.champion.reconcile()
            target = self.registry.version(version)
            if self.registry.by_alias(CHAMPION) is not None:
                return target if CHAMPION in target.aliases else None
            return self._move(target, "bootstrap", actor, reason)

    def rollback(self, *, actor: str, reason: str) -> ModelVersionInfo:
        """Make `previous` champion again, and the champion `previous`; finishes a rollback that was killed half-way.

        Raises `NotReady` where there is no previous version, `Refused` where that one never passed the gate.
        """
        with self.registry.lock():
            finished = self.champion.reconcile()
            if finished is not None and finished["action"] == "rollback":
                return self.registry.version(finished["version"])
            target = self.registry.by_alias(PREVIOUS)
            if target is None:
                raise NotReady("there is no previous version to go back to; promote a second one with `miss promote`")
            return self._move(target, "rollback", actor, reason)

    def reconcile(self) -> dict[str, str] | None:
        """Finish or put back what a kill or a hand left between aliases and ledger; None where they agreed."""
        return self.champion.reconcile()

    def _move(self, target: ModelVersionInfo, action: str, actor: str, reason: str) -> ModelVersionInfo:
        if action == "rollback":
            objection = self.champion.objection(target, within=None)
        else:
            objection = self.champion.objection(target, by=actor if action == "promote" else None)
        if objection is not None:
            self.champion.refuse(target, actor=actor, why=objection)
        return self.champion.move(target, action=action, actor=actor, reason=reason)


def status(warehouse: Warehouse, books: Books, registry: Registry) -> dict[str, Any]:
    """What is promoted, what waits and what the warehouse holds; changes nothing, also where nothing is there yet.

    {"champion": {"version", "digests": {"bundle", <file>: sha256}, "verdict": {"passed", "rules": [{"name", "value",
    "bound", "baseline", "passed"}]} or None} or None, "challenger": likewise, "warehouse": {"items", "users", "behaviors"}}
    """

    def told(alias: str) -> dict[str, Any] | None:
        found = registry.by_alias(alias)
        if found is None:
            return None
        files = {name.removeprefix("digest/"): each for name, each in found.tags.items() if name.startswith("digest/")}
        verdict = books.verdict(found.digest)
        if verdict is not None:
            names = ("name", "value", "bound", "baseline", "passed")
            rules = [{name: rule.get(name) for name in names} for rule in verdict["document"].get("rules", [])]
            verdict = {"passed": verdict["passed"], "rules": rules}
        return {"version": found.version, "digests": {"bundle": found.digest} | files, "verdict": verdict}

    counts = warehouse.counts()
    return {
        "champion": told(CHAMPION),
        "challenger": told(CHALLENGER),
        "warehouse": {name: counts[name] for name in ("items", "users", "behaviors")},
    }
