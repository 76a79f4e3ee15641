"""What drift starts: a retrain run, once for one champion and one reason."""

from __future__ import annotations

import dagster as dg

from assets.stores.registry import CHAMPION
from assets.stores.resource import Stores
from model.files import digest_json
from orchestration.run import EVERYTHING
from orchestration.sensors import RETRAINING

__all__ = ["DRIFT", "WATCH_DRIFT", "drift_acts", "drift_job"]

DRIFT, WATCH_DRIFT = "drift", "watch_drift"
"""The asset, and the job that makes it: Dagster has one name for one of them."""
LOOKED_AT = 100
"""Newest materializations of one look; what a longer backfill finds of days long gone starts nothing."""

drift_job = dg.define_asset_job(
    WATCH_DRIFT, selection=DRIFT, description="days against what the champion was trained on"
)


@dg.sensor(
    job_name=EVERYTHING,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="retrains where a figure of drift acts, once for one champion and the same figures",
)
def drift_acts(context: dg.SensorEvaluationContext, stores: Stores) -> dg.SensorResult | dg.SkipReason:
    """Looks at the days that were materialized since the last look; the newest of them that acts counts."""
    cursor = int(context.cursor or 0)
    records = context.instance.fetch_materializations(dg.AssetKey(DRIFT), limit=LOOKED_AT).records
    new = [record for record in records if record.storage_id > cursor]
    if not new:
        return dg.SkipReason("no day was compared since the last look")
    seen = str(max(record.storage_id for record in new))
    days: dict[str, dg.AssetMaterialization] = {}
    for record in new:  # the newest first: a day that was compared again counts as it is now
        found = record.asset_materialization
        if found is not None:
            days.setdefault(str(record.partition_key), found)
    acting = sorted(day for day, found in days.items() if _said(found, "level") == "act")
    if not acting:
        return _skip(f"of {len(days)} days compared since the last look, up to {max(days)}, none acts", seen)
    found, champion = days[acting[-1]], stores.registry.by_alias(CHAMPION)
    held = str(_said(found, "champion_digest"))
    if champion is None or champion.digest != held:
        return _skip(
            f"{acting[-1]} was compared with version {_said(found, 'champion_version')}, champion no more", seen
        )
    key = digest_json({"champion": held, "figures": sorted(_said(found, "acting"))})
    request = dg.RunRequest(run_key=key, run_config=RETRAINING, tags={"miss/reason": str(_said(found, "reason"))[:250]})
    return dg.SensorResult(run_requests=[request], cursor=seen)


def _said(found: dg.AssetMaterialization, name: str) -> object:
    return found.metadata[name].value


def _skip(why: str, cursor: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=why, cursor=cursor)
