"""The whole search as one ONNX graph, and the blocking check that it is the search that was evaluated."""

from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized
from assets.stores.resource import Stores
from assets.training_data import evaluation_set
from model.configure import configure
from model.files import read_json, write_json
from model.index_tree import IndexTree

PARITY_HISTORIES = 1000
GOLDEN_REQUESTS = 100
EXPLAINED_HISTORIES = 20


@dg.asset(group_name="model", code_version="4", kinds={"onnx"})
def retrieval_onnx(
    context: dg.AssetExecutionContext,
    stores: Stores,
    training_histories: Artifact,
    retrieval_model: Artifact,
    evaluation: Artifact,
) -> dg.MaterializeResult[Artifact]:
    """Export, comparison with torch, the test table through ONNX Runtime, and golden requests for whoever loads it."""

    tables = stores.settings.tables

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.beam_search import BeamSearch
        from model.evaluation import evaluate
        from model.explanation import Explanation, check_explanation, export_explanation
        from model.gate import GateConfig
        from model.golden import write_golden
        from model.onnx_export import check_parity, export_search, graph_files
        from model.onnx_search import OnnxSearch
        from model.training import TrainingConfig, load_parameters

        config = configure(TrainingConfig, retrieval_model.meta["config"], where="training")
        tree = IndexTree.load(retrieval_model.path / "tree.npz")
        model = load_parameters(tree, config, retrieval_model.path / "parameters.npz")
        search, graph = BeamSearch(model, tree, beam=config.beam, tables=tables), folder / "retrieval.onnx"
        context.log.info("exporting the search and its explanation; this takes a minute")
        export_search(search, graph)
        explanation, reasons = Explanation(search), folder / "explain.onnx"
        export_explanation(explanation, reasons, beside=graph)
        test = evaluation_set(training_histories, "test")
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(test))[:PARITY_HISTORIES] if len(test) else []
        longest = max((test.seen[u] for u in range(len(test))), key=len, default=np.zeros(1, np.int32))
        histories = [longest, *(test.seen[int(u)] for u in chosen)]
        histories += [rng.integers(0, tree.n_items, 20) for _ in range(PARITY_HISTORIES - len(histories))]
        parity = check_parity(search, graph, histories)
        parity["explanation"] = check_explanation(explanation, reasons, histories[:EXPLAINED_HISTORIES])
        context.log.info(f"parity with torch: {parity}")
        onnx = OnnxSearch(graph, n_items=tree.n_items, beam=config.beam)
        row = evaluate(onnx, test, progress=True).row()
        torch_row = read_json(evaluation.path / "evaluation.json")["rows"][0]
        drift = {name: row[name] - torch_row[name] for name in row if "@" in name and not name.startswith("novelty")}
        parity["max_metric_difference"] = max(map(abs, drift.values()), default=0.0)
        deep = f"recall@{GateConfig.for_catalogue(tree.n_items).k}"
        parity["relative_recall_loss"] = -drift[deep] / torch_row[deep] if torch_row.get(deep) else 0.0
        write_json(folder / "parity.json", parity)
        write_golden(folder, onnx, histories[:GOLDEN_REQUESTS])
        model_meta = {"beam": onnx.beam, "n_items": tree.n_items, "depth": tree.depth, "nodes": tree.n_nodes}
        size = sum(each.stat().st_size for each in graph_files(graph))
        return {"parity": parity, "onnx_row": row, "bytes": size, "model": model_meta | {"tables": tables}}

    inputs = {
        "histories": training_histories,
        "model": retrieval_model,
        "evaluation": evaluation,
    }
    artifact, reused = stores.artifacts.produce(
        "retrieval_onnx", code_version="4", config={"tables": tables}, inputs=inputs, build=build
    )
    return materialized(artifact, reused=reused)


@dg.asset_check(asset=retrieval_onnx, blocking=True, description="the graph answers as torch does")
def onnx_parity(retrieval_onnx: Artifact) -> dg.AssetCheckResult:
    """Scores within 1e-4, top-K sets equal for at least 99.9 % of 1,000 histories; narrow tables lose at most .5 % of recall.

    What the explanation says of 20 histories is what torch says, and its scores are those that the search gave.
    """
    from model.gate import GateConfig

    parity, bounds = read_json(retrieval_onnx.path / "parity.json"), GateConfig()
    reasons = parity["explanation"]
    passed = (
        parity["max_abs_score_error"] <= bounds.max_score_error
        and parity["topk_equal_share"] >= bounds.min_topk_equal
        and parity["relative_recall_loss"] <= bounds.max_table_loss
        and max(reasons[f"max_abs_{what}_error"] for what in ("weight", "score", "answer")) <= bounds.max_score_error
        and reasons["equal_paths"] == 1
    )
    return dg.AssetCheckResult(passed=bool(passed), metadata={"parity": dg.MetadataValue.json(parity)})
