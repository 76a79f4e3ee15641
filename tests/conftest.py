"""What many tests share: where the evaluation data lie, and how many threads are used."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no test writes to a team's servers
os.environ.pop("MISS_MLFLOW_URI", None)
os.environ.pop("MISS_DAGSTER_POSTGRES", None)

import pytest

DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The evaluation data beside the project."""
    if not DATA.is_dir():
        pytest.skip(f"the evaluation data is not there: {DATA}")
    return DATA
