"""The benchmarks are not installed with the product: a bare `pytest` finds them beside it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
