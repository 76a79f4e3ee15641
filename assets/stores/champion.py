"""Which version is the champion: MLflow's aliases and the ledger, kept in step.

- The ledger is what counts: its last row that made a champion names the version that `champion` must have, the row before
  it the one that `previous` must have. `reconcile` brings the aliases back to that.
- A move leaves a note on the version (who, why, from which one), moves the alias, reads it back, writes the row, and
  takes the note away. Killed at any point, the next `reconcile` finishes it with the note's actor and reason.
- An alias that somebody moved by hand in MLflow is an approval where the verdict for exactly that bundle is good and
  fresh: it gets its row. Otherwise it is put back, with a row that says so.
- Where two people are required, whoever trained a version cannot promote it, and an alias moved in MLflow, which does not say by
  whom, counts only with a name in the version's tag `review_by`. A home's first champion and a rollback need no second person.
- A verdict counts for one bundle digest, when it passed in every rule and is at most seven days old. Going back to a
  version that was champion before asks for a passing verdict of any age: a rollback must not wait for a gate.

- A machine whose ledger is not the one that MLflow tells of moves nothing: it would put back what was rightly promoted elsewhere.
  Reading the champion needs no ledger (`noted`), so that a service needs MLflow alone.

Not covered: two machines with a ledger each (promote where the ledger is; the lock is that machine's), the gate itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from assets.stores.books import Books, check_chain
from assets.stores.registry import CHALLENGER, CHAMPION, PREVIOUS, REVIEW_BY, TRAINED_BY, ModelVersionInfo, Registry
from model.errors import BadInput, Busy, Corrupt, NotReady, Refused

__all__ = ["EXPIRES_AFTER", "LEDGER_CHAMPION", "LEDGER_ROW", "MOVES", "NOBODY", "RESTORE", "Champion", "utc_now"]

EXPIRES_AFTER = timedelta(days=7)
MOVES, RESTORE = ("bootstrap", "promote", "rollback"), "restore"
NOTE = "promotion/unfinished"
NOBODY = "mlflow"
"""The ledger's actor where MLflow does not say who moved an alias."""
LEDGER_ROW = "ledger/row"
"""Tag of a version: number and hash of the newest ledger row that is about it, so that a ledger cut off or replaced shows."""

LEDGER_CHAMPION = "ledger/champion"
"""Tag of a version: number of the ledger row that made it champion last. The highest is the champion, for who has no ledger."""


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


