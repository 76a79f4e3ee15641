"""Composition root: what Dagster knows, put together; nothing is computed here."""

from __future__ import annotations

import dagster as dg

from assets import (
    behaviors,
    candidate,
    catalogue,
    champion,
    drift,
    embeddings,
    evaluation,
    index_tree,
    new_items,
    retrieval_model,
    retrieval_onnx,
    search_space,
    training_data,
)
from assets.environment import quiet_environment
from assets.settings import Settings
from assets.stores.io_manager import ArtifactIOManager
from assets.stores.resource import Stores
from orchestration import automation, inbox, jobs, launching, sensors
from orchestration.drift import drift_acts

quiet_environment()


def build(settings: Settings) -> dg.Definitions:
    """Definitions over one home."""
    making = [catalogue, training_data, embeddings, search_space, index_tree, retrieval_model, evaluation]
    modules = [*making, retrieval_onnx, candidate, new_items]
    stores = Stores(home=str(settings.root))
    first = behaviors.first_day(stores)
    return dg.Definitions(
        assets=[
            *dg.load_assets_from_modules(modules, automation_condition=automation.STALE),
            *dg.load_assets_from_modules([champion], automation_condition=automation.ONCE_MADE),
            catalogue.landed_items,
            behaviors.daily_behaviors(first),
            drift.daily_drift(first, automation.NEW_DAYS),
        ],
        asset_checks=dg.load_asset_checks_from_modules(modules),
        jobs=jobs.JOBS,
        sensors=[sensors.reviews, inbox.inbox, drift_acts, *automation.SENSORS],
        schedules=[sensors.daily(settings.retrain)],
        resources={"stores": stores, "io_manager": ArtifactIOManager(root=str(settings.artifacts))},
        executor=launching.executor(settings),
    )


defs = build(Settings())
