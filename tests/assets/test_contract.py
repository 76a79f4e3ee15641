"""The data contract: what a team would lose if broken rows reached the warehouse, or good ones were refused."""

import json
import re
import time

import duckdb
import pyarrow as pa
import pytest

from assets.stores import contract
from model.errors import BadInput

Columns = dict[str, list]


def items(*ids: str | None) -> Columns:
    rows = list(ids or ("a", "b", "c"))
    nothing = {column: [None] * len(rows) for column in ("description", "categories", "image")}
    return {"item_id": rows, "title": ["T"] * len(rows)} | nothing


def behaviors(rows: int = 3, **columns: object) -> Columns:
    """Rows that keep the contract, with `columns` put in."""
    good = {
        "user_id": [f"u{row // 3}" for row in range(rows)],
        "item_id": ["abc"[row % 3] for row in range(rows)],
        "event": "rating",
        "value": 4.0,
        "timestamp": list(range(1_000_000_000, 1_000_000_000 + rows)),
        "position": [row % 3 for row in range(rows)],
    }
    return {name: given if isinstance(given, list) else [given] * rows for name, given in (good | columns).items()}


def check(items: Columns, behaviors: Columns, *, known_ids: tuple[str, ...] = (), strict: bool = False) -> dict:
    """What the contract says of both as tables; strict: as an ingest asks it, raising."""
    connection = duckdb.connect()
    for name, columns in (
        ("before", {"item_id": ["from long ago", *known_ids]}),
        ("items", items),
        ("given", behaviors),
    ):
        connection.register(name, pa.table(columns))
    connection.execute("CREATE TABLE behaviors AS SELECT * FROM given")
    named = {"items": "items", "behaviors": "behaviors", "row": "rowid", "known": "before"}
    if not strict:
        return contract.check(connection, **named)
    found = contract.facts(connection, **named)
    summary = contract.judge(found)
    contract.demand(connection, found, summary)
    return summary


def validate(items: Columns, behaviors: Columns, *, known_ids: tuple[str, ...] = ()) -> dict:
    return check(items, behaviors, known_ids=known_ids, strict=True)


