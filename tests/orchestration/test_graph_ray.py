"""The main job on a cluster: what a team would lose by switching is its champion, or the way back.

A small catalogue through `miss materialize` on a real cluster of two nodes on this machine. That each stage makes what one process
makes is in the tests of `assets.compute`; that the champion's table is the same within a standard error takes a catalogue of
thousands (`benchmarks.engines`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scenes import miss, write_catalogue
from two_nodes import two_nodes

from assets.stores.artifacts import ArtifactStore

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made on the cluster, which is gone afterwards."""
    folder = tmp_path_factory.mktemp("on a cluster")
    write_catalogue(folder / "scenes")
    miss(folder / "home", "ingest", str(folder / "scenes"))
    with two_nodes() as cluster:
        miss(folder / "home", "materialize", MISS_COMPUTE="ray", RAY_ADDRESS=cluster.address)
    return folder / "home"


def test_a_champion_is_promoted_that_has_learnt_what_there_is_to_learn(home: Path) -> None:
    champion = json.loads(miss(home, "status", "--json"))["champion"]
    assert champion["version"] == "1"
    assert champion["verdict"]["passed"]
    found = {row["retriever"]: row["ndcg@10"] for row in json.loads(miss(home, "evaluate", "--json"))["rows"]}
    assert found["MISS (tree)"] > found["item-kNN (recency)"] + 0.1, "a step follows from two behaviors"


def test_the_assets_tell_what_the_workers_took(home: Path) -> None:
    for asset in ("text_embeddings", "histories", "index_tree", "retrieval_model", "evaluation"):
        used = ArtifactStore(home / "artifacts").current(asset).meta["used"]
        assert used["engine"] == "ray"
        assert used["workers"] >= 1
        assert used["workers_cpu_seconds"] > 0
    assert ArtifactStore(home / "artifacts").current("retrieval_model").meta["workers"] == 2


def test_the_next_run_in_one_process_finds_all_of_it(home: Path) -> None:
    """The digests do not know who made it: a team may go back, and nothing is made twice."""
    before = {path: path.stat().st_mtime_ns for path in (home / "artifacts").rglob("manifest.json")}
    miss(home, "materialize")
    after = {path: path.stat().st_mtime_ns for path in (home / "artifacts").rglob("manifest.json")}
    assert after == before
