"""`quality.json` and its Markdown: rows, paired differences with intervals, slices, levels.

- A row is one retriever, seed and split, with the bootstrap interval of its own NDCG@10 over users.
- A comparison pairs two retrievers user by user, each user's metric averaged over the seeds both have, so that the interval is
  over users (2,000 resamples) and not over seeds; the spread over seeds stands beside the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation import KS, Evaluation, bootstrap_ci, paired_bootstrap

__all__ = ["Result", "comparisons", "markdown", "row", "table"]

METRICS = [f"recall@{k}" for k in KS] + ["ndcg@10"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluated retriever."""

    dataset: str
    retriever: str
    seed: int | None
    """None for what has nothing random."""
    evaluation: Evaluation
    train_seconds: float
    cell: dict[str, Any] = field(default_factory=dict)
    """The grid's values; empty for baselines."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Recall by level, slices, the gap to scoring every item: what was measured besides."""


def row(result: Result) -> dict[str, Any]:
    """The row of `quality.json`: JSON values only."""
    own = result.evaluation.row()
    interval = bootstrap_ci(result.evaluation.gains())
    cell = {name: result.cell.get(name, "-") for name in ("tree", "lifelong", "esu", "negatives", "multi_modal_score")}
    return {
        "dataset": result.dataset,
        "retriever": result.retriever,
        **cell,
        "seed": result.seed,
        "split": result.evaluation.split,
        "users": own["users"],
        **{metric: round(own[metric], 5) for metric in METRICS if metric in own},
        "ci95": [round(interval["low95"], 5), round(interval["high95"], 5)],
        "coverage@10": round(own["coverage@10"], 4),
        "novelty@10": round(own["novelty@10"], 3),
        "train_seconds": round(result.train_seconds, 1),
        "evaluate_seconds": own["seconds"],
        **result.extra,
    }


def _per_user(results: Sequence[Result], metric: str) -> NDArray[np.float64]:
    """(E,) the metric of each user, averaged over seeds."""
    name, k = metric.split("@")
    values = [r.evaluation.hits(int(k)) if name == "recall" else r.evaluation.gains(int(k)) for r in results]
    return np.asarray(np.mean(values, axis=0))


def comparisons(results: Sequence[Result], of: str) -> list[dict[str, Any]]:
    """`of` against every other retriever of the same data set and split, at every metric."""
    found: list[dict[str, Any]] = []
    for dataset, split in dict.fromkeys((r.dataset, r.evaluation.split) for r in results):
        here = [r for r in results if (r.dataset, r.evaluation.split) == (dataset, split)]
        own = [r for r in here if r.retriever == of]
        for other in dict.fromkeys(r.retriever for r in here if r.retriever != of):
            theirs = [r for r in here if r.retriever == other]
            if not own or not np.array_equal(own[0].evaluation.users, theirs[0].evaluation.users):
                continue
            seeds = {r.seed for r in own} & {r.seed for r in theirs}
            ours = [r for r in own if r.seed in seeds] if seeds else own
            for metric in METRICS:
                a = _per_user(ours, metric)
                b = _per_user([r for r in theirs if r.seed in seeds] if seeds else theirs, metric)
                told = {name: round(value, 5) for name, value in paired_bootstrap(a, b).items()}
                relative = round(float(a.mean() / b.mean() - 1), 4) if b.mean() > 0 else None
                found.append(
                    {"dataset": dataset, "split": split, "of": of, "against": other, "metric": metric, **told}
                    | {"relative": relative}
                )
    return found


def table(rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    """One data set's rows as Markdown: means over seeds, the spread of NDCG@10 over seeds, and ours against each."""
    shown = ["recall@10", "recall@50", "recall@100", "recall@200", "ndcg@10"]
    head = ["retriever", *shown, "seeds", "MISS against it, NDCG@10", "training, s"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name in dict.fromkeys(r["retriever"] for r in rows):
        own = [r for r in rows if r["retriever"] == name]
        means = [f"{np.mean([r[m] for r in own]):.4f}" if m in own[0] else "-" for m in shown]
        if len(own) > 1:
            means[-1] += f" ± {np.std([r['ndcg@10'] for r in own], ddof=1):.4f}"
        against = next((c for c in found if c["against"] == name and c["metric"] == "ndcg@10"), None)
        told = "-"
        if against is not None:
            told = f"{against['mean_difference']:+.4f} ({against['low95']:+.4f} to {against['high95']:+.4f})"
        seconds = f"{np.mean([r['train_seconds'] for r in own]):,.0f}"
        lines.append("| " + " | ".join([name, *means, str(len(own)), told, seconds]) + " |")
    return "\n".join(lines)


def markdown(report: dict[str, Any]) -> str:
    """The whole of `quality.json` for a reader."""
    meta, parts = report["meta"], []
    parts.append(
        f"# Quality\n\nMade by `{meta['command']}` at {meta['commit'][:12]}, {meta['date']}, {meta['machine']}."
    )
    for dataset, split in dict.fromkeys((r["dataset"], r["split"]) for r in report["rows"]):
        rows = [r for r in report["rows"] if (r["dataset"], r["split"]) == (dataset, split)]
        found = [c for c in report["comparisons"] if (c["dataset"], c["split"]) == (dataset, split)]
        users = f"{rows[0]['users']:,} users, full ranking, seen items excluded"
        parts.append(f"## {dataset}, {split} item\n\n{users}.\n\n{table(rows, found)}")
        slices = _slices(rows)
        if slices:
            parts.append(slices)
    return "\n\n".join(parts) + "\n"


def _slices(rows: Sequence[dict[str, Any]]) -> str:
    """NDCG@10 by history length and by the target's popularity, first seed of each retriever that has slices."""
    parts = []
    for title, key in (("history length", "history_length"), ("the target's popularity", "target_popularity")):
        having: dict[str, dict[str, Any]] = {}
        for each in rows:
            if key in each.get("slices", {}):
                having.setdefault(each["retriever"], each)
        if not having:
            continue
        names = list(next(iter(having.values()))["slices"][key])
        lines = [f"| NDCG@10 by {title} | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for name in having:
            values = having[name]["slices"][key]
            lines.append(f"| {name} | " + " | ".join(f"{values[n]['ndcg@10']:.4f}" for n in names) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
