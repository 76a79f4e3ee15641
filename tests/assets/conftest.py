"""What the tests of assets share: an MLflow schema migrated once, small bundles, and a Ray cluster."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from two_nodes import two_nodes

from assets.stores.registry import Registry
from model.files import publish_dir


@pytest.fixture(scope="session")
def mlflow_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without content; making one takes seconds, copying it does not."""
    home = tmp_path_factory.mktemp("mlflow schema")
    Registry(f"sqlite:///{home / 'mlflow.db'}", "miss-retrieval", home / "runs").prepare()
    return home / "mlflow.db"


@pytest.fixture
def registry(mlflow_schema: Path, tmp_path: Path) -> Registry:
    """A registry of its own, in a folder with a space and a percent sign in its name."""
    home = tmp_path / "a home 100%"
    home.mkdir()
    shutil.copy(mlflow_schema, home / "mlflow.db")
    return Registry(f"sqlite:///{home / 'mlflow.db'}", "miss-retrieval", home / "runs")


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[[str], Path]:
    """Publishes a small bundle whose digest follows from its text."""

    def make(text: str) -> Path:
        def build(folder: Path) -> dict[str, object]:
            (folder / "retrieval.onnx").write_text(text)
            (folder / "evaluation.json").write_text("{}")
            return {"dataset": "toy", "data_versions": {"index_tree": "ab" * 32}}

        publish_dir(tmp_path / "bundles" / text, build)
        return tmp_path / "bundles" / text

    return make


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each on this machine, this process the driver; skips where Ray is not installed."""
    with two_nodes() as nodes:
        import ray

        ray.init(address=nodes.address, log_to_driver=False)
        try:
            yield nodes
        finally:
            ray.shutdown()
