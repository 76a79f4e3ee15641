"""The jobs: what a schedule, a sensor or a person starts as one run."""

from __future__ import annotations

import dagster as dg

from orchestration.drift import drift_job
from orchestration.inbox import inbox_job
from orchestration.run import DAYS, EVERYTHING, NEW_ITEMS, RETRAINING_TAG
from orchestration.sensors import PROMOTION

__all__ = ["JOBS"]

JOBS = [
    dg.define_asset_job(
        EVERYTHING,
        selection=dg.AssetSelection.all() - dg.AssetSelection.assets("behaviors", "drift", "new_items"),
        tags={RETRAINING_TAG: "yes"},
        description="logs to champion",
    ),
    dg.define_asset_job(DAYS, selection="behaviors", description="days of logs into the warehouse"),
    dg.define_asset_job(PROMOTION, selection="champion", description="what reviewers decided"),
    dg.define_asset_job(
        NEW_ITEMS,
        selection=["items", "text_embeddings", "image_embeddings", "new_items", "champion"],
        description="items that the champion does not know, without training",
    ),
    drift_job,
    inbox_job,
]
