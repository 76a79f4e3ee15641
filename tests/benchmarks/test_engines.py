"""What somebody who compares two engines would lose: a difference that is beyond chance, or an asset that is not the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.stores.artifacts import ArtifactStore
from benchmarks.engines import SAME, compared
from model.errors import BadInput
from model.evaluation import Evaluation
from model.files import write_json


def home(folder: Path, ranks: list[int], *, tree: str = "a tree", users: int | None = None) -> Path:
    """A home whose assets are a line each, and whose model ranked its users' targets so."""
    store = ArtifactStore(folder / "artifacts")

    def evaluation(target: Path, work: Path) -> dict[str, Any]:
        Evaluation(
            retriever="MISS",
            split="test",
            users=np.arange(users or len(ranks)),
            ranks=np.array(ranks, np.int32),
            limit=200,
            coverage=0.1,
            novelty=5.0,
            seconds=1.0,
        ).save(target / "per_user" / "0.npz")
        return {}

    def plain(text: str) -> Any:
        def build(target: Path, work: Path) -> dict[str, Any]:
            write_json(target / "content.json", text)
            return {"used": {"engine": "ray", "workers": 2}}

        return build

    for asset in (*SAME, "retrieval_model"):
        store.produce(
            asset, code_version="1", config={}, inputs={}, build=plain(tree if asset == "index_tree" else asset)
        )
    store.produce("evaluation", code_version="1", config={}, inputs={}, build=evaluation)
    return folder


def test_alike_but_for_chance(tmp_path: Path) -> None:
    ranks = np.random.default_rng(0).integers(0, 30, 200).tolist()
    rows, targets = compared(home(tmp_path / "one", ranks), home(tmp_path / "two", [*ranks[1:], ranks[0]]))
    assert rows[0]["metric"] == "ndcg@10"
    assert rows[0]["difference"] == pytest.approx(0.0)
    assert rows[0]["low95"] < 0 < rows[0]["high95"]
    assert [each["met"] for each in targets] == [True, True]
    assert rows[-1]["workers"] == 2


def test_a_worse_model_and_another_tree_are_told(tmp_path: Path) -> None:
    rows, targets = compared(home(tmp_path / "one", [1, 2, 0] * 40), home(tmp_path / "two", [0] * 120, tree="another"))
    assert rows[0]["in standard errors"] > 5
    assert [each["met"] for each in targets] == [False, False]
    assert targets[1]["value"] == len(SAME) - 1


def test_other_users_are_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="different users"):
        compared(home(tmp_path / "one", [1, 2]), home(tmp_path / "two", [1, 2, 3]))
