"""What many tests share: where the evaluation data lie, and how many threads are used."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest

DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The evaluation data beside the project."""
    if not DATA.is_dir():
        pytest.skip(f"the evaluation data is not there: {DATA}")
    return DATA
