"""The books: verdicts and the promotion ledger. A reviewer would lose who decided what, and whether it may be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.stores.books import FIELDS, Books, check_chain, entry_hash
from model.errors import BadInput, Corrupt

ENTRY = {"actor": "O'Neil", "version": "1", "bundle_digest": "d", "reason": "first"}


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path / "home" / "books.duckdb")


def test_asking_an_empty_home_finds_nothing_and_leaves_nothing(books: Books) -> None:
    assert books.ledger() == []
    assert books.verdict("d" * 64) is None
    assert not books.path.exists()


def test_a_file_that_is_none_says_that_it_cannot_be_made_again(books: Books) -> None:
    books.path.parent.mkdir()
    books.path.write_bytes(b"something else" * 1000)
    with pytest.raises(Corrupt, match=r"books\.duckdb is not a DuckDB file; restore it from a backup"):
        books.ledger()


def test_the_newest_verdict_on_a_bundle_counts(books: Books) -> None:
    books.record_verdict("digest-1", False, {"rules": [{"name": "quality", "value": 0.1}]})
    books.record_verdict("digest-1", True, {"rules": [{"name": "quality", "value": 0.3}]})
    books.record_verdict("digest-2", False, {"rules": []})
    verdict = books.verdict("digest-1")
    assert verdict is not None
    assert verdict["passed"] is True
    assert verdict["document"] == {"rules": [{"name": "quality", "value": 0.3}]}
    assert verdict["created_at"].startswith("20")
    assert books.verdict("digest-3") is None


def test_the_ledger_counts_up_and_knows_its_actions(books: Books) -> None:
    first = books.append_ledger(action="bootstrap", **ENTRY)
    second = books.append_ledger(action="promote", **ENTRY | {"version": "2"})
    assert (first["seq"], second["seq"]) == (1, 2)
    assert (first["previous"], second["previous"]) == ("", first["hash"])
    assert books.ledger() == [first, second], "what was returned is what stands there"
    check_chain(books.ledger())
    with pytest.raises(BadInput, match="'celebrate' is no action"):
        books.append_ledger(action="celebrate", **ENTRY)


def test_a_row_changed_in_the_file_is_found(books: Books) -> None:
    for version in "123":
        books.append_ledger(action="promote", **ENTRY | {"version": version})
    with duckdb.connect(str(books.path)) as connection:
        connection.execute("UPDATE ledger SET actor = 'somebody else' WHERE seq = 2")
    with pytest.raises(Corrupt, match=r"row 2 \(promote of version 2 by somebody else\) is not what was appended"):
        check_chain(books.ledger())


def _chain(reasons: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for seq, reason in enumerate(reasons, 1):
        row = ENTRY | {"seq": seq, "at": "2026-01-01T00:00:00", "action": "promote", "reason": reason}
        row["previous"] = rows[-1]["hash"] if rows else ""
        rows.append(row | {"hash": entry_hash(row)})
    return rows


@given(st.data(), st.lists(st.text(max_size=5), min_size=2, max_size=6))
def test_no_row_can_be_changed_taken_out_put_in_or_moved_unseen(data: st.DataObject, reasons: list[str]) -> None:
    rows = _chain(reasons)
    check_chain(rows)
    at = data.draw(st.integers(0, len(rows) - 1))
    kind = data.draw(st.sampled_from(["change", "rehash", "take", "swap", "repeat"]))
    last = len(rows) - 2  # what is done to the end alone is told from MLflow, not from the ledger itself
    if kind == "change":
        name = data.draw(st.sampled_from(FIELDS))
        rows[at] = rows[at] | {name: 99 if name == "seq" else str(rows[at][name]) + "x"}
    elif kind == "rehash":  # whoever forges one row's hash must forge all that follow
        at = min(at, last)
        changed = rows[at] | {"reason": rows[at]["reason"] + "x"}
        rows[at] = changed | {"hash": entry_hash(changed)}
    elif kind == "take":
        del rows[min(at, last)]
    elif kind == "swap":
        at = min(at, last)
        rows[at], rows[at + 1] = rows[at + 1], rows[at]
    else:
        rows.insert(at, dict(rows[at]))
    with pytest.raises(Corrupt):
        check_chain(rows)
