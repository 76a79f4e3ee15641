"""The index tree over the multi-modal embeddings, with its invariants as a blocking check."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.compute import engine
from assets.compute.growing import grown
from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized, picture
from assets.stores.resource import Stores
from model.configure import configure
from model.index_tree import IndexTree, TreeConfig, check_tree


@dg.asset(group_name="index", code_version="2", kinds={"numpy", "faiss"})
def index_tree(
    context: dg.AssetExecutionContext, stores: Stores, multimodal_embeddings: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Recursive balanced 2-means over the aligned embeddings (DESIGN 4)."""
    config = configure(TreeConfig, stores.settings.tree, where="tree")

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.plots import tree_quality

        where = engine(stores.settings.compute, context.log.info)
        vectors = multimodal_embeddings.path / "embeddings.npz"
        told = grown(where, vectors, config, work=work, target=folder / "tree.npz")
        kept = dict(enumerate(told["neighbours_kept_by_level"]))
        (folder / "quality.png").write_bytes(tree_quality({"multi-modal tree": kept}))
        return told | {"used": where.used()}

    artifact, reused = stores.artifacts.produce(
        "index_tree", code_version="2", config=asdict(config), inputs={"embeddings": multimodal_embeddings}, build=build
    )
    return materialized(artifact, reused=reused, quality=picture(artifact.path / "quality.png"))


@dg.asset_check(
    asset=index_tree, blocking=True, description="every item one leaf, links agree, levels and vectors sound"
)
def tree_invariants(index_tree: Artifact) -> dg.AssetCheckResult:
    """Invariants the gate relies on."""
    report = check_tree(IndexTree.load(index_tree.path / "tree.npz"))
    return dg.AssetCheckResult(passed=report["passed"], metadata={"report": dg.MetadataValue.json(report)})
