"""What the assets made: one folder per asset and recipe, found again by what went into it.

- A folder's place is the sha256 of its recipe (asset, code version, configuration, data versions of the inputs). A run
  that was killed and is started again finds every finished artifact, checks its bytes and builds only what is missing.
- An artifact's data version is the digest of its files alone: a step that is run again and makes the same bytes leaves
  everything downstream as it is.
- A folder is published whole (`model.files.publish_dir`) or not at all. Checkpoints that must outlive a kill go to the
  recipe's work folder, which is deleted when the artifact is there.
- A file lock per recipe: of two processes that want the same artifact one builds, the other waits and reuses.
- A folder whose bytes changed is moved aside with a warning and built again; it is never handed out.

Not covered: artifacts on object storage, partitions (tables by day live in the warehouse).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from model.errors import BadInput, Corrupt, NotReady
from model.files import MANIFEST, digest_json, publish_dir, read_json, verify_dir, write_json

__all__ = ["RECIPE", "Artifact", "ArtifactStore"]

RECIPE = "artifact"  # the store's own entry in a manifest's "meta"
POINTER = "current.json"
LEFTOVER_DAYS = 7.0  # how long the work folder of an abandoned build is kept for a run that may still come back
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One published folder.

    asset: name of the asset; path: its folder; key: sha256 of the recipe; data_version: sha256 over the files;
    meta: what `build` returned, JSON values, plus the recipe and the seconds it took under "artifact".
    """

    asset: str
    path: Path
    key: str
    data_version: str
    meta: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Wall time of the build that made it."""
        return float(self.meta[RECIPE]["seconds"])


class ArtifactStore:
    """Artifacts under `root`, `root/<asset>/<first 16 digits of the key>/`; nothing is touched before a method is called."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def produce(
        self,
        asset: str,
        *,
        code_version: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Artifact | str],
        build: Callable[[Path, Path], Mapping[str, Any]],
    ) -> tuple[Artifact, bool]:
        """The artifact of this recipe and whether it was there already; it is the asset's current one afterwards.

        `config` holds JSON values; `inputs` are artifacts, or data versions as text. `build(folder, work)` fills
        `folder` and returns JSON metadata; `work` is a folder that survives a kill, the same one for the same recipe.
        What `build` raises flies on; nothing is published then and `work` is kept.
        """
        recipe = {
            "asset": asset,
            "code_version": code_version,
            "config": dict(config),
            "inputs": {name: each if isinstance(each, str) else each.data_version for name, each in inputs.items()},
        }
        key = digest_json(recipe)
        work = self.work_dir(asset, key)
        with self._locked(asset, key):
            artifact = self._sound(asset, key)
            reused = artifact is not None
            if artifact is None:
                work.mkdir(parents=True, exist_ok=True)
                started = time.perf_counter()

                def fill(folder: Path) -> dict[str, Any]:
                    meta = dict(build(folder, work))
                    return meta | {RECIPE: recipe | {"key": key, "seconds": round(time.perf_counter() - started, 3)}}

                publish_dir(self._folder(asset, key), fill)
                artifact = self._read(asset, self._folder(asset, key))
            shutil.rmtree(work, ignore_errors=True)
            os.utime(artifact.path)  # `prune` keeps what was used last
            self.point(artifact)
        return artifact, reused

    def work_dir(self, asset: str, key: str) -> Path:
        """Where a build of this recipe keeps its checkpoints; `produce` makes it and deletes it after success."""
        return self._home(asset) / f".work-{key[:16]}"

    def point(self, artifact: Artifact) -> None:
        """Make `artifact` its asset's current one, in one rename."""
        pointer = {"asset": artifact.asset, "key": artifact.key, "data_version": artifact.data_version}
        write_json(self._home(artifact.asset) / POINTER, pointer)

    def current(self, asset: str, *, verify: bool = False) -> Artifact:
        """The artifact made or reused last; `verify` reads every byte again.

        Raises `NotReady` where the asset was never made, `Corrupt` where its folder is gone or is not what was published.
        """
        pointer = self._home(asset) / POINTER
        if not pointer.is_file():
            raise NotReady(f"{asset!r} has not been made under {self.root} yet; run `miss materialize`")
        told = read_json(pointer)
        try:
            folder = self._folder(asset, told["key"])
            if verify:
                verify_dir(folder)
            artifact = self._read(asset, folder)
        except (FileNotFoundError, KeyError, TypeError) as error:
            raise Corrupt(f"{pointer} names an artifact that is not there; run `miss materialize` again") from error
        if artifact.key != told["key"] or artifact.data_version != told.get("data_version"):
            raise Corrupt(f"{artifact.path} is not the artifact that {pointer} names; run `miss materialize` again")
        return artifact

    def of_key(self, asset: str, key: str) -> Artifact:
        """The artifact of a recipe, by the recipe's key; `Corrupt` where it is not there."""
        folder = self._folder(asset, key)
        try:
            return self._read(asset, folder)
        except (FileNotFoundError, KeyError, TypeError) as error:
            raise Corrupt(f"{folder} is not there any more; run `miss materialize` again") from error

    def prune(self, keep: int = 3) -> list[Path]:
        """Delete all but the `keep` artifacts used last of each asset, never a current one, and what killed builds left.

        Folders that a live process is building are skipped. Returns what was deleted.
        """
        if keep < 1:
            raise BadInput(f"keep={keep} artifacts would delete what is in use; keep at least 1")
        removed: list[Path] = []
        for home in sorted(path for path in self.root.glob("*") if path.is_dir()):
            current = str(read_json(home / POINTER)["key"])[:16] if (home / POINTER).is_file() else ""
            folders = [path for path in home.iterdir() if path.is_dir() and not path.name.startswith(".")]
            folders.sort(key=lambda path: (path.name == current, path.stat().st_mtime), reverse=True)
            candidates = [*folders[keep:], *home.glob(".*")]
            removed += [path for path in candidates if path.is_dir() and self._remove(path)]
        return removed

    # -- inside --------------------------------------------------------------------------------------------------------

    def _home(self, asset: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", asset, re.ASCII):
            raise BadInput(f"{asset!r} is no name for an asset; use letters, digits, '_' and '-'")
        return self.root / asset

    def _folder(self, asset: str, key: str) -> Path:
        return self._home(asset) / key[:16]

    def _read(self, asset: str, folder: Path) -> Artifact:
        manifest = read_json(folder / MANIFEST)
        meta = manifest["meta"]
        return Artifact(asset=asset, path=folder, key=meta[RECIPE]["key"], data_version=manifest["digest"], meta=meta)

    def _sound(self, asset: str, key: str) -> Artifact | None:
        """The artifact where it is there and every byte is what was published; else the way is clear to build it."""
        folder = self._folder(asset, key)
        if not folder.exists():
            return None
        try:
            verify_dir(folder)
            artifact = self._read(asset, folder)
            if artifact.key != key:
                raise Corrupt(f"{folder} was made by another recipe")
        except (Corrupt, FileNotFoundError, KeyError, TypeError) as error:
            aside = folder.with_name(f".corrupt-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
            _log.warning("%s is damaged (%s): moved to %s and built again", folder, error, aside)
            return None
        return artifact

    @contextlib.contextmanager
    def _locked(self, asset: str, key: str) -> Iterator[None]:
        home = self._home(asset)
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / f".{key[:16]}.lock")  # released by the system when its holder is killed
        try:
            lock.acquire(timeout=1)
        except Timeout:
            _log.warning("another process is making %s; waiting for it", self._folder(asset, key))
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _remove(self, path: Path) -> bool:
        """Delete a folder of this store, unless somebody builds it now or may still come back to its checkpoints."""
        key = re.search(r"[0-9a-f]{16}", path.name)
        if key is None or (
            path.name.startswith(".work-") and time.time() - path.stat().st_mtime < LEFTOVER_DAYS * 86400
        ):
            return False
        lock = FileLock(path.parent / f".{key[0]}.lock")
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(path, ignore_errors=True)
        except Timeout:
            return False
        return True
