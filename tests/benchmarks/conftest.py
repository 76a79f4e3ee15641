"""The benchmarks are not installed with the product: a bare `pytest` finds them beside it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with warnings.catch_warnings():  # typer 0.25 imports names that click 8.5 calls deprecated
    warnings.filterwarnings("ignore", message="'click", category=DeprecationWarning)
    import typer  # noqa: F401
