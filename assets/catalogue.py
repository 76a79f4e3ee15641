"""From the warehouse to files: the catalogue and the histories, and the contract they are held to."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.compute import engine
from assets.compute.gathering import gathered
from assets.retries import patient
from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized
from assets.stores.resource import Stores

GROUP = "data"


landed_items = dg.AssetSpec(
    "landed_items", group_name=GROUP, kinds={"duckdb"}, description="the catalogue's rows in the warehouse, as ingested"
)


@dg.asset(group_name=GROUP, code_version="1", kinds={"duckdb"}, deps=[landed_items])
@patient
def items(context: dg.AssetExecutionContext, stores: Stores) -> dg.MaterializeResult[Artifact]:
    """The catalogue as of now; row i of every later table is item i of this one (ordered by item_id)."""
    warehouse = stores.warehouse
    name, simulated = warehouse.catalogue()

    def build(folder: Path, work: Path) -> dict[str, Any]:
        frame = warehouse.items_frame()
        frame.to_parquet(folder / "items.parquet", index=False)
        present = {column: int(frame[column].notna().sum()) for column in ("title", "description", "image")}
        return {"catalogue": name, "simulated": simulated, "rows": len(frame)} | {
            f"with_{c}": n for c, n in present.items()
        }

    artifact, reused = stores.artifacts.produce(
        "items", code_version="1", config={}, inputs={"items": warehouse.digests()["items"]}, build=build
    )
    return materialized(artifact, reused=reused)


@dg.asset(group_name=GROUP, code_version="2", kinds={"duckdb"}, deps=["behaviors"])
@patient
def histories(context: dg.AssetExecutionContext, stores: Stores, items: Artifact) -> dg.MaterializeResult[Artifact]:
    """Every user's history over all days, oldest first, as flat arrays."""
    warehouse = stores.warehouse

    def build(folder: Path, work: Path) -> dict[str, Any]:
        where = engine(stores.settings.compute, context.log.info)
        catalogue = items.path / "items.parquet"
        found = gathered(where, warehouse, stores.day_files, catalogue, work=work, target=folder)
        return found | {"used": where.used()}

    inputs = {"items": items, "behaviors": warehouse.digests()["behaviors"]}
    artifact, reused = stores.artifacts.produce("histories", code_version="2", config={}, inputs=inputs, build=build)
    return materialized(artifact, reused=reused)


@dg.asset_check(asset=histories, blocking=True, description="Great Expectations on the warehouse's items and behaviors")
def data_contract(stores: Stores) -> dg.AssetCheckResult:
    """Hold the whole warehouse to the contract that every ingest was held to."""
    summary = stores.warehouse.held_to_contract()
    return dg.AssetCheckResult(passed=bool(summary["success"]), metadata={"contract": dg.MetadataValue.json(summary)})
