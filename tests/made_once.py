"""What takes long to make and is only read: made by the first process of a session of tests that asks for it."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

VARIABLE = "MISS_TESTS_FOLDER"
"""Names the session's folder (`conftest.py`); pytest removes it, some sessions later."""


@functools.cache
def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills; for a module's own functions."""
    root = Path(os.environ.get(VARIABLE) or tempfile.mkdtemp(prefix="miss-tests-"))
    with FileLock(root / f"{name}.lock"):
        if not (root / name).exists():
            half = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
            make(half)
            half.rename(root / name)
    return root / name
