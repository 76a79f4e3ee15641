"""`miss status`, `miss promote`, `miss rollback` and `miss history`: what is promoted, by whom and why."""

from __future__ import annotations

from typing import Any

from model.errors import BadInput, NotReady
from orchestration.commands.home import books_of, print_json, promotion_of, registry_of, settings, warehouse_of

__all__ = ["history", "promote", "rollback", "status"]


def status(*, as_json: bool) -> None:
    """Champion, challenger and warehouse; reads only."""
    from assets.release.promotion import status as look

    home = settings()
    found = look(warehouse_of(home), books_of(home), registry_of(home))
    if as_json:
        print_json(found)
        return
    counts = found["warehouse"]
    print(f"home        {home.root}")
    print(f"warehouse   {counts['items']:,} items, {counts['users']:,} users, {counts['behaviors']:,} behaviors")
    for alias in ("champion", "challenger"):
        print(f"{alias:<12}{_told(found[alias])}")
        for line in _rules(found[alias]):
            print(line)
    if not any(counts.values()):
        print("nothing is ingested yet: `miss ingest DIR`, or `miss demo` for the embedded catalogue")


def _told(version: dict[str, Any] | None) -> str:
    if version is None:
        return "none"
    verdict = version["verdict"]
    gate = "not judged" if verdict is None else "passed the gate" if verdict["passed"] else "FAILED the gate"
    return f"version {version['version']}, bundle {version['digests']['bundle'][:16]}, {gate}"


def _rules(version: dict[str, Any] | None) -> list[str]:
    rules = (version or {}).get("verdict") or {"rules": []}
    cells = [
        ["pass" if rule["passed"] else "FAIL", str(rule["name"])]
        + [f"{label} {_short(rule[label])}" for label in ("value", "bound", "baseline") if rule[label] is not None]
        for rule in rules["rules"]
    ]
    width = max((len(row[1]) for row in cells), default=0)
    return [f"  {row[0]}  {row[1]:<{width}}  {', '.join(row[2:])}" for row in cells]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _reason(text: str) -> str:
    if not text.strip():
        raise BadInput(f"--reason {text!r} says nothing; the ledger keeps why a version was chosen")
    return text.strip()


def promote(version: str | None, reason: str) -> None:
    """Make a version champion, the challenger where none is named."""
    from assets.stores.registry import CHALLENGER

    reason, home = _reason(reason), settings()
    promotion = promotion_of(home)
    if version is None:
        waiting = promotion.registry.by_alias(CHALLENGER)
        if waiting is None:
            raise NotReady(
                "no challenger waits for promotion; run `miss materialize`, or name a version from `miss history`"
            )
        version = waiting.version
    _print_champion(promotion, promotion.promote(version, actor=home.actor, reason=reason))


def rollback(reason: str) -> None:
    """Make the version before the champion champion again."""
    reason, home = _reason(reason), settings()
    promotion = promotion_of(home)
    _print_champion(promotion, promotion.rollback(actor=home.actor, reason=reason))


def _print_champion(promotion: Any, now: Any) -> None:
    from assets.stores.registry import PREVIOUS

    previous = promotion.registry.by_alias(PREVIOUS)
    before = f", previous is version {previous.version}" if previous is not None else ""
    print(f"champion is version {now.version}, bundle {now.digest}{before}")


def history(*, as_json: bool) -> None:
    """The promotion ledger, oldest first."""
    rows = books_of(settings()).ledger()
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("the ledger is empty: nothing was promoted or refused yet")
    for row in rows:
        version = f"version {row['version']} ({row['bundle_digest'][:16]})"
        print(f"{row['seq']:4}  {row['at'][:19]}Z  {row['action']:<9}  {version}  {row['actor']}: {row['reason']}")
