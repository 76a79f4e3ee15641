"""The main job on a cluster: what a team would lose by switching is its champion, or one that answers as before.

A small catalogue through `miss materialize` on a real cluster of two nodes on this machine; what can be the same on one machine is
made there too. That the champion's table is, within a standard error, takes a catalogue of thousands: `benchmarks.engines`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scenes import miss, write_catalogue
from two_nodes import two_nodes

from assets.stores.artifacts import Artifact, ArtifactStore
from model.evaluation import Evaluation
from model.files import read_npz
from model.index_tree import IndexTree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ENDS = ("index_tree", "item_pairs", "baselines")
"""Assets that nothing of the model goes into; with all that they need."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of two nodes of one core each."""
    with two_nodes() as cluster:
        yield cluster.address


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, address: str) -> tuple[Path, Path]:
    """Of one process, up to the tree and the baselines, and of the cluster, with a champion."""
    folder = tmp_path_factory.mktemp("two ways")
    write_catalogue(folder / "scenes")
    by_one, by_ray = folder / "one", folder / "ray"
    for home in (by_one, by_ray):
        miss(home, "ingest", str(folder / "scenes"))
    miss(by_one, "materialize", "--select", " or ".join(f"+key:{asset}" for asset in ENDS))
    there = {"MISS_COMPUTE": "ray", "RAY_ADDRESS": address, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    miss(by_ray, "materialize", **there)
    return by_one, by_ray


def made(home: Path, asset: str) -> Artifact:
    return ArtifactStore(home / "artifacts").current(asset)


def test_a_champion_is_promoted_that_has_learnt_what_there_is_to_learn(homes: tuple[Path, Path]) -> None:
    champion = json.loads(miss(homes[1], "status", "--json"))["champion"]
    assert champion["version"] == "1"
    assert champion["verdict"]["passed"]
    found = {row["retriever"]: row["ndcg@10"] for row in json.loads(miss(homes[1], "evaluate", "--json"))["rows"]}
    assert found["MISS (tree)"] > found["item-kNN (recency)"] + 0.1, "a step follows from two behaviors"


@pytest.mark.parametrize("asset", ["items", "histories", "training_histories", "item_pairs"])
def test_what_is_counted_is_the_same_to_the_byte(homes: tuple[Path, Path], asset: str) -> None:
    assert made(homes[0], asset).data_version == made(homes[1], asset).data_version


@pytest.mark.parametrize("asset", ["text_embeddings", "image_embeddings"])
def test_vectors_are_the_same(homes: tuple[Path, Path], asset: str) -> None:
    one, other = (read_npz(made(home, asset).path / "embeddings.npz") for home in homes)
    np.testing.assert_allclose(one["vectors"], other["vectors"], atol=1e-6)


def test_baselines_are_the_same_for_every_user(homes: tuple[Path, Path]) -> None:
    one, other = (sorted(made(home, "baselines").path.glob("*.npz")) for home in homes)
    assert len(one) == len(other) > 3
    for pair in zip(one, other, strict=True):
        np.testing.assert_array_equal(*(Evaluation.load(path).ranks for path in pair))


def test_the_tree_is_the_same(homes: tuple[Path, Path]) -> None:
    one, other = (IndexTree.load(made(home, "index_tree").path / "tree.npz") for home in homes)
    np.testing.assert_array_equal(one.item_leaf, other.item_leaf)


def test_the_assets_tell_what_the_workers_took(homes: tuple[Path, Path]) -> None:
    for asset in ("text_embeddings", "histories", "index_tree", "retrieval_model", "evaluation"):
        used = made(homes[1], asset).meta["used"]
        assert used["engine"] == "ray"
        assert used["workers"] >= 1
        assert used["workers_cpu_seconds"] > 0
    assert made(homes[1], "retrieval_model").meta["workers"] == 2


def test_the_next_run_in_one_process_finds_all_of_it(homes: tuple[Path, Path]) -> None:
    """The digests do not know who made it: a team may go back, and nothing is made twice."""
    before = {path: path.stat().st_mtime_ns for path in (homes[1] / "artifacts").rglob("manifest.json")}
    miss(homes[1], "materialize")
    after = {path: path.stat().st_mtime_ns for path in (homes[1] / "artifacts").rglob("manifest.json")}
    assert after == before
