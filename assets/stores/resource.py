"""The stores of one home, as one Dagster resource."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from assets.release.promotion import Promotion
from assets.settings import Settings
from assets.stores.artifacts import ArtifactStore
from assets.stores.books import Books
from assets.stores.bundles import bundle
from assets.stores.day_files import DayFiles
from assets.stores.registry import ModelVersionInfo, Registry
from assets.stores.warehouse import Warehouse

__all__ = ["Stores"]


class Stores(dg.ConfigurableResource):
    """Warehouse, artifacts and registry of the home at `home`; options come from `Settings`."""

    home: str

    @property
    def settings(self) -> Settings:
        """The settings of this home."""
        return Settings(home=Path(self.home))

    @property
    def warehouse(self) -> Warehouse:
        """The DuckDB file."""
        return Warehouse(self.settings.warehouse)

    @property
    def day_files(self) -> DayFiles:
        """Behaviors as Parquet by day, for work over shards."""
        settings = self.settings
        given = settings.day_files or str(settings.root / "days")
        # a worker stands in another folder: what is relative here would be another place there
        return DayFiles(given if "://" in given else Path(given).expanduser().resolve())

    @property
    def books(self) -> Books:
        """Verdicts and the promotion ledger."""
        return Books(self.settings.books)

    @property
    def artifacts(self) -> ArtifactStore:
        """What the assets made."""
        return ArtifactStore(self.settings.artifacts)

    @property
    def registry(self) -> Registry:
        """MLflow."""
        settings = self.settings
        return Registry(settings.tracking_uri, settings.model_name, settings.root / "mlflow-artifacts")

    def bundle(self, version: ModelVersionInfo) -> Path:
        """A version's bundle on this machine, every byte checked."""
        return bundle(self.registry, version.version, version.digest, self.settings.bundles)

    @property
    def promotion(self) -> Promotion:
        """What moves the champion."""
        return Promotion(self.books, self.registry, two_people=self.settings.require_two_people)

    @property
    def encoder_cache(self) -> Path:
        """Vectors by content hash, shared by all runs."""
        return self.settings.root / "encoders"
