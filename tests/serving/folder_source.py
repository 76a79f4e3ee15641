"""A source of promoted bundles that is a folder: `promoted.json` says which, `bundles/VERSION` hold them."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_bundle import publish

from model.files import read_json, write_json
from serving.follow import Promoted


class FolderSource:
    """Counts what it is asked, and fails where it is told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.looks, self.fetches = root, 0, 0
        self.error: Exception | None = None

    def make(self, version: str, *, golden: bool = True) -> Path:
        """A bundle whose every title says its version."""
        return publish(self.root / "bundles" / version, golden=golden, titles=f"{{}} of version {version}")

    def promote(self, version: str | None, *, digest: str = "") -> None:
        """Say which is promoted; its digest is that of its manifest where none is given."""
        if version is not None and not digest:
            digest = str(read_json(self.root / "bundles" / version / "manifest.json")["digest"])
        write_json(self.root / "promoted.json", version and {"version": version, "digest": digest})

    def current(self) -> Promoted | None:
        """What the file says."""
        self.looks += 1
        if self.error is not None:
            raise self.error
        path = self.root / "promoted.json"
        told = json.loads(path.read_text()) if path.exists() else None
        return Promoted(**told, links={"mlflow_version": f"http://mlflow/{told['version']}"}) if told else None

    def fetch(self, promoted: Promoted) -> Path:
        """The folder itself."""
        self.fetches += 1
        return self.root / "bundles" / promoted.version
