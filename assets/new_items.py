"""New items, retrievable without training: inserted into the champion's tree, placed by content, judged, and left to a reviewer."""

import dagster as dg

from assets.release.extension import find, make, register, rules
from assets.retries import patient
from assets.stores import links
from assets.stores.artifacts import Artifact
from assets.stores.resource import Stores

CHECK = "new_items_are_found"


@dg.asset(
    group_name="promotion",
    code_version="2",
    kinds={"onnx", "mlflow"},
    check_specs=[
        dg.AssetCheckSpec(
            CHECK,
            asset="new_items",
            blocking=True,
            description="the champion with new items answers as before, and finds them; the gate's verdict is good",
        )
    ],
)
@patient
def new_items(
    context: dg.AssetExecutionContext,
    stores: Stores,
    items: Artifact,
    text_embeddings: Artifact,
    image_embeddings: Artifact,
) -> dg.MaterializeResult:
    """Items of the catalogue that the champion does not know, as a version of their own with the champion's parameters."""
    from assets.release.model_card import write_card
    from assets.release.verdict import judge_bundle

    extension = find(stores, items)
    if extension is None or not extension.ids:
        waiting = 0 if extension is None else extension.waiting
        told = f"{waiting} new items wait for the next training: the tree is full" if waiting else "nothing is new"
        return _result({"added": 0, "waiting": waiting, "told": told}, passed=True)
    larger, made, reused = make(stores, extension, items, text_embeddings, image_embeddings)
    version = register(stores, extension, larger, made, dagster_run_id=context.run.run_id)
    judged = judge_bundle(stores, made, log=context.log.info, extension=rules(stores, extension, made))
    shown = ", ".join(extension.ids[:20]) + (f" and {len(extension.ids) - 20} more" if len(extension.ids) > 20 else "")
    about = (
        f"The champion (version {extension.champion.version}) with {len(extension.ids)} items more, and no training: {shown}. "
        f"{extension.waiting} wait for the next training. Quality is the champion's own, on the items it knew."
    )
    write_card(stores, made, judged, about=about)
    values = {rule["name"]: rule["value"] for rule in judged.document["rules"]}
    return _result(
        {
            "added": len(extension.ids),
            "waiting": extension.waiting,
            "told": shown,
            "reused": reused,
            "model_version": version,
            "bundle_digest": made.data_version,
            **links.metadata(stores.settings, stores.registry, stores.registry.version(version)),
            "found": values["new_items_found"],
            "as_before": values["old_items_as_before"],
        },
        passed=judged.document["passed"],
        failed=[rule["name"] for rule in judged.document["rules"] if not rule["passed"]],
    )


def _result(metadata: dict[str, object], *, passed: bool, failed: list[str] | None = None) -> dg.MaterializeResult:
    version = str(metadata.get("bundle_digest") or f"none, {metadata['waiting']} waiting")
    check = dg.AssetCheckResult(
        check_name=CHECK, passed=passed, metadata={"failed": dg.MetadataValue.json(failed or [])}
    )
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version), check_results=[check])
