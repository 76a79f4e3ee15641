"""The books: the gate's verdicts and the promotion ledger, in a DuckDB file of their own.

- Apart from the warehouse, which can be made again from its logs and is held for as long as an ingest takes: the books can
  not be made again, and a rollback must not wait for logs.
- The ledger is append-only and chained: every row bears the hash of the one before it, so that a row changed, taken out or put
  in is found by `check_chain`. A ledger cut off at its end, or written anew as a whole, is found by what promotion leaves
  in MLflow: the version's tag `ledger/row` (`assets.stores.champion`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from assets.stores.duck import DuckFile
from model.errors import BadInput, Corrupt
from model.files import canonical_json, digest_json

__all__ = ["ACTIONS", "Books", "check_chain", "entry_hash"]

ACTIONS = ("bootstrap", "promote", "rollback", "refuse", "restore")
"""What made a champion, what was asked for and refused, and an alias that a hand had moved and that was put back."""
FIELDS = ("seq", "at", "actor", "action", "version", "bundle_digest", "reason", "previous")
"""What a row's hash is about; `previous` is the hash of the row before it, "" for the first."""


def entry_hash(entry: Mapping[str, Any]) -> str:
    """sha256 (64 hex digits) of a ledger row's fields."""
    return digest_json({name: entry[name] for name in FIELDS})


def check_chain(entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise `Corrupt` that names the first row which is not what was appended there; `entries` are all, oldest first."""
    previous = ""
    for number, entry in enumerate(entries, 1):
        if entry["seq"] != number:
            raise Corrupt(f"the ledger's row {number} is missing: row {entry['seq']} stands in its place")
        if entry["previous"] != previous or entry["hash"] != entry_hash(entry):
            raise Corrupt(
                f"the ledger was changed: row {number} ({entry['action']} of version {entry['version']} by {entry['actor']}) is "
                "not what was appended; restore the file from a backup, and ask who could write to it"
            )
        previous = entry["hash"]


class Books(DuckFile):
    """Verdicts and ledger of one home."""

    schema: ClassVar[str] = """
CREATE TABLE IF NOT EXISTS verdicts(bundle_digest VARCHAR NOT NULL, created_at TIMESTAMP NOT NULL, passed BOOLEAN NOT NULL,
    document VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS ledger(seq BIGINT PRIMARY KEY, "at" TIMESTAMP NOT NULL, actor VARCHAR NOT NULL, action VARCHAR NOT NULL,
    version VARCHAR NOT NULL, bundle_digest VARCHAR NOT NULL, reason VARCHAR NOT NULL, previous VARCHAR NOT NULL,
    hash VARCHAR NOT NULL);
"""
    table: ClassVar[str] = "ledger"
    hint: ClassVar[str] = "run `miss materialize`, whose gate writes the first verdict"
    lost: ClassVar[str] = "restore it from a backup: verdicts and the promotion ledger cannot be made again"

    def record_verdict(self, bundle_digest: str, passed: bool, document: dict[str, Any]) -> None:
        """Keep the gate's verdict on a bundle; `document` holds JSON values."""
        with self.connect(write=True) as connection:
            connection.execute(
                "INSERT INTO verdicts VALUES (?, ?, ?, ?)", [bundle_digest, _now(), passed, canonical_json(document)]
            )

    def verdict(self, bundle_digest: str) -> dict[str, Any] | None:
        """The newest verdict on a bundle, {"bundle_digest", "created_at", "passed", "document"}; None where there is none."""
        rows = self.rows_if_any(
            "SELECT bundle_digest, created_at, passed, document FROM verdicts WHERE bundle_digest = ? "
            "ORDER BY created_at DESC, rowid DESC LIMIT 1",
            [bundle_digest],
        )
        if not rows:
            return None
        digest, created_at, passed, document = rows[0]
        return {
            "bundle_digest": digest,
            "created_at": created_at.isoformat(),
            "passed": passed,
            "document": json.loads(document),
        }

    def append_ledger(
        self, *, actor: str, action: str, version: str, bundle_digest: str, reason: str
    ) -> dict[str, Any]:
        """Write down who did what to which version and why; returns the row, as `ledger` does."""
        if action not in ACTIONS:
            raise BadInput(f"{action!r} is no action of the ledger; use one of {', '.join(ACTIONS)}")
        with self.connect(write=True) as connection:
            last = connection.execute("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchall()
            at = _now()
            entry: dict[str, Any] = {"seq": last[0][0] + 1 if last else 1, "at": at.isoformat(), "actor": actor}
            entry |= {"action": action, "version": str(version), "bundle_digest": bundle_digest, "reason": reason}
            entry["previous"] = last[0][1] if last else ""
            entry["hash"] = entry_hash(entry)
            values = list((entry | {"at": at}).values())
            connection.execute(f"INSERT INTO ledger VALUES ({', '.join('?' * len(values))})", values)
        return entry

    def ledger(self) -> list[dict[str, Any]]:
        """All rows, oldest first: `FIELDS` ("at" as ISO text, UTC) and "hash"."""
        names = (*FIELDS, "hash")
        columns = ", ".join(f'"{name}"' for name in names)
        rows = self.rows_if_any(f"SELECT {columns} FROM ledger ORDER BY seq")
        return [dict(zip(names, row, strict=True)) | {"at": row[1].isoformat()} for row in rows]


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
