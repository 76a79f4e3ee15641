"""From the warehouse to files: the catalogue, the histories, their split, and the pairs of items that go together."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized
from assets.stores.resource import Stores
from model.configure import configure
from model.histories import EvaluationSet, Histories, leave_one_out

GROUP = "data"


@dg.asset(group_name=GROUP, code_version="1", kinds={"duckdb"})
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


@dg.asset(group_name=GROUP, code_version="1", kinds={"duckdb"}, deps=["behaviors"])
def histories(context: dg.AssetExecutionContext, stores: Stores, items: Artifact) -> dg.MaterializeResult[Artifact]:
    """Every user's history over all days, oldest first, as flat arrays."""
    warehouse = stores.warehouse

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.files import write_npz

        found, user_ids = warehouse.histories()
        found.save(folder / "histories.npz")
        write_npz(folder / "users.npz", {"user_id": user_ids})
        lengths = found.lengths
        return {
            "rows": len(found.items),
            "users": len(found),
            "items_touched": int((found.counts() > 0).sum()),
            "longest_history": int(lengths.max(initial=0)),
            "mean_history": round(float(lengths.mean()), 2) if len(lengths) else 0.0,
        }

    inputs = {"items": items, "behaviors": warehouse.digests()["behaviors"]}
    artifact, reused = stores.artifacts.produce("histories", code_version="1", config={}, inputs=inputs, build=build)
    return materialized(artifact, reused=reused)


@dg.asset_check(asset=histories, blocking=True, description="Great Expectations on the warehouse's items and behaviors")
def data_contract(stores: Stores) -> dg.AssetCheckResult:
    """Hold the whole warehouse to the contract that every ingest was held to."""
    from assets.contract import check

    summary = check(stores.warehouse.items_frame(), stores.warehouse.behaviors_frame())
    return dg.AssetCheckResult(passed=bool(summary["success"]), metadata={"contract": dg.MetadataValue.json(summary)})


@dg.asset(group_name=GROUP, code_version="1", kinds={"numpy"})
def training_histories(
    context: dg.AssetExecutionContext, stores: Stores, histories: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Leave-one-out by position: what trains, what validates, what tests (DESIGN 5)."""

    def build(folder: Path, work: Path) -> dict[str, Any]:
        train, validation, test = leave_one_out(Histories.load(histories.path / "histories.npz"))
        train.save(folder / "train.npz")
        for part in (validation, test):
            part.save(folder / f"{part.split}.npz")
        return {"training_behaviors": len(train.items), "validation_users": len(validation), "test_users": len(test)}

    artifact, reused = stores.artifacts.produce(
        "training_histories", code_version="1", config={}, inputs={"behaviors": histories}, build=build
    )
    return materialized(artifact, reused=reused)


@dg.asset(group_name=GROUP, code_version="1", kinds={"scipy"})
def item_pairs(
    context: dg.AssetExecutionContext, stores: Stores, training_histories: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Items that go together in the training part of the logs: what item alignment learns from."""
    from model.item_pairs import ItemPairsConfig
    from model.item_pairs import item_pairs as make

    config = configure(ItemPairsConfig, stores.settings.item_pairs, where="item_pairs")

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.files import write_npz

        pairs = make(Histories.load(training_histories.path / "train.npz"), config)
        write_npz(folder / "pairs.npz", {"source": pairs.source, "target": pairs.target, "weight": pairs.weight})
        return {"pairs": len(pairs)}

    artifact, reused = stores.artifacts.produce(
        "item_pairs", code_version="1", config=asdict(config), inputs={"histories": training_histories}, build=build
    )
    return materialized(artifact, reused=reused)


def evaluation_set(histories: Artifact, split: str) -> EvaluationSet:
    """The validation or test part of `training_histories`."""
    return EvaluationSet.load(histories.path / f"{split}.npz")