def _utc(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _row_tag(row: dict[str, Any]) -> str:
    return f"{row['seq']} {row['hash']}"


class Champion:
    """The aliases of `registry` under the rules above; every method holds the registry's lock."""

    def __init__(
        self, books: Books, registry: Registry, *, two_people: bool = False, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.books, self.registry, self.two_people, self.now = books, registry, two_people, now

    def moves(self) -> list[dict[str, Any]]:
        """The ledger's rows that made a champion, oldest first."""
        return [row for row in self.books.ledger() if row["action"] in MOVES]

    def objection(
        self,
        target: ModelVersionInfo,
        *,
        by: str | None = None,
        at: datetime | None = None,
        within: timedelta | None = EXPIRES_AFTER,
    ) -> str | None:
        """Why `target` may not be champion (by the verdict `at` a time, now by default), as a clause; None where it may.

        by: who approves it; None where nobody has to.
        """
        gate = "run `miss materialize` to have it judged"
        if not target.digest:
            return f"version {target.version} was not registered as a bundle and has no digest; {gate}"
        verdict = self.books.verdict(target.digest)
        if verdict is None:
            return f"there is no verdict for bundle {target.digest[:16]} of version {target.version}; {gate}"
        document = verdict.get("document") or {}
        judged = {verdict.get("bundle_digest", target.digest), document.get("bundle_digest", target.digest)}
        if others := judged - {target.digest}:
            return f"the verdict of version {target.version} is for bundle {min(others)[:16]}, not {target.digest[:16]}; {gate}"
        failed = [str(rule.get("name")) for rule in document.get("rules", []) if rule.get("passed") not in (True, None)]
        if verdict.get("passed") is not True or failed:
            return (
                f"the gate failed version {target.version} ({', '.join(failed) or 'see `miss status`'}); train another"
            )
        created = _utc(str(verdict["created_at"]))
        if within is not None and (at or self.now()) - created > within:
            told = f"{created:%Y-%m-%d %H:%M}"
            return f"the verdict of version {target.version} of {told} UTC is older than {within.days} days; {gate}"
        return None if by is None or not self.two_people else self._second_person(target, by)

    @staticmethod
    def _second_person(target: ModelVersionInfo, by: str) -> str | None:
        trainer, asked = (
            target.tags.get(TRAINED_BY),
            "and MISS_REQUIRE_TWO_PEOPLE asks for another person than who trained it",
        )
        if not trainer:
            return f"version {target.version} does not say who trained it, {asked}; train it again"
        if by in ("", NOBODY):
            return (
                f"MLflow does not say who approved version {target.version}, {asked}; put a name in its tag {REVIEW_BY}"
            )
        return f"{by} trained version {target.version}, {asked}; ask somebody else" if by == trainer else None

    def check_ledger(self) -> int:
        """Rows of the ledger, all checked; `Corrupt` where one is not what was appended, or one that MLflow tells of is missing."""
        rows = self.books.ledger()
        check_chain(rows)
        if lacking := self._lacking(rows):
            raise Corrupt(
                f"the ledger lacks {lacking}: it was cut off or written anew; restore the file from a backup, and ask who could "
                "write to it"
            )
        return len(rows)

    def _lacking(self, rows: list[dict[str, Any]]) -> str:
        """A row that MLflow tells of and this ledger does not have, in words; "" where there is none."""
        hashes = {_row_tag(row) for row in rows}
        for version in self.registry.versions():
            told = version.tags.get(LEDGER_ROW)
            if told is not None and told not in hashes:
                return f"row {told.split()[0]}, which MLflow's version {version.version} tells of"
        return ""

    def elsewhere(self) -> bool:
        """Whether another machine keeps the ledger: this one has none at all, and the MLflow that several share tells of one."""
        return self.registry.shared and not self.books.ledger() and bool(self._lacking([]))

    def noted(self) -> ModelVersionInfo | None:
        """The champion as the ledger's machine noted it in MLflow, wherever a hand has put the alias since."""
        versions = [each for each in self.registry.versions() if each.tags.get(LEDGER_CHAMPION, "").isdecimal()]
        return max(versions, key=lambda each: int(each.tags[LEDGER_CHAMPION]), default=None)

    def refuse(self, target: ModelVersionInfo, *, actor: str, why: str) -> None:
        """Write the refusal down and raise it."""
        self._row(target, actor=actor, action="refuse", reason=why)
        raise Refused(why)

    def move(self, target: ModelVersionInfo, *, action: str, actor: str, reason: str) -> ModelVersionInfo:
        """Make `target` champion, in an order in which a kill anywhere can be finished; returns it as read back."""
        with self.registry.lock():
            told = self.moves()
            note = {"action": action, "actor": actor, "reason": reason, "at": self.now().isoformat()}
            note["from"] = str(told[-1]["version"]) if told else ""
            self.registry.set_tags(target.version, {NOTE: json.dumps(note)})
            self.registry.set_alias(CHAMPION, target.version)
            found = self.registry.by_alias(CHAMPION)
            if found is None or (found.version, found.digest) != (target.version, target.digest):
                raise Busy(f"the registry did not take version {target.version} as champion; try again")
            self._row(target, action=action, actor=actor, reason=reason)
            self._tidy()
            return self.registry.version(target.version)

    def reconcile(self) -> dict[str, str] | None:
        """Bring aliases and ledger together; None where they were, else {"action", "version", "actor", "reason"}.

        The action is the one that was finished, or "restore" where an alias was put back. Raises NotReady, and moves nothing,
        where MLflow tells of a ledger that is not this one.
        """
        with self.registry.lock():
            if lacking := self._lacking(self.books.ledger()):
                raise NotReady(
                    f"this home's ledger lacks {lacking}; promote on the machine that has it, or bring books.duckdb back from a "
                    "backup; another catalogue on the same MLflow needs a MISS_MODEL_NAME of its own"
                )
            rows = self.moves()
            champion = self.registry.by_alias(CHAMPION)
            note = self._note(champion)
            last = (str(rows[-1]["version"]), str(rows[-1]["bundle_digest"])) if rows else None
            done = None
            if (None if champion is None else (champion.version, champion.digest)) != last:
                done = self._settle(champion, note, rows)
            elif champion is not None and note:  # the row is there, what follows it is not
                done = {name: note[name] for name in ("action", "actor", "reason")} | {"version": champion.version}
            self._tidy()
            return done

    # -- inside --------------------------------------------------------------------------------------------------------

    def _row(self, target: ModelVersionInfo, *, action: str, actor: str, reason: str) -> None:
        row = self.books.append_ledger(
            actor=actor, action=action, version=target.version, bundle_digest=target.digest, reason=reason
        )
        self._mark(target.version, LEDGER_ROW, _row_tag(row))

    def _mark(self, version: str, tag: str, told: str) -> None:
        if self.registry.version(version).tags.get(tag) != told:
            self.registry.set_tags(version, {tag: told})

    @staticmethod
    def _note(champion: ModelVersionInfo | None) -> dict[str, str]:
        try:
            note = json.loads(champion.tags[NOTE]) if champion else {}
        except (KeyError, ValueError):  # none, or written by somebody else
            return {}
        known = isinstance(note, dict) and {"action", "actor", "reason", "at", "from"} <= set(note)
        return note if known and note["action"] in MOVES else {}

    def _holds(self, row: dict[str, Any]) -> ModelVersionInfo | None:
        """The version a row names, None where the registry has it no more."""
        try:
            found = self.registry.version(str(row["version"]))
        except BadInput:
            return None
        return found if found.digest == row["bundle_digest"] else None

    def _settle(
        self, champion: ModelVersionInfo | None, note: dict[str, str], rows: list[dict[str, Any]]
    ) -> dict[str, str] | None:
        told = self._holds(rows[-1]) if rows else None
        hand = (champion.tags.get(REVIEW_BY) if champion else "") or NOBODY
        by_hand = {"actor": hand, "reason": f"alias {CHAMPION} was moved by hand", "at": self.now().isoformat()}
        if champion is None:
            if told is None:  # another registry than the ledger's: nothing to go back to
                return None
            why = f"alias {CHAMPION} was deleted by hand and put back; use `miss rollback` to leave a version"
        else:
            before = (str(rows[-2]["version"]), rows[-2]["bundle_digest"]) if len(rows) > 1 else None
            back = before == (champion.version, champion.digest)
            if not note or note["from"] != (str(rows[-1]["version"]) if rows else ""):
                note = by_hand | {"action": "rollback" if back else "promote" if rows else "bootstrap"}
            within = None if note["action"] == "rollback" and back else EXPIRES_AFTER
            by = note["actor"] if note["action"] == "promote" else None
            why = self.objection(champion, by=by, at=_utc(note["at"]), within=within) or ""
            if not why:
                done = {name: note[name] for name in ("action", "actor", "reason")}
                self._row(champion, **done)
                return done | {"version": champion.version}
            why = f"alias {CHAMPION} was moved by hand and put back: {why}"
        if told is None:
            self.registry.delete_alias(CHAMPION)
        else:
            self.registry.set_alias(CHAMPION, told.version)
        moved = champion or told
        assert moved is not None
        self._row(moved, action=RESTORE, actor=by_hand["actor"], reason=why)
        return {"action": RESTORE, "actor": by_hand["actor"], "reason": why, "version": moved.version}

    def _tidy(self) -> None:
        """What follows from the ledger: `previous`, the tag of the row, no challenger that is champion; at last the note goes."""
        rows = self.moves()
        previous = self._holds(rows[-2]) if len(rows) > 1 else None
        aliases = self.registry.aliases()
        if previous is None:
            self.registry.delete_alias(PREVIOUS)
        elif aliases.get(PREVIOUS) != previous.version:
            self.registry.set_alias(PREVIOUS, previous.version)
        if CHAMPION in aliases:
            about = [row for row in self.books.ledger() if str(row["version"]) == aliases[CHAMPION]]
            if about:
                self._mark(aliases[CHAMPION], LEDGER_ROW, _row_tag(about[-1]))
            if rows and str(rows[-1]["version"]) == aliases[CHAMPION]:
                self._mark(aliases[CHAMPION], LEDGER_CHAMPION, str(rows[-1]["seq"]))
            if aliases.get(CHALLENGER) == aliases[CHAMPION]:
                self.registry.delete_alias(CHALLENGER)
            self.registry.delete_tag(aliases[CHAMPION], NOTE)
