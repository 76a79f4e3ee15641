"""Composition root: what Dagster knows, put together; nothing is computed here."""

from __future__ import annotations

import dagster as dg

from assets import candidate, catalogue, champion, embeddings, evaluation, index_tree, retrieval_model, retrieval_onnx
from assets.settings import Settings, quiet_environment
from assets.stores.io_manager import ArtifactIOManager
from assets.stores.resource import Stores
from orchestration import sensors

quiet_environment()


def build(settings: Settings) -> dg.Definitions:
    """Definitions over one home."""
    modules = [catalogue, embeddings, index_tree, retrieval_model, evaluation, retrieval_onnx, candidate, champion]
    return dg.Definitions(
        assets=dg.load_assets_from_modules(modules),
        asset_checks=dg.load_asset_checks_from_modules(modules),
        jobs=[
            dg.define_asset_job("everything", selection=dg.AssetSelection.all(), description="logs to champion"),
            dg.define_asset_job(sensors.PROMOTION, selection="champion", description="what reviewers decided"),
        ],
        sensors=[sensors.reviews],
        resources={
            "stores": Stores(home=str(settings.root)),
            "io_manager": ArtifactIOManager(root=str(settings.artifacts)),
        },
        executor=dg.in_process_executor,
    )


defs = build(Settings())
