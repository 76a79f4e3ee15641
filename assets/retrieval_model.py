"""Training: the scorer over the tree, resumed from its last epoch when a run was killed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized, picture
from assets.stores.resource import Stores
from model.configure import configure, merged


@dg.asset(group_name="model", code_version="3", kinds={"pytorch"})
def retrieval_model(
    context: dg.AssetExecutionContext, stores: Stores, index_tree: Artifact, training_histories: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Dense path, then lifelong path (DESIGN 4); the parameters of the best validation epoch.

    With them, in one folder, the tree they belong to: `index_tree`, or what `reassign` made of it. Whoever searches with the
    parameters reads that one.
    """
    from assets.compute import engine
    from assets.compute.training import Fit, trained
    from model.training import TrainingConfig, options_for

    suited = options_for(training_histories.meta["training_behaviors"])
    config = configure(TrainingConfig, merged(suited, stores.settings.training), where="training")

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.files import write_json
        from model.plots import loss_curves
        from model.stage import timeless

        asked = Fit(
            tree=str(index_tree.path / "tree.npz"),
            histories=str(training_histories.path),
            options=asdict(config),
            target=str(folder),
            work=str(work),
        )
        where = engine(stores.settings.compute, context.log.info)
        found = trained(where, asked)
        curves = found.curves
        write_json(folder / "curves.json", {stage: timeless(curve) for stage, curve in curves.items()})
        (folder / "curves.png").write_bytes(loss_curves(curves))
        best = {
            f"{stage}_best_validation_ndcg": max(p["validation_ndcg@10"] for p in c) for stage, c in curves.items() if c
        }
        seconds = {f"{stage}_seconds": sum(p.get("seconds", 0.0) for p in c) for stage, c in curves.items()}
        return {
            "parameters": found.parameters,
            "config": asdict(config),
            "items_moved": found.items_moved,
            "workers": found.workers,
            "used": where.used(),
            **seconds,
            **best,
        }

    inputs = {"tree": index_tree, "histories": training_histories}
    artifact, reused = stores.artifacts.produce(
        "retrieval_model", code_version="3", config=asdict(config), inputs=inputs, build=build
    )
    return materialized(artifact, reused=reused, curves=picture(artifact.path / "curves.png"))
