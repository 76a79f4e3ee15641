"""Reviews in MLflow: what a reviewer says there is done once, answered there, and never done without a verdict."""

from __future__ import annotations

from datetime import timedelta

import pytest
from promotion_world import Killed, World

from assets.release.review import REVIEW_ANSWER, carry_out, waiting
from assets.stores.champion import NOBODY, RESTORE
from assets.stores.registry import CHALLENGER, CHAMPION, PREVIOUS, REVIEW, REVIEW_BY, REVIEW_REASON
from model.errors import Refused


@pytest.fixture
def world() -> World:
    """Version 1 is champion, 2 waits with a good verdict."""
    world = World()
    world.promotion().bootstrap(world.add("1"))
    world.add("2")
    return world


def approve(world: World, version: str, *, by: str = "", reason: str = "") -> None:
    """As a reviewer does, in MLflow's UI: tags that are not there are not set."""
    tags = {REVIEW: "approved", REVIEW_BY: by, REVIEW_REASON: reason}
    world.held[version].tags.update({name: value for name, value in tags.items() if value})


def answer(world: World, version: str) -> tuple[str, str]:
    tags = world.held[version].tags
    return tags[REVIEW], tags[REVIEW_ANSWER]


def test_an_approval_is_carried_out_once_and_answered(world: World) -> None:
    assert waiting(world.promotion())["reasons"] == []
    approve(world, "2", by="ann", reason="better on the tail")
    assert waiting(world.promotion())["reasons"] == ["version 2 was approved"]
    assert carry_out(world.promotion()) == [{"version": "2", "review": "promoted", "answer": "it is the champion now"}]
    assert world.names == {CHAMPION: "2", PREVIOUS: "1"}
    assert (world.rows[-1]["actor"], world.rows[-1]["reason"]) == ("ann", "better on the tail")
    assert answer(world, "2")[0] == "promoted"
    world.promotion().rollback(actor="bob", reason="complaints")
    assert carry_out(world.promotion()) == [], "an approval that was carried out does not come back after a rollback"
    assert waiting(world.promotion())["reasons"] == []
    approve(world, "2", by="ann")
    assert carry_out(world.promotion())[0]["review"] == "promoted", "said again, it is done again"


def test_an_approval_without_a_name_is_nobodys(world: World) -> None:
    world.held["2"].tags[REVIEW] = " Approved "
    carry_out(world.promotion())
    assert (world.rows[-1]["actor"], world.rows[-1]["reason"]) == (NOBODY, "approved in MLflow")


def test_an_approval_of_what_the_gate_did_not_pass_is_refused_with_the_reason(world: World) -> None:
    world.clock += timedelta(days=8)
    approve(world, "2", by="ann")
    carry_out(world.promotion())
    review, why = answer(world, "2")
    assert review == "refused"
    assert "older than 7 days" in why
    assert world.names == {CHAMPION: "1", CHALLENGER: "2"}
    assert world.story()[-1] == ("refuse", "2", "ann")
    world.judge("2")
    assert carry_out(world.promotion()) == [], "a refusal stands until somebody approves again"


def test_of_several_approvals_the_newest_version_counts(world: World) -> None:
    world.add("3")
    approve(world, "2", by="ann")
    approve(world, "3", by="bob")
    assert [each["review"] for each in carry_out(world.promotion())] == ["promoted", "superseded"]
    assert world.names[CHAMPION] == "3"
    assert answer(world, "2") == ("superseded", "a newer version was approved")
    assert len(world.rows) == 2


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write_an_approval_is_carried_out_by_the_next_look(after: bool) -> None:
    kills = 0
    for fuse in range(1, 30):
        world = World()
        world.promotion().bootstrap(world.add("1"))
        approve(world, world.add("2"), by="ann")
        world.fuse, world.after = fuse, after
        try:
            carry_out(world.promotion())
        except Killed:
            kills += 1
        else:
            break
        world.fuse = -1
        if waiting(world.promotion())["reasons"]:
            world.promotion().reconcile()
            carry_out(world.promotion())
        assert world.names == {CHAMPION: "2", PREVIOUS: "1"}, fuse
        assert [(row["action"], row["actor"]) for row in world.rows] == [("bootstrap", "miss"), ("promote", "ann")]
        assert answer(world, "2")[0] == "promoted"
    assert kills >= 5


def test_an_alias_put_back_is_a_reason_to_look_until_it_was_looked_at(world: World) -> None:
    world.names[CHAMPION] = world.add("3", passed=None)
    assert waiting(world.promotion())["reasons"] == ["alias champion is not where the ledger has it"]
    world.promotion().reconcile()  # as any command does that reads the champion
    (told,) = waiting(world.promotion(), seen=1)["reasons"]
    assert "put back" in told
    assert waiting(world.promotion(), seen=2)["reasons"] == []


# -- two people ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(world: World) -> World:
    """Version 3 was trained by ann, and passed."""
    world.add("3", trained_by="ann")
    return world


def test_whoever_trained_cannot_promote_by_any_way(strict: World) -> None:
    promotion = strict.promotion(two_people=True)
    with pytest.raises(Refused, match=r"ann trained version 3.*ask somebody else"):
        promotion.promote("3", actor="ann", reason="mine")
    approve(strict, "3", by="ann")
    carry_out(promotion)
    assert "ann trained version 3" in answer(strict, "3")[1]
    strict.names[CHAMPION] = "3"  # tag review_by still says ann
    done = promotion.reconcile()
    assert done is not None
    assert done["action"] == RESTORE
    assert strict.names[CHAMPION] == "1"
    assert promotion.promote("3", actor="bob", reason="checked").version == "3"


def test_an_alias_moved_by_nobody_known_does_not_count_where_two_are_asked(strict: World) -> None:
    promotion = strict.promotion(two_people=True)
    strict.names[CHAMPION] = "3"
    done = promotion.reconcile()
    assert done is not None
    assert "put a name in its tag review_by" in done["reason"]
    strict.held["3"].tags[REVIEW_BY] = "bob"
    strict.names[CHAMPION] = "3"
    done = promotion.reconcile()
    assert done is not None
    assert (done["action"], done["actor"]) == ("promote", "bob")


def test_a_version_that_does_not_say_who_trained_it_needs_that_first(strict: World) -> None:
    strict.held["3"].tags.clear()
    with pytest.raises(Refused, match="does not say who trained it"):
        strict.promotion(two_people=True).promote("3", actor="bob", reason="x")


def test_a_rollback_and_a_first_champion_need_no_second_person(strict: World) -> None:
    promotion = strict.promotion(two_people=True)
    promotion.promote("3", actor="bob", reason="checked")
    assert promotion.rollback(actor="ann", reason="now").version == "1"
    first = World()
    assert first.promotion(two_people=True).bootstrap(first.add("1", trained_by="miss")) is not None
