"""A home's Dagster, MLflow and books, as daemon, reviewer and auditor see them: for tests that assert states, not returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.settings import Settings
from assets.stores.resource import Stores
from orchestration.definitions import build
from orchestration.sensors import PROMOTION, reviews

PUT_BACK = dg.AssetCheckKey(dg.AssetKey("champion"), "promoted_by_the_gate")
GATE = dg.AssetCheckKey(dg.AssetKey("candidate"), "gate")


class Team:
    """One home; settings are read anew at each step, as by a process that starts."""

    def __init__(self, settings: Settings, found: dg.DagsterInstance) -> None:
        self.settings, self.instance, self.stores = settings, found, Stores(home=str(settings.root))
        self.registry, self.books = self.stores.registry, self.stores.books

    # -- what the daemon does ------------------------------------------------------------------------------------------

    def look(self, sensor: Any = reviews, *, cursor: str | None = None) -> Any:
        """One tick of a sensor."""
        context = dg.build_sensor_context(instance=self.instance, resources={"stores": self.stores}, cursor=cursor)
        return sensor(context)

    def run(self, request: dg.RunRequest | dg.SkipReason, *, job: str = PROMOTION, **options: Any) -> str:
        """What the daemon does with a request; the run's id. A step that fails does so in the event log."""
        assert isinstance(request, dg.RunRequest), request
        definition = build(Settings(home=self.settings.root)).resolve_job_def(request.job_name or job)
        done = definition.execute_in_process(
            instance=self.instance,
            tags=request.tags,
            run_config=request.run_config or None,
            raise_on_error=False,
            **options,
        )
        return done.run_id

    # -- what is written down ------------------------------------------------------------------------------------------

    def status(self, run_id: str) -> str:
        """How a run ended."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status.value

    def tags(self, run_id: str) -> Mapping[str, str]:
        """A run's tags."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.tags

    def made(self, asset: str, run_id: str | None = None) -> dg.AssetMaterialization | None:
        """The newest materialization of an asset, or the one of a run."""
        records = self.instance.fetch_materializations(dg.AssetKey(asset), limit=50).records
        chosen = [each for each in records if run_id in (None, each.run_id)]
        return chosen[0].asset_materialization if chosen else None

    def metadata(self, asset: str, run_id: str | None = None) -> dict[str, Any]:
        """Metadata of `made`."""
        event = self.made(asset, run_id)
        assert event is not None, f"{asset} was not materialized"
        return {name: value.value for name, value in event.metadata.items()}

    def checked(self, check: dg.AssetCheckKey = PUT_BACK) -> Any:
        """The newest evaluation of a check."""
        (record,) = self.instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
        assert record.evaluation is not None
        return record.evaluation

    def served(self) -> Any:
        """The champion's version by the event log."""
        return self.metadata("champion")["champion_version"]

    def rows(self) -> list[tuple[str, str, str]]:
        """The ledger: (action, version, actor)."""
        return [(row["action"], row["version"], row["actor"]) for row in self.books.ledger()]
