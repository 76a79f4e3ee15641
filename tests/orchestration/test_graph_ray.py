"""The main job on a cluster: what a team would lose by switching is its champion, or one that answers as before.

The same small catalogue through `miss materialize` in one process and on a real cluster of two nodes on this machine. Skips where
Ray is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scenes import miss, write_catalogue

from assets.stores.artifacts import Artifact, ArtifactStore
from model.evaluation import Evaluation
from model.files import read_npz

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of two nodes of one core each."""
    pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]' brings it")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, address: str) -> tuple[Path, Path]:
    """Made by one process, and on the cluster."""
    folder = tmp_path_factory.mktemp("two ways")
    write_catalogue(folder / "scenes")
    by_one, by_ray = folder / "one", folder / "ray"
    for home in (by_one, by_ray):
        miss(home, "ingest", str(folder / "scenes"))
    miss(by_one, "materialize")
    there = {"MISS_COMPUTE": "ray", "RAY_ADDRESS": address, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    miss(by_ray, "materialize", **there)
    return by_one, by_ray


def made(home: Path, asset: str) -> Artifact:
    return ArtifactStore(home / "artifacts").current(asset)


def test_a_champion_is_promoted_whose_table_is_that_of_one_machine(homes: tuple[Path, Path]) -> None:
    """Within a standard error over users; training adds up in another order."""
    for home in homes:
        champion = json.loads(miss(home, "status", "--json"))["champion"]
        assert champion["version"] == "1"
        assert champion["verdict"]["passed"]
    by_one, by_ray = (Evaluation.load(made(home, "evaluation").path / "per_user" / "0.npz") for home in homes)
    for metric in (Evaluation.gains, lambda each: each.hits(10), lambda each: each.hits(50)):
        one, other = metric(by_one), metric(by_ray)
        assert abs(one.mean() - other.mean()) <= one.std(ddof=1) / np.sqrt(len(one))
    rows = [json.loads(miss(home, "evaluate", "--json"))["rows"][1:] for home in homes]
    for row in rows[0] + rows[1]:
        row.pop("seconds")
    assert rows[0] == rows[1], "baselines have nothing to do with it"


def test_what_does_not_depend_on_the_order_of_sums_is_the_same(homes: tuple[Path, Path]) -> None:
    by_one, by_ray = homes
    for asset in ("items", "histories", "training_histories", "item_pairs"):
        assert made(by_one, asset).data_version == made(by_ray, asset).data_version, asset
    for asset in ("text_embeddings", "image_embeddings"):
        one, other = (read_npz(made(home, asset).path / "embeddings.npz") for home in homes)
        np.testing.assert_allclose(one["vectors"], other["vectors"], atol=1e-6)


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