def test_good_rows_pass_and_the_summary_is_json() -> None:
    summary = validate(items(), behaviors(300))
    assert summary["success"]
    assert summary["rows"] == {"items": 3, "behaviors": 300}
    assert all(rule["success"] and rule["failed"] == 0 for rule in summary["expectations"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_no_value_is_not_a_broken_value() -> None:
    assert validate(items(), behaviors(value=[None, 3.0, None]))["success"]
    assert validate(items(), behaviors(value=None, event="view", position=None))["success"]


@pytest.mark.parametrize(
    ("columns", "rule", "failed", "shown"),
    [
        ({"user_id": ["u", None, "v"]}, "user_id is not null", 1, "item_id 'b'"),
        ({"user_id": ["u", "", "v"]}, "user_id has 1 to 256 characters", 1, "user_id ''"),
        ({"user_id": ["u", "x" * 257, "v"]}, "user_id has 1 to 256 characters", 1, "user_id 'xxx"),
        ({"item_id": ["a", None, "c"]}, "item_id is not null", 1, "position '1'"),
        ({"item_id": ["a", "nope", "nil"]}, "item_id is in items", 2, "item_id 'nope'"),
        ({"event": ["x", None, "y"]}, "event is not null", 1, "item_id 'b'"),
        ({"timestamp": [1, None, 3]}, "timestamp is not null", 1, "item_id 'b'"),
        ({"timestamp": [1, 2.5, 3]}, "timestamp is a whole number", 3, ""),
        ({"timestamp": [1, -2, 3]}, "timestamp (seconds) is not negative", 1, "timestamp '-2'"),
        ({"timestamp": [1, 2, 10**12]}, "timestamp (seconds) is not in the future", 1, "timestamp '1000000000000'"),
        ({"value": [1.0, float("inf"), 2.0]}, "value is finite", 1, "value 'inf'"),
        ({"value": [1.0, -float("inf"), 2.0]}, "value is finite", 1, "value '-inf'"),
        ({"value": [1.0, float("nan"), 2.0]}, "value is finite", 1, "value 'nan'"),
        ({"value": [0.0, 6.0, 5.0]}, "a rating is 0.5 to 5", 2, "value '6.0'"),
    ],
)
def test_broken_rows_are_counted_and_shown(columns: dict, rule: str, failed: int, shown: str) -> None:
    with pytest.raises(BadInput) as error:
        validate(items(), behaviors(**columns))
    sentence = str(error.value)
    assert f'{failed} of 3 behaviors break "{rule}"' in sentence
    assert shown in sentence
    assert "\n" not in sentence


def test_the_clock_of_another_machine_may_run_a_day_ahead() -> None:
    assert validate(items(), behaviors(timestamp=int(time.time()) + 3600))["success"]


def test_ratings_are_bounded_other_events_are_not() -> None:
    assert validate(items(), behaviors(event="purchase", value=129.9))["success"]
    with pytest.raises(BadInput, match="a rating is"):
        validate(items(), behaviors(event=["purchase", "rating", "purchase"], value=129.9))


def test_duplicated_items_are_refused() -> None:
    with pytest.raises(BadInput, match=r"2 of 4 items break \"item_id is unique\" .*item_id 'a'"):
        validate(items("a", "a", "b", "c"), behaviors())
    with pytest.raises(BadInput, match='1 of 4 items break "item_id is not null"'):
        validate(items("a", None, "b", "c"), behaviors())


def test_few_repeats_pass_many_do_not() -> None:
    def repeated(count: int) -> Columns:
        return {name: [*values, *values[:count]] for name, values in behaviors(300).items()}

    assert validate(items(), repeated(3))["success"]
    with pytest.raises(BadInput, match='30 of 330 behaviors break "at most 1% of the rows repeat'):
        validate(items(), repeated(30))


def test_items_known_from_before_are_known() -> None:
    later = behaviors(item_id=["a", "z", "z"])
    assert validate(items(), later, known_ids=("z",))["success"]
    assert not check(items(), later)["success"]


def test_a_missing_column_is_named_and_the_count_of_other_failures_told() -> None:
    with pytest.raises(BadInput, match=r"missing 'timestamp'\), as do \d other rules"):
        validate(items(), {name: values for name, values in behaviors().items() if name != "timestamp"})


def test_check_reports_without_raising() -> None:
    summary = check(items(), behaviors(timestamp=[1, -2, -3]))
    broken = [rule for rule in summary["expectations"] if not rule["success"]]
    assert [(rule["table"], rule["failed"], len(rule["examples"])) for rule in broken] == [("behaviors", 2, 2)]


def test_rows_are_held_to_it_in_parts_and_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of twenty million rows is not one frame: what is broken in any part is found, and a share is of all rows."""
    monkeypatch.setattr(contract, "CHUNK", 3)
    with pytest.raises(BadInput, match=r"2 of 10 behaviors break .*negative.*timestamp '-5'.*timestamp '-8'"):
        validate(items(), behaviors(10, timestamp=[1, 2, 3, 4, -5, 6, 7, -8, 9, 10]))
    monkeypatch.setattr(contract, "CHUNK", 150)
    assert validate(items(), {name: [*values, *values[:2]] for name, values in behaviors(300).items()})["success"]


def test_rows_that_are_alike_to_the_rules_are_validated_once() -> None:
    """Of one hundred thousand good rows few are left, and whatever a single one of them breaks is still found and counted."""
    rows = 100_000
    good = behaviors(rows)
    connection = duckdb.connect()
    for name, columns in (("items", items()), ("given", good)):
        connection.register(name, pa.table(columns))
    connection.execute("CREATE TABLE behaviors AS SELECT * FROM given")
    found = contract.facts(connection, items="items", behaviors="behaviors")
    assert (found.rows, found.alike) == (rows, True)
    assert found.behaviors.num_rows < 100
    for column, broken, rule in (
        ("timestamp", -1, "not negative"),
        ("timestamp", 10**12, "not in the future"),
        ("value", 0.4, "a rating is"),
        ("value", float("nan"), "value is finite"),
        ("item_id", "nope", "item_id is in items"),
        ("user_id", None, "user_id is not null"),
    ):
        values = list(good[column])
        values[70_000] = broken
        with pytest.raises(BadInput, match=f"1 of 100,000 behaviors break .*{re.escape(rule)}"):
            validate(items(), good | {column: values})


@pytest.mark.slow
def test_a_million_rows_take_seconds() -> None:
    frame = behaviors(1_000_000)
    check(items(), behaviors())  # the library's import is not what is measured
    started = time.perf_counter()
    assert check(items(), frame)["success"]
    assert time.perf_counter() - started < 20
