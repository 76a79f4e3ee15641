"""What starts a run by itself."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from assets.champion import rows_seen
from assets.release.review import waiting
from assets.stores.resource import Stores
from assets.training_data import Split
from model.files import digest_json
from orchestration.run import EVERYTHING

__all__ = ["RETRAINING", "daily", "reviews"]

PROMOTION = "promotion"


@dg.sensor(
    job_name=PROMOTION,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="carries out what a reviewer decided in MLflow: tag review=approved, or the alias champion moved",
)
def reviews(context: dg.SensorEvaluationContext, stores: Stores) -> dg.RunRequest | dg.SkipReason:
    """Asks for a run of `champion` where there is something to decide; the run decides, this only looks."""
    if not stores.registry.exists:
        return dg.SkipReason("nothing is registered yet")
    found = waiting(stores.promotion, seen=rows_seen(context.instance))
    if not found["reasons"]:
        return dg.SkipReason("no approval waits, and aliases and ledger agree")
    # the same state is looked at once an hour, should the run for it have failed
    key = digest_json(found | {"hour": datetime.now(UTC).strftime("%Y-%m-%dT%H")})
    return dg.RunRequest(run_key=key, tags={"miss/reason": "; ".join(found["reasons"])[:250]})


RETRAINING = dg.RunConfig(ops={"training_histories": Split(split="temporal")})
"""What every run that no person starts is told: to train before a day and to be judged by what came after."""


def daily(cron: str) -> dg.ScheduleDefinition:
    """Runs the whole graph: what is not stale is found again, so a day without news costs a minute."""
    return dg.ScheduleDefinition(
        name="daily",
        job_name=EVERYTHING,
        cron_schedule=cron,
        run_config=RETRAINING,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="retrains on what has come since, has it judged, and leaves it to a reviewer",
    )
