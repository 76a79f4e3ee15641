"""The data contract: what a team would lose if broken rows reached the warehouse, or good ones were refused."""

import json
import time

import pandas as pd
import pytest

from assets.contract import check, validate
from model.errors import BadInput


def items(*ids: str | None) -> pd.DataFrame:
    frame = pd.DataFrame({"item_id": list(ids or ("a", "b", "c"))})
    return frame.assign(title="T", description=None, categories=None, image=None)


def behaviors(rows: int = 3, **columns: object) -> pd.DataFrame:
    """Rows that keep the contract, with `columns` put in."""
    frame = pd.DataFrame(
        {
            "user_id": [f"u{row // 3}" for row in range(rows)],
            "item_id": ["abc"[row % 3] for row in range(rows)],
            "event": "rating",
            "value": 4.0,
            "timestamp": range(1_000_000_000, 1_000_000_000 + rows),
            "position": [row % 3 for row in range(rows)],
        }
    )
    return frame.assign(**columns)


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
        ({"value": [1.0, float("nan"), 2.0], "finite": [True, False, True]}, "value is finite", 1, "value 'nan'"),
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
    def repeated(count: int) -> pd.DataFrame:
        good = behaviors(300)
        return pd.concat([good, good.iloc[:count]])

    assert validate(items(), repeated(3))["success"]
    with pytest.raises(BadInput, match='30 of 330 behaviors break "at most 1% of the rows repeat'):
        validate(items(), repeated(30))


def test_items_known_from_before_are_known() -> None:
    later = behaviors(item_id=["a", "z", "z"])
    assert validate(items(), later, known_ids=["z"])["success"]
    assert not check(items(), later)["success"]


def test_a_missing_column_is_named_and_the_count_of_other_failures_told() -> None:
    with pytest.raises(BadInput, match=r"missing 'timestamp'\), as do \d other rules"):
        validate(items(), behaviors().drop(columns="timestamp"))


def test_check_reports_without_raising() -> None:
    summary = check(items(), behaviors(timestamp=[1, -2, -3]))
    broken = [rule for rule in summary["expectations"] if not rule["success"]]
    assert [(rule["table"], rule["failed"], len(rule["examples"])) for rule in broken] == [("behaviors", 2, 2)]


@pytest.mark.slow
def test_a_million_rows_take_seconds() -> None:
    frame = behaviors(1_000_000)
    check(items(), behaviors())  # the library's import is not what is measured
    started = time.perf_counter()
    assert check(items(), frame)["success"]
    assert time.perf_counter() - started < 20
