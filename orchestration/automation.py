"""Declarative automation: what became stale is made again, and nothing else.

- An asset is stale when the content of something upstream changed (its data version, not merely a run), when its own code version
  did, or when it was lost. What is made again and comes out with the same bytes leaves everything downstream alone.
- All that follows from one change is asked for together, in one run, which sees one state of the data.
- Two sensors: `keep_fresh` is on, and does what costs seconds as soon as something landed; `retrain_when_stale` is off, since a
  training after every file is not what most teams want: the schedule `daily` does that. Switch it on in the UI, and the schedule
  off, to have it the other way.
- What fails is not asked for again until something upstream changes once more, or a person asks.
"""

from __future__ import annotations

import time
from datetime import timedelta

import dagster as dg

from assets.stores.resource import Stores
from model.errors import MissError
from orchestration.run import RETRAINING_TAG, report_landed

__all__ = ["FRESH", "NEW_DAYS", "ONCE_MADE", "SENSORS", "STALE", "keep_fresh", "landed", "retrain_when_stale"]

Condition = dg.AutomationCondition
STALE = (
    (
        Condition.any_deps_match(
            (Condition.data_version_changed() & ~Condition.executed_with_root_target()).with_label(
                "new content upstream"
            )
            | Condition.will_be_requested()
        )
        | Condition.code_version_changed()
        | Condition.newly_missing()
    ).since_last_handled()
    & ~Condition.any_deps_in_progress()
    & ~Condition.in_progress()
).with_label("stale")
NEW_DAYS = (Condition.in_latest_time_window(timedelta(days=7)) & STALE).with_label("stale, and of the last seven days")
"""For what looks at days: a catalogue's first export brings years of them, which nobody wants compared at once."""
FRESH = dg.AssetSelection.assets(
    "items", "histories", "text_embeddings", "image_embeddings", "new_items", "champion", "drift"
)
"""What is made as soon as something lands; none of it trains."""
ONCE_MADE = (STALE & ~Condition.missing()).with_label("stale, and was there before")
"""For what a home without a champion cannot have."""

keep_fresh = dg.AutomationConditionSensorDefinition(
    "keep_fresh",
    target=FRESH,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    description="what has landed: catalogue, histories, embeddings, new items in the champion, drift; nothing is trained",
)
retrain_when_stale = dg.AutomationConditionSensorDefinition(
    "retrain_when_stale",
    target=dg.AssetSelection.all() - FRESH - dg.AssetSelection.assets("behaviors"),
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=60,
    run_tags={RETRAINING_TAG: "yes"},
    description="retrains whenever histories, catalogue or code changed, instead of once a day",
)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="tells Dagster which days and which catalogue are in the warehouse, whoever brought them in",
)
def landed(context: dg.SensorEvaluationContext, stores: Stores) -> dg.SkipReason:
    """Reports what is news; the file's time is the cursor, so that an idle warehouse is not opened."""
    path = stores.settings.warehouse
    if not path.exists():
        return dg.SkipReason("nothing was ingested yet")
    cursor = f"{path.stat().st_mtime_ns} {path.stat().st_size}"
    if context.cursor == cursor and time.time() - path.stat().st_mtime > 60:
        return dg.SkipReason("nothing has come in")
    try:
        news = report_landed(context.instance, stores)
    except MissError as error:
        return dg.SkipReason(f"asked again in a while: {error}")
    context.update_cursor(cursor)
    return dg.SkipReason(f"reported: {news}" if news else "nothing has come in")


SENSORS = [landed, keep_fresh, retrain_when_stale]
"""What watches the warehouse and the graph."""
