"""A bundle becomes a model version: one MLflow run each, with parameters, curves, table, plots and lineage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from assets.stores import links
from assets.stores.artifacts import Artifact
from assets.stores.registry import MODEL_FILES, TRAINED_BY, ModelVersionInfo
from assets.stores.resource import Stores
from assets.stores.run_log import RunHandle
from model.errors import NotReady
from model.files import publish_dir, read_json, verify_dir, write_bytes, write_json

PARAMETERS, HEAD, OPTIONS = "parameters.npz", "head.npz", "training.json"
"""What training left: parameters of the scorer, arrays of the alignment's head, options of both's training."""


def keep_model(run: RunHandle, digest: str, *, parameters: Path, head: Path, options: Mapping[str, Any]) -> None:
    """Put beside a bundle's run what an extension of it needs, under digests of its own."""

    def build(folder: Path) -> dict[str, Any]:
        for source, name in ((parameters, PARAMETERS), (head, HEAD)):
            write_bytes(folder / name, source.read_bytes())
        write_json(folder / OPTIONS, dict(options))
        return {"bundle": digest}

    with tempfile.TemporaryDirectory() as temporary:
        publish_dir(Path(temporary) / "model", build)
        run.log_folder(Path(temporary) / "model", f"{MODEL_FILES}/{digest[:16]}")


def kept_model(stores: Stores, version: ModelVersionInfo, target: Path) -> Path:
    """What `keep_model` put beside a version, in a folder under `target`, every byte checked.

    Raises `NotReady` where there is nothing: it was registered by an earlier release.
    """
    try:
        folder = stores.registry.run_of(version.version).fetch(f"{MODEL_FILES}/{version.digest[:16]}", target)
    except FileNotFoundError as error:
        raise NotReady(
            f"version {version.version} was registered without its parameters, so nothing can be added to it; train another"
        ) from error
    verify_dir(folder)
    return folder


def log_run(
    stores: Stores,
    bundle: Artifact,
    made: Mapping[str, Artifact],
    *,
    dagster_run_id: str,
    trained_by: str,
    log: Callable[[str], None],
) -> str:
    """Register the bundle once, with a run that tells how it came about; returns the model version.

    The MLflow run carries the Dagster run's id as tag `dagster/run_id`; the Dagster run gets the MLflow run's id as tag
    `mlflow/run_id`. A bundle that is registered already keeps its run, and who trained it.
    """
    registry = stores.registry
    known = registry.find(bundle.data_version)
    if known is not None:
        log(f"bundle {bundle.data_version[:16]} is version {known.version} already")
        return registry.register(bundle.path, run_id=known.run_id)
    # a run that was killed between its start and the registration is taken up again
    earlier = registry.find_run("bundle_digest", bundle.data_version)
    tags = {"dagster/run_id": dagster_run_id, "bundle_digest": bundle.data_version}
    report = read_json(made["evaluation"].path / "evaluation.json")
    page = links.dagster_run(stores.settings, dagster_run_id)
    made_in = f"[run in Dagster]({page}), [the service]({stores.settings.service_url}) answers with the champion"
    with registry.run(f"{report['dataset']} {bundle.data_version[:8]}", tags=tags, run_id=earlier) as run:
        if earlier is None:
            run.log_params(made["retrieval_model"].meta["config"])
        for stage, curve in read_json(made["retrieval_model"].path / "curves.json").items():
            names = sorted({name for point in curve for name in point})
            run.log_metrics_series(
                {f"{stage}/{name}": {i: p[name] for i, p in enumerate(curve) if name in p} for name in names}
            )
        own = report["rows"][0]
        run.log_metrics({f"test/{name}": value for name, value in own.items() if "@" in name})
        for asset, name in (
            ("evaluation", "recall_by_level.png"),
            ("evaluation", "recall_by_length.png"),
            ("retrieval_model", "curves.png"),
            ("index_tree", "quality.png"),
        ):
            run.log_figure_bytes(f"plots/{asset}_{name}", (made[asset].path / name).read_bytes())
        for path in sorted((made["evaluation"].path / "per_user").glob("*.npz")):
            run.log_file(path, "evaluation/per_user")
        run.log_dict("evaluation/evaluation.json", report)
        run.log_dict("lineage.json", {name: artifact.data_version for name, artifact in made.items()})
        model = made["retrieval_model"]
        keep_model(
            run,
            bundle.data_version,
            parameters=model.path / PARAMETERS,
            head=made["multimodal_embeddings"].path / HEAD,
            options=model.meta["config"],
        )
        version = registry.register(
            bundle.path, run_id=run.run_id, tags={"dagster/run_id": dagster_run_id, TRAINED_BY: trained_by}
        )
        run.describe(f"Model version {version}; {made_in}.")
    registry.describe(
        version, f"# {registry.model_name} on {report['dataset']}\n\nNot judged by the gate yet; {made_in}."
    )
    log(f"registered version {version} (bundle {bundle.data_version[:16]}, MLflow run {run.run_id})")
    return version
