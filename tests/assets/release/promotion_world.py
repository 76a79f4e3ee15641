"""A registry and books in memory that can be killed at any write, for the tests of promotion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from assets.release.promotion import Promotion
from assets.stores.books import entry_hash
from assets.stores.registry import CHALLENGER, TRAINED_BY, ModelVersionInfo
from model.errors import BadInput

START = datetime(2026, 1, 1, tzinfo=UTC)
RULES = [{"name": "parity", "value": 0.0, "bound": 1e-4, "baseline": None, "passed": True, "note": "internal"}]


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code under test may see it coming."""


class World:
    """A registry and books in memory; `fuse` kills at the n-th write, before or after it took effect."""

    def __init__(self) -> None:
        self.held: dict[str, ModelVersionInfo] = {}
        self.names: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.clock, self.fuse, self.after = START, -1, False

    def _write(self, effect: Callable[[], Any]) -> None:
        self.fuse -= 1
        if self.fuse == 0 and not self.after:
            raise Killed
        effect()
        if self.fuse == 0:
            raise Killed

    # the registry

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def version(self, version: str) -> ModelVersionInfo:
        if version not in self.held:
            raise BadInput(f"no version {version}")
        aliases = tuple(sorted(alias for alias, each in self.names.items() if each == version))
        return replace(self.held[version], aliases=aliases)

    def aliases(self) -> dict[str, str]:
        return dict(self.names)

    def by_alias(self, alias: str) -> ModelVersionInfo | None:
        return self.version(self.names[alias]) if alias in self.names else None

    def set_alias(self, alias: str, version: str) -> None:
        self._write(lambda: self.names.update({alias: version}))

    def delete_alias(self, alias: str) -> None:
        if alias in self.names:
            self._write(lambda: self.names.pop(alias))

    def set_tags(self, version: str, tags: dict[str, str]) -> None:
        self._write(lambda: self.held[version].tags.update(tags))

    def delete_tag(self, version: str, name: str) -> None:
        if name in self.held[version].tags:
            self._write(lambda: self.held[version].tags.pop(name))

    def versions(self) -> list[ModelVersionInfo]:
        return [self.version(each) for each in self.held]

    # the books

    def verdict(self, bundle_digest: str) -> dict[str, Any] | None:
        return self.verdicts.get(bundle_digest)

    def append_ledger(self, **row: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"seq": len(self.rows) + 1, "at": self.clock.isoformat()} | row
        entry["previous"] = self.rows[-1]["hash"] if self.rows else ""
        entry["hash"] = entry_hash(entry)
        self._write(lambda: self.rows.append(entry))
        return entry

    def ledger(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.rows]

    # what happens around

    def add(self, version: str, *, passed: bool | None = True, trained_by: str = "the schedule") -> str:
        digest, tags = version * 64, {TRAINED_BY: trained_by}
        self.held[version] = ModelVersionInfo(
            version=version, digest=digest, run_id="r", tags=tags, aliases=(), description="", created_at=0.0
        )
        self.names[CHALLENGER] = version
        if passed is not None:
            self.judge(version, passed=passed)
        return version

    def judge(self, version: str, *, passed: bool = True, **document: Any) -> None:
        digest = self.held[version].digest
        created = self.clock.replace(tzinfo=None).isoformat()
        document = {"rules": RULES} | document
        self.verdicts[digest] = {
            "bundle_digest": digest,
            "created_at": created,
            "passed": passed,
            "document": document,
        }

    def promotion(self, *, two_people: bool = False) -> Promotion:
        return Promotion(self, self, two_people=two_people, now=lambda: self.clock)  # type: ignore[arg-type]

    def story(self) -> list[tuple[str, str, str]]:
        return [(row["action"], row["version"], row["actor"]) for row in self.rows]
