"""Bundles on this machine: one folder a digest, downloaded once, every byte checked, removed when nobody asks for them any more.

- A folder is there whole or not at all (`Registry.download`); what a kill left of a download goes a day later, with the next one.
- Who asks for a bundle marks it as used. What was not asked for in a week goes, unless its version has an alias: a service that
  follows daily promotions would fill the disk.

Not covered: a service that serves for a week what has lost its alias: its folder goes, and it serves on what it has read.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from assets.stores.registry import Registry

__all__ = ["bundle"]

DAY_S = 86_400.0
UNUSED_S = 7 * DAY_S


def bundle(registry: Registry, version: str, digest: str, folder: Path) -> Path:
    """Where a version's bundle lies under `folder`, the place of all of them; raises as `Registry.download` does."""
    there = folder / digest[:16]
    new = not there.exists()
    registry.download(version, there)
    os.utime(there)
    if new:
        _tidy(registry, folder)
    return there


def _tidy(registry: Registry, folder: Path) -> None:
    now = time.time()
    old = [each for each in folder.iterdir() if each.is_dir() and now - each.stat().st_mtime > DAY_S]
    left = [each for each in old if each.name.startswith(".") and each.name.endswith(".tmp")]
    unused = [each for each in old if each not in left and now - each.stat().st_mtime > UNUSED_S]
    if unused:
        kept = {registry.version(version).digest[:16] for version in registry.aliases().values()}
        unused = [each for each in unused if each.name not in kept]
    for each in left + unused:
        shutil.rmtree(each, ignore_errors=True)  # another process may be at it
