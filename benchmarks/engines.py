"""Two homes of one catalogue, made on two engines: what is the same to the byte, and how far their tables are apart.

    MISS_HOME=.miss-one miss ingest DIR && MISS_HOME=.miss-one miss materialize
    MISS_HOME=.miss-ray miss ingest DIR && MISS_HOME=.miss-ray MISS_COMPUTE=ray RAY_ADDRESS=... miss materialize
    python -m benchmarks.engines .miss-one .miss-ray

Differences are of the model's own row, the second home's less the first's, on the same users of the test item; the standard error
is the first's over users, and beside it stands the paired interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.stores.artifacts import Artifact, ArtifactStore
from benchmarks.measured import at_least, at_most, write
from model.errors import BadInput
from model.evaluation import KS, Evaluation, paired_bootstrap

__all__ = ["SAME", "compared"]

SAME = (
    "items",
    "histories",
    "training_histories",
    "item_pairs",
    "text_embeddings",
    "image_embeddings",
    "multimodal_embeddings",
    "index_tree",
)
"""Assets whose bytes do not depend on the engine."""


def compared(one: Path, other: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows, targets). Raises BadInput where the homes were evaluated on different users, NotReady where one was not made."""
    homes = [ArtifactStore(home.expanduser().resolve() / "artifacts") for home in (one, other)]

    def made(asset: str) -> list[Artifact]:
        return [home.current(asset) for home in homes]

    first, second = (Evaluation.load(each.path / "per_user" / "0.npz") for each in made("evaluation"))
    if not np.array_equal(first.users, second.users):
        raise BadInput(f"{one} and {other} were evaluated on different users; ingest the same export into both")
    metrics: dict[str, Callable[[Evaluation], NDArray[np.float64]]] = {"ndcg@10": lambda each: each.gains(10)}
    metrics |= {f"recall@{k}": lambda each, k=k: each.hits(k) for k in KS}  # type: ignore[misc]
    rows: list[dict[str, Any]] = []
    for name, metric in metrics.items():
        a, b = metric(first), metric(second)
        error = float(a.std(ddof=1) / np.sqrt(len(a)))
        gap = paired_bootstrap(b, a)
        row = {
            "metric": name,
            "first": float(a.mean()),
            "second": float(b.mean()),
            "difference": gap["mean_difference"],
        }
        row |= {"low95": gap["low95"], "high95": gap["high95"], "standard error": error}
        rows.append(row | {"in standard errors": abs(gap["mean_difference"]) / error})
    same = [asset for asset in SAME if len({each.data_version for each in made(asset)}) == 1]
    for engine, each in zip(("first", "second"), made("retrieval_model"), strict=True):
        used = each.meta.get("used", {})
        told = {name: used.get(name) for name in ("engine", "workers", "worker_peak_mib")}
        rows.append({"metric": f"training, {engine}"} | told)
    return rows, [
        at_most("largest difference, standard errors", max(row.get("in standard errors", 0.0) for row in rows), 1.0),
        at_least(f"assets of {len(SAME)} that are the same to the byte", len(same), len(SAME)),
    ]


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="home that one engine made")
    parser.add_argument("second", type=Path, help="home that the other made")
    chosen = parser.parse_args()
    write("engines", *compared(chosen.first, chosen.second))


if __name__ == "__main__":
    main()
