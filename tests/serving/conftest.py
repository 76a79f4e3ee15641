"""What the tests of the service share: one tiny bundle and one engine over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bundle import publish

from serving.engine import Engine


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published bundle; copy it before changing it."""
    return publish(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def engine(bundle: Path) -> Engine:
    """The bundle, loaded."""
    return Engine(bundle, version="7", threads=1)
