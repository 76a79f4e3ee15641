"""The model and its baselines on the test item, full ranking, seen items excluded (DESIGN 5)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from assets.compute import engine
from assets.compute.evaluating import evaluated
from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized, picture
from assets.stores.resource import Stores
from assets.training_data import evaluation_set
from model.files import read_json, write_json
from model.histories import Histories
from model.index_tree import IndexTree

if TYPE_CHECKING:
    from model.evaluation import Evaluation

GROUP = "evaluation"
LEVEL_USERS = 1000
"""Users whose beams are kept for recall by level: a sample tells the level that loses."""


def saved_evaluations(folder: Path) -> "list[Evaluation]":
    """Per-user results in a folder, in the order they were written: the model's own first, where it is among them."""
    from model.evaluation import Evaluation

    return [Evaluation.load(path) for path in sorted(folder.glob("*.npz"))]


@dg.asset(group_name=GROUP, code_version="2", kinds={"scipy"})
def baselines(
    context: dg.AssetExecutionContext, stores: Stores, training_histories: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Popularity, recency item-kNN (whole history, and windowed) and EASE, on the same users as the model."""

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.baselines import EASE, ItemKNN, ItemKNNConfig, Popularity
        from model.evaluation import evaluate

        train = Histories.load(training_histories.path / "train.npz")
        test = evaluation_set(training_histories, "test")
        rows = []
        fits = (
            lambda: Popularity.fit(train),
            lambda: ItemKNN.fit(train),
            lambda: ItemKNN.fit(train, ItemKNNConfig(window=40, backward=0.5, decay=0.6)),
            lambda: EASE.fit(train),
        )
        for number, fit in enumerate(fits):
            baseline = fit()
            context.log.info(f"baseline {baseline.name} on {len(test):,} users")
            result = evaluate(baseline, test, counts=train.counts(), progress=True)
            rows.append(result.row())
            result.save(folder / f"{number}.npz")
        return {"rows": rows}

    artifact, reused = stores.artifacts.produce(
        "baselines", code_version="2", config={}, inputs={"histories": training_histories}, build=build
    )
    return materialized(artifact, reused=reused)


@dg.asset(group_name=GROUP, code_version="2", kinds={"pytorch"})
def evaluation(
    context: dg.AssetExecutionContext,
    stores: Stores,
    items: Artifact,
    training_histories: Artifact,
    retrieval_model: Artifact,
    baselines: Artifact,
) -> dg.MaterializeResult[Artifact]:
    """The model through its tree, beside the baselines: table, per-user ranks, recall by level and by history length."""

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.configure import configure
        from model.evaluation import evaluation_report, length_slices, level_recall, popularity_slices, slice_rows
        from model.plots import recall_by_length, recall_by_level
        from model.training import TrainingConfig, load_parameters
        from model.tree_retriever import TreeRetriever

        where, options = engine(stores.settings.compute, context.log.info), retrieval_model.meta["config"]
        config = configure(TrainingConfig, options, where="training")
        tree = IndexTree.load(retrieval_model.path / "tree.npz")
        model = load_parameters(tree, config, retrieval_model.path / "parameters.npz")
        retriever, test = TreeRetriever(model, tree, beam=config.beam), evaluation_set(training_histories, "test")
        counts = Histories.load(training_histories.path / "train.npz").counts()
        places = {"work": work, "per_user": folder / "per_user.parquet"}
        own = evaluated(where, retrieval_model.path, options, training_histories.path, **places)
        results = [own, *saved_evaluations(baselines.path)]
        sample = np.random.default_rng(0).permutation(len(test))[:LEVEL_USERS]
        kept = level_recall(retriever.beams([test.seen[int(u)] for u in sample]), tree.paths()[test.targets[sample]])
        simulated = bool(items.meta["simulated"])
        by_length = [row for each in results for row in slice_rows(each, length_slices(test))]
        by_target = [row for each in results for row in slice_rows(each, popularity_slices(test.targets, counts))]
        report = evaluation_report(items.meta["catalogue"], results, simulated=simulated) | {
            "protocol": training_histories.meta.get("protocol", ""),
            "recall_by_level": {str(level): share for level, share in kept.items()},
            "slices": {"history_length": by_length, "target_popularity": by_target},
        }
        write_json(folder / "evaluation.json", report)
        for number, each in enumerate(results):
            each.save(folder / "per_user" / f"{number}.npz")
        (folder / "recall_by_level.png").write_bytes(recall_by_level({retriever.name: kept}, simulated=simulated))
        (folder / "recall_by_length.png").write_bytes(recall_by_length(by_length, simulated=simulated))
        return report | {"used": where.used()}

    inputs = {
        "items": items,
        "histories": training_histories,
        "model": retrieval_model,
        "baselines": baselines,
    }
    artifact, reused = stores.artifacts.produce("evaluation", code_version="2", config={}, inputs=inputs, build=build)
    from model.evaluation import format_table

    return materialized(
        artifact,
        reused=reused,
        table=dg.MetadataValue.md(format_table(read_json(artifact.path / "evaluation.json"))),
        recall_by_level_plot=picture(artifact.path / "recall_by_level.png"),
        recall_by_length_plot=picture(artifact.path / "recall_by_length.png"),
    )
