"""Promotion: no version serves without a verdict for exactly its bytes, and no kill leaves aliases and ledger apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promotion_world import RULES, Killed, World

from assets.release.promotion import Promotion, status
from assets.stores.books import Books
from assets.stores.champion import LEDGER_ROW, MOVES, NOTE, RESTORE
from assets.stores.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from assets.stores.warehouse import Warehouse
from model.errors import BadInput, Corrupt, NotReady, Refused


@pytest.fixture
def world() -> World:
    """Version 1 is champion, 2 waits with a good verdict."""
    world = World()
    world.promotion().bootstrap(world.add("1"))
    world.add("2")
    return world


def test_the_first_version_that_passed_is_promoted_alone_and_later_ones_wait(world: World) -> None:
    assert world.names == {CHAMPION: "1", CHALLENGER: "2"}
    assert world.story() == [("bootstrap", "1", "miss")]
    assert world.promotion().bootstrap("2") is None
    first = world.promotion().bootstrap("1")
    assert first is not None
    assert first.version == "1"
    assert world.names == {CHAMPION: "1", CHALLENGER: "2"}
    assert len(world.rows) == 1


def test_promote_and_roll_back_move_both_aliases_and_are_written_down(world: World) -> None:
    promoted = world.promotion().promote("2", actor="ann", reason="better recall")
    assert promoted.aliases == (CHAMPION,)
    assert world.names == {CHAMPION: "2", PREVIOUS: "1"}
    told = {name: world.rows[-1][name] for name in ("actor", "action", "version", "bundle_digest", "reason")}
    assert told == {
        "actor": "ann",
        "action": "promote",
        "version": "2",
        "bundle_digest": "2" * 64,
        "reason": "better recall",
    }
    world.promotion().promote("2", actor="ann", reason="again")
    assert len(world.rows) == 2, "promoting the champion again is no event"
    assert world.promotion().rollback(actor="bob", reason="complaints").version == "1"
    assert world.names == {CHAMPION: "1", PREVIOUS: "2"}
    assert world.promotion().rollback(actor="bob", reason="they were wrong").version == "2"
    assert world.story()[2:] == [("rollback", "1", "bob"), ("rollback", "2", "bob")]
    assert not any(NOTE in each.tags for each in world.held.values())


def _missing(world: World) -> None:
    world.verdicts.pop("2" * 64)


def _failed(world: World) -> None:
    world.judge("2", passed=False, rules=[{"name": "beats popularity", "passed": False}])


def _inconsistent(world: World) -> None:
    world.judge("2", rules=[{"name": "tree", "passed": False}])


def _other_bundle(world: World) -> None:
    world.judge("2", bundle_digest="9" * 64)


def _changed_bytes(world: World) -> None:
    world.held["2"] = replace(world.held["2"], digest="9" * 64)


def _expired(world: World) -> None:
    world.clock += timedelta(days=7, seconds=1)


def _by_hand(world: World) -> None:
    world.held["2"] = replace(world.held["2"], digest="")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "there is no verdict for bundle 2222222222222222"),
        (_failed, r"the gate failed version 2 \(beats popularity\)"),
        (_inconsistent, r"the gate failed version 2 \(tree\)"),
        (_other_bundle, "is for bundle 9999999999999999, not 2222222222222222"),
        (_changed_bytes, "there is no verdict for bundle 9999999999999999"),
        (_expired, "older than 7 days"),
        (_by_hand, "has no digest"),
    ],
)
def test_without_a_good_fresh_verdict_for_these_bytes_nothing_moves_and_the_refusal_is_written_down(
    world: World, spoil: Callable[[World], None], words: str
) -> None:
    spoil(world)
    with pytest.raises(Refused, match=words) as refused:
        world.promotion().promote("2", actor="ann", reason="please")
    assert "miss materialize" in str(refused.value) or "train another" in str(refused.value)
    assert world.names == {CHAMPION: "1", CHALLENGER: "2"}
    assert world.story() == [("bootstrap", "1", "miss"), ("refuse", "2", "ann")]
    empty = World()
    empty.clock = world.clock
    empty.held, empty.verdicts = {"2": replace(world.held["2"], tags={})}, world.verdicts
    with pytest.raises(Refused, match=words):
        empty.promotion().bootstrap("2")
    assert empty.names == {}


def test_a_verdict_of_seven_days_is_still_good(world: World) -> None:
    world.clock += timedelta(days=7)
    assert world.promotion().promote("2", actor="ann", reason="late").version == "2"


def test_what_is_not_there_is_said(world: World) -> None:
    with pytest.raises(BadInput):
        world.promotion().promote("77", actor="ann", reason="typo")
    with pytest.raises(NotReady, match=r"no previous version.*miss promote"):
        world.promotion().rollback(actor="ann", reason="now")
    assert len(world.rows) == 1


def test_rolling_back_does_not_wait_for_a_new_verdict_but_never_goes_to_one_that_failed(world: World) -> None:
    world.promotion().promote("2", actor="ann", reason="x")
    world.clock += timedelta(days=300)
    assert world.promotion().rollback(actor="bob", reason="x").version == "1"
    world.judge("2", passed=False)
    with pytest.raises(Refused, match="the gate failed version 2"):
        world.promotion().rollback(actor="bob", reason="x")
    assert world.names[CHAMPION] == "1"


def test_a_ledger_that_lost_its_end_or_was_written_anew_is_told_from_what_mlflow_knows(world: World) -> None:
    world.promotion().promote("2", actor="ann", reason="better")
    champion = world.promotion().champion
    assert champion.check_ledger() == 2
    assert world.held["2"].tags[LEDGER_ROW] == f"2 {world.rows[1]['hash']}"
    whole = list(world.rows)
    world.rows.pop()
    with pytest.raises(Corrupt, match=r"lacks row 2, which MLflow's version 2 tells of"):
        champion.check_ledger()
    world.append_ledger(actor="eve", action="promote", version="2", bundle_digest="2" * 64, reason="better")
    with pytest.raises(Corrupt, match="cut off or written anew"):
        champion.check_ledger()
    world.rows = [whole[0] | {"actor": "eve"}, whole[1]]
    with pytest.raises(Corrupt, match=r"row 1 \(bootstrap of version 1 by eve\) is not what was appended"):
        champion.check_ledger()


OPERATIONS: dict[str, Callable[[World], Any]] = {
    "bootstrap": lambda world: world.promotion().bootstrap("1"),
    "promote": lambda world: world.promotion().promote("3", actor="ann", reason="better"),
    "rollback": lambda world: world.promotion().rollback(actor="bob", reason="worse"),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again_after_days", [0, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_any_write_and_run_again_it_ends_as_if_nothing_had_happened(
    name: str, after: bool, again_after_days: int
) -> None:
    def prepared() -> World:
        world = World()
        world.add("1")
        if name != "bootstrap":
            world.promotion().bootstrap("1")
            world.promotion().promote(world.add("2"), actor="ann", reason="first")
            world.add("3")
        return world

    whole = prepared()
    OPERATIONS[name](whole)
    kills = 0
    for fuse in range(1, 20):
        world = prepared()
        world.fuse, world.after = fuse, after
        try:
            OPERATIONS[name](world)
        except Killed:
            kills += 1
        else:
            break
        world.fuse = -1
        if name == "rollback" and (world.names, world.story(), fuse) == (whole.names, whole.story(), kills):
            notes = [NOTE in each.tags for each in world.held.values()]
            if not any(notes):
                continue  # all was done before the kill: another `rollback` means another one
        moved = world.names.get(CHAMPION) == whole.names[CHAMPION]
        world.clock += timedelta(days=again_after_days)
        if again_after_days and not moved and name != "rollback":
            with pytest.raises(Refused, match="older"):  # nothing was begun that could be seen: a new decision
                OPERATIONS[name](world)
            continue
        OPERATIONS[name](world)
        assert (world.names, world.story()) == (whole.names, whole.story()), fuse
        assert [set(each.tags) for each in world.held.values()] == [set(each.tags) for each in whole.held.values()]
        champion, newest = world.held[world.names[CHAMPION]], world.rows[-1]
        assert champion.tags[LEDGER_ROW] == f"{newest['seq']} {newest['hash']}"
        assert world.rows[-1]["reason"] == whole.rows[-1]["reason"], "who and why survive the kill"
    assert kills >= 4


def test_an_alias_moved_by_hand_is_an_approval_only_with_a_good_verdict(world: World) -> None:
    world.names[CHAMPION] = "2"
    assert world.promotion().reconcile() == {
        "action": "promote",
        "actor": "mlflow",
        "reason": "alias champion was moved by hand",
        "version": "2",
    }
    assert world.names == {CHAMPION: "2", PREVIOUS: "1"}
    assert world.promotion().reconcile() is None
    world.names[CHAMPION] = world.add("3", passed=None)
    done = world.promotion().reconcile()
    assert done is not None
    assert (done["action"], done["version"]) == (RESTORE, "3")
    assert "put back: there is no verdict" in done["reason"]
    assert world.names == {CHAMPION: "2", PREVIOUS: "1", CHALLENGER: "3"}
    del world.names[CHAMPION]
    done = world.promotion().reconcile()
    assert done is not None
    assert "deleted by hand" in done["reason"]
    assert world.names[CHAMPION] == "2"
    world.clock += timedelta(days=90)
    world.names[CHAMPION] = "1"  # by hand, to the one that was champion before: a rollback
    done = world.promotion().reconcile()
    assert done is not None
    assert done["action"] == "rollback"
    assert world.names[PREVIOUS] == "2"
    assert [row["action"] for row in world.rows] == ["bootstrap", "promote", RESTORE, RESTORE, "rollback"]


def test_a_first_champion_set_by_hand_without_a_verdict_is_taken_away() -> None:
    world = World()
    world.names[CHAMPION] = world.add("1", passed=None)
    done = world.promotion().reconcile()
    assert done is not None
    assert done["action"] == RESTORE
    assert CHAMPION not in world.names


def test_a_note_left_by_a_kill_is_not_believed_for_another_move(world: World) -> None:
    world.fuse, world.after = 1, True
    with pytest.raises(Killed):  # after the note on version 2, before its alias
        world.promotion().promote("2", actor="ann", reason="never finished")
    world.fuse = -1
    world.promotion().promote(world.add("3"), actor="bob", reason="another")
    world.names[CHAMPION] = "2"
    done = world.promotion().reconcile()
    assert done is not None
    assert done["actor"] == "mlflow"


STEPS = st.sampled_from(
    ["add", "add unjudged", "add failed", "promote", "rollback", "hand", "drop", "expire", "reconcile"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(STEPS, st.integers(0, 9), st.integers(0, 12), st.booleans()), max_size=14))
def test_no_sequence_of_events_ends_with_a_champion_that_never_passed(steps: list[tuple[str, int, int, bool]]) -> None:
    world = World()
    for step, which, fuse, after in steps:
        world.fuse, world.after = fuse or -1, after
        with contextlib.suppress(Killed, Refused, NotReady, BadInput):
            version = str(which)
            if step.startswith("add") and version not in world.held:
                world.add(version, passed={"add": True, "add unjudged": None, "add failed": False}[step])
                world.promotion().bootstrap(version)
            elif step == "promote":
                world.promotion().promote(version, actor="ann", reason="x")
            elif step == "rollback":
                world.promotion().rollback(actor="ann", reason="x")
            elif step == "hand" and version in world.held:
                world.names[CHAMPION] = version
            elif step == "drop":
                world.names.pop(CHAMPION, None)
            elif step == "expire":
                world.clock += timedelta(days=4)
            elif step == "reconcile":
                world.promotion().reconcile()
    world.fuse = -1
    world.promotion().reconcile()
    moves = [row for row in world.rows if row["action"] in MOVES]
    assert all(world.verdicts[row["bundle_digest"]]["passed"] for row in moves)
    assert world.names.get(CHAMPION) == (moves[-1]["version"] if moves else None)
    assert world.names.get(PREVIOUS) == (moves[-2]["version"] if len(moves) > 1 else None)
    assert world.promotion().reconcile() is None, "a second look finds nothing to do"


def test_on_real_stores_a_kill_between_alias_and_ledger_is_finished(
    registry: Registry, bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books, warehouse = Books(tmp_path / "books.duckdb"), Warehouse(tmp_path / "warehouse.duckdb")
    promotion = Promotion(books, registry)
    empty = {"champion": None, "challenger": None, "warehouse": {"items": 0, "users": 0, "behaviors": 0}}
    assert status(warehouse, books, registry) == empty
    versions = []
    for text in ("a", "b"):
        with registry.run("candidate") as run:
            versions.append(registry.register(bundle(text), run_id=run.run_id))
        digest = registry.version(versions[-1]).digest
        books.record_verdict(digest, True, {"passed": True, "rules": RULES, "bundle_digest": digest})
        promotion.bootstrap(versions[-1])
    told = status(warehouse, books, registry)
    assert (told["champion"]["version"], told["challenger"]["version"]) == ("1", "2")
    rule = {"name": "parity", "value": 0.0, "bound": 1e-4, "baseline": None, "passed": True}
    assert told["champion"]["verdict"] == {"passed": True, "rules": [rule]}
    assert set(told["champion"]["digests"]) == {"bundle", "retrieval.onnx", "evaluation.json"}

    def killed(**row: str) -> int:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(books, "append_ledger", killed)
        with pytest.raises(Killed):
            promotion.promote("2", actor="ann", reason="better")
    assert registry.aliases()[CHAMPION] == "2"
    assert [row["action"] for row in books.ledger()] == ["bootstrap"]
    assert Promotion(books, registry).promote("2", actor="someone else", reason="again").version == "2"
    rows = [(row["action"], row["version"], row["actor"], row["reason"]) for row in books.ledger()]
    assert rows[1:] == [("promote", "2", "ann", "better")]
    assert registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}
    assert NOTE not in registry.version("2").tags
    assert promotion.rollback(actor="bob", reason="worse").version == "1"
    assert registry.aliases() == {CHAMPION: "1", PREVIOUS: "2"}
    assert [each.tags.get(NOTE) for each in registry.versions()] == [None, None]
    assert status(warehouse, books, registry)["champion"]["version"] == "1"
    promotion.promote("2", actor="ann", reason="it was not the model")
    assert registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}
    with registry.run("untested") as run:
        third = registry.register(bundle("c"), run_id=run.run_id)
    with pytest.raises(Refused, match="no verdict"):
        promotion.promote(third, actor="ann", reason="hurry")
    registry.set_alias(CHAMPION, third)
    done = promotion.reconcile()
    assert done is not None
    assert done["action"] == RESTORE
    assert registry.aliases() == {CHAMPION: "2", PREVIOUS: "1", CHALLENGER: third}
