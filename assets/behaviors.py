"""Behaviors by day: what has landed of a day is in the warehouse, once."""

import warnings
from datetime import UTC, date, datetime

import dagster as dg

from assets.retries import patient
from assets.stores.resource import Stores

GROUP, POOL = "data", "warehouse"
"""The pool lets one run at a time write to DuckDB's file."""


def first_day(stores: Stores) -> date:
    """Of all behaviors that have landed; today where none has. The partitions begin there."""
    return stores.warehouse.landing.first_day() or datetime.now(UTC).date()


def days_from(first: date) -> dg.DailyPartitionsDefinition:
    """A partition a day (UTC) from `first` to today: of everything that goes by days."""
    return dg.DailyPartitionsDefinition(start_date=first.isoformat(), end_offset=1)


def daily_behaviors(first: date) -> dg.AssetsDefinition:
    """The asset `behaviors`, a partition a day (UTC) from `first` to today."""
    with warnings.catch_warnings():
        # Dagster calls the parameter `backfill_policy` beta; a range of days in one run is what it is for
        warnings.simplefilter("ignore", dg.BetaWarning)

        @dg.asset(
            partitions_def=days_from(first),
            backfill_policy=dg.BackfillPolicy.single_run(),
            group_name=GROUP,
            pool=POOL,
            code_version="2",
            kinds={"duckdb"},
        )
        @patient
        def behaviors(context: dg.AssetExecutionContext, stores: Stores) -> dg.MaterializeResult[None]:
            """Brings in what has landed of these days and is not there; a day may be brought in as often as one likes."""
            keys = context.partition_keys
            found = stores.warehouse.load(first=keys[0], last=keys[-1])
            there, landed = stores.warehouse.days(), stores.warehouse.landing.days()
            rows = {day: there.get(day, 0) for day in keys}
            return dg.MaterializeResult(
                metadata={
                    "days": len(keys),
                    "rows": sum(rows.values()),
                    "rows_new": found["behaviors_new"],
                    "rows_by_day": dg.MetadataValue.json(rows if len(rows) <= 60 else {}),
                },
                data_version=dg.DataVersion(landed.get(keys[0], "empty")) if len(keys) == 1 else None,
            )

    return behaviors
