"""Any order of trainings, verdicts, approvals, hands, kills and time: no version becomes champion without a verdict that holds.

The oracle does not ask the code under test: it looks at every row of the ledger as it is written.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from promotion_world import Killed, World

from assets.release.review import carry_out
from assets.stores.books import check_chain
from assets.stores.champion import EXPIRES_AFTER, LEDGER_ROW, MOVES, NOBODY
from assets.stores.registry import CHAMPION, PREVIOUS, REVIEW, REVIEW_BY, TRAINED_BY
from model.errors import MissError

PEOPLE = st.sampled_from(["ann", "bob"])


class Watched(World):
    """Remembers when each version was given the alias, and judges every row that makes a champion."""

    def __init__(self, *, two_people: bool) -> None:
        super().__init__()
        self.two_people = two_people
        self.given: dict[str, datetime] = {}
        self.illegal: list[str] = []

    def set_alias(self, alias: str, version: str) -> None:
        super().set_alias(alias, version)
        if alias == CHAMPION:
            self.given[version] = self.clock

    def append_ledger(self, **row: str) -> dict[str, Any]:
        if row["action"] in MOVES:
            self.illegal += [f"{row['action']} of version {row['version']}: {why}" for why in self._wrong(row)]
        return super().append_ledger(**row)

    def _wrong(self, row: dict[str, str]) -> list[str]:
        verdict, wrong = self.verdicts.get(row["bundle_digest"]), []
        if verdict is None or not verdict["passed"] or not all(r["passed"] for r in verdict["document"]["rules"]):
            return ["no passing verdict for its digest"]
        if self.held[row["version"]].digest != row["bundle_digest"]:
            wrong.append("another bundle")
        age = self.given.get(row["version"], self.clock) - datetime.fromisoformat(verdict["created_at"]).replace(
            tzinfo=UTC
        )
        if row["action"] != "rollback" and age > EXPIRES_AFTER:
            wrong.append(f"the verdict was {age.days} days old")
        if row["action"] == "rollback" and row["version"] not in {
            each["version"] for each in self.rows if each["action"] in MOVES
        }:
            wrong.append("it never was champion")
        if row["action"] == "bootstrap" and any(each["action"] in MOVES for each in self.rows):
            wrong.append("there was a champion before")
        trainer = self.held[row["version"]].tags.get(TRAINED_BY)
        if self.two_people and row["action"] == "promote" and row["actor"] in (trainer, NOBODY, ""):
            wrong.append(f"trained and approved by {row['actor']}")
        return wrong


class Promotions(RuleBasedStateMachine):
    """One home, many hands."""

    @initialize(two_people=st.booleans())
    def home(self, two_people: bool) -> None:
        self.world = Watched(two_people=two_people)

    def _do(self, step: Any) -> None:
        """A step may be refused, or killed half-way; whoever comes next finds what is left."""
        try:
            step(self.world.promotion(two_people=self.world.two_people))
        except (MissError, Killed):
            pass
        finally:
            self.world.fuse = -1

    def _any(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.world.held)), label="version")

    @rule(passed=st.sampled_from([True, False, None]), by=PEOPLE)
    @precondition(lambda self: len(self.world.held) < 6)
    def retrain(self, passed: bool | None, by: str) -> None:
        self.world.add(str(len(self.world.held) + 1), passed=passed, trained_by=by)

    @rule(data=st.data(), passed=st.booleans())
    @precondition(lambda self: self.world.held)
    def gate(self, data: st.DataObject, passed: bool) -> None:
        self.world.judge(self._any(data), passed=passed)

    @rule(data=st.data(), by=st.sampled_from(["", "ann", "bob"]))
    @precondition(lambda self: self.world.held)
    def approve(self, data: st.DataObject, by: str) -> None:
        self.world.held[self._any(data)].tags.update({REVIEW: "approved", REVIEW_BY: by})

    @rule(data=st.data(), by=PEOPLE)
    @precondition(lambda self: self.world.held)
    def promote(self, data: st.DataObject, by: str) -> None:
        version = self._any(data)
        self._do(lambda promotion: promotion.promote(version, actor=by, reason="x"))

    @rule(data=st.data())
    @precondition(lambda self: self.world.held)
    def bootstrap(self, data: st.DataObject) -> None:
        version = self._any(data)
        self._do(lambda promotion: promotion.bootstrap(version))

    @rule(data=st.data())
    @precondition(lambda self: self.world.held)
    def move_the_alias_by_hand(self, data: st.DataObject) -> None:
        version = self._any(data)
        self.world.names[CHAMPION] = version
        self.world.given[version] = self.world.clock

    @rule()
    def delete_the_alias_by_hand(self) -> None:
        self.world.names.pop(CHAMPION, None)

    @rule(by=PEOPLE)
    def roll_back(self, by: str) -> None:
        self._do(lambda promotion: promotion.rollback(actor=by, reason="x"))

    @rule()
    def look_for_reviews(self) -> None:
        self._do(lambda promotion: (promotion.reconcile(), carry_out(promotion)))

    @rule(days=st.integers(1, 9))
    def time_passes(self, days: int) -> None:
        self.world.clock += timedelta(days=days)

    @rule(write=st.integers(1, 8), after=st.booleans())
    def the_next_step_is_killed(self, write: int, after: bool) -> None:
        self.world.fuse, self.world.after = write, after

    @invariant()
    def no_version_was_promoted_without_a_verdict_that_held(self) -> None:
        world = getattr(self, "world", None)
        assert world is None or world.illegal == []

    def teardown(self) -> None:
        """Whatever was left, the next look settles it: aliases, ledger and tags agree, and the chain holds."""
        world = getattr(self, "world", None)
        if world is None:
            return
        world.fuse = -1
        world.promotion(two_people=world.two_people).reconcile()
        moves = [row for row in world.rows if row["action"] in MOVES]
        assert world.names.get(CHAMPION) == (moves[-1]["version"] if moves else None)
        if len(moves) > 1:
            assert world.names.get(PREVIOUS) == moves[-2]["version"]
        assert world.illegal == []
        check_chain(world.rows)
        hashes = {f"{row['seq']} {row['hash']}" for row in world.rows}
        assert all(each.tags.get(LEDGER_ROW, "") in hashes | {""} for each in world.held.values())


TestPromotions = Promotions.TestCase
TestPromotions.settings = settings(
    max_examples=1000, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
