"""From graph to candidate: the bundle, its registration as a model version, and the gate's verdict."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from assets.retries import patient
from assets.stores import links
from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized
from assets.stores.resource import Stores
from model.configure import configure
from model.files import read_npz, write_npz
from model.histories import Histories
from model.thumbnails import ThumbnailConfig

GROUP = "promotion"


@dg.asset(group_name=GROUP, code_version="3", kinds={"mlflow"})
@patient
def candidate(
    context: dg.AssetExecutionContext,
    stores: Stores,
    items: Artifact,
    histories: Artifact,
    multimodal_embeddings: Artifact,
    index_tree: Artifact,
    retrieval_model: Artifact,
    evaluation: Artifact,
    retrieval_onnx: Artifact,
    search_space: Artifact,
) -> dg.MaterializeResult[Artifact]:
    """One folder with all that serving needs, registered in MLflow as `challenger`; its digest is its identity."""
    from assets.release.registration import log_run
    from assets.release.shown import write_shown

    thumbnails = configure(ThumbnailConfig, stores.settings.thumbnails, where="thumbnails")
    made = {
        "items": items,
        "histories": histories,
        "multimodal_embeddings": multimodal_embeddings,
        "index_tree": index_tree,
        "retrieval_model": retrieval_model,
        "evaluation": evaluation,
        "retrieval_onnx": retrieval_onnx,
        "search_space": search_space,
    }

    def build(folder: Path, work: Path) -> dict[str, Any]:
        import pyarrow.parquet as pq

        from model import search_files
        from model.onnx_export import graph_files

        for source, name in (
            *((retrieval_onnx, each.name) for each in graph_files(retrieval_onnx.path / "retrieval.onnx")),
            (retrieval_onnx, "explain.onnx"),
            (retrieval_onnx, "golden.npz"),
            (retrieval_onnx, "parity.json"),
            (retrieval_model, "tree.npz"),
            (evaluation, "evaluation.json"),
        ):
            shutil.copyfile(source.path / name, folder / name)
        shutil.copytree(evaluation.path / "per_user", folder / "per_user")
        search_files.copy(search_space.path, folder)
        table = pq.read_table(items.path / "items.parquet", columns=["item_id", "title", "categories"])
        texts = {n: np.array([t or "" for t in table.column(n).to_pylist()], dtype=np.str_) for n in table.column_names}
        write_npz(folder / "items.npz", texts)
        known = Histories.load(histories.path / "histories.npz")
        write_npz(folder / "popularity.npz", {"counts": known.counts()})
        write_shown(folder, items.path / "items.parquet", thumbnails)
        users = read_npz(histories.path / "users.npz")
        write_npz(folder / "histories.npz", users | {"offsets": known.offsets, "items": known.items})
        return {
            "model": retrieval_onnx.meta["model"],
            "dataset": items.meta["catalogue"],
            "simulated": items.meta["simulated"],
            "data_versions": {name: artifact.data_version for name, artifact in made.items()},
            "content": {c: items.meta[f"with_{c}"] / max(items.meta["rows"], 1) for c in ("description", "image")},
        }

    artifact, reused = stores.artifacts.produce(
        "candidate", code_version="3", config={"thumbnails": asdict(thumbnails)}, inputs=dict(made), build=build
    )
    version = log_run(
        stores,
        artifact,
        made,
        dagster_run_id=context.run.run_id,
        trained_by=_trained_by(context, stores),
        log=context.log.info,
    )
    info = stores.registry.version(version)
    context.instance.add_run_tags(context.run.run_id, {"mlflow/run_id": info.run_id})
    told = {"model_version": version, "bundle_digest": artifact.data_version, "mlflow_run_id": info.run_id}
    return materialized(artifact, reused=reused, **told, **links.metadata(stores.settings, stores.registry, info))


@dg.asset_check(asset=candidate, blocking=True, description="the gate: may this bundle be served?")
def gate(context: dg.AssetCheckExecutionContext, stores: Stores, candidate: Artifact) -> dg.AssetCheckResult:
    """Judge the bundle, write the verdict for its digest into the books, and all a reviewer asks onto its page in MLflow."""
    from assets.release.model_card import write_card
    from assets.release.verdict import judge_bundle

    judged = judge_bundle(stores, candidate, log=context.log.info)
    write_card(stores, candidate, judged)
    rules = [
        {key: rule[key] for key in ("name", "value", "bound", "baseline", "passed")}
        for rule in judged.document["rules"]
    ]
    return dg.AssetCheckResult(passed=judged.document["passed"], metadata={"rules": dg.MetadataValue.json(rules)})


def _trained_by(context: dg.AssetExecutionContext, stores: Stores) -> str:
    """The schedule or sensor that started the run, else who runs this process."""
    tags = context.run.tags
    kinds = {"schedule": "dagster/schedule_name", "sensor": "dagster/sensor_name"}
    return next((f"{kind} {tags[tag]}" for kind, tag in kinds.items() if tag in tags), stores.settings.actor)
