"""`miss backfill` and `miss rebuild`: logs from the landing zone into the warehouse, again."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, date, datetime, timedelta

from model.errors import BadInput, NotReady
from orchestration.commands.home import settings, warehouse_of

__all__ = ["backfill", "rebuild"]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is no day; write it as 2026-01-31") from error


def backfill(first: str, last: str) -> None:
    """Run the asset `behaviors` over a range of days, in one run that Dagster's UI shows."""
    home, begin, end = settings(), _day(first), _day(last)
    warehouse = warehouse_of(home)
    landed = warehouse.landing.first_day()
    if landed is None:
        raise NotReady(f"nothing has landed in {warehouse.landing.root} yet; run `miss ingest DIR`")
    today = datetime.now(UTC).date()
    if not landed <= begin <= end <= today:
        raise BadInput(f"the days {begin} to {end} are not within {landed}, the first that landed, and {today}, today")
    from orchestration.run import materialize_days

    with contextlib.redirect_stdout(sys.stderr):  # what libraries print on the way is no result
        materialize_days(home, begin, end)
    there = warehouse.days()
    kept = [there.get((begin + timedelta(days=n)).isoformat(), 0) for n in range((end - begin).days + 1)]
    print(f"{begin} to {end}: {len(kept):,} days, {sum(kept):,} behaviors in the warehouse")


def rebuild() -> None:
    """Make the warehouse again from the landing zone; the old one stays until the new one is whole."""
    counts = warehouse_of(settings()).rebuild()
    print("made again: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
