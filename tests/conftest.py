"""What many tests share: where the evaluation data lie, and how many threads are used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no test writes to a team's servers
os.environ.pop("MISS_MLFLOW_URI", None)
os.environ.pop("MISS_DAGSTER_POSTGRES", None)

import pytest
from made_once import VARIABLE

DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The evaluation data beside the project."""
    if not DATA.is_dir():
        pytest.skip(f"the evaluation data is not there: {DATA}")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def session_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    """One for the whole session, whatever process a test runs in; for `made_once`."""
    own = tmp_path_factory.getbasetemp()
    folder = own if worker_id == "master" else own.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        yield folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `ray` is slow, and Ray's own libraries warn of themselves."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.filterwarnings("default"))
