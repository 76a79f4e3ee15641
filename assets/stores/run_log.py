"""Writing one MLflow run: parameters, curves, pictures and files, in as few calls as MLflow allows.

- A curve is one call per thousand points; a call per point would take 25 ms each on SQLite.
- Names that MLflow refuses are rewritten in one place: "recall@10" is logged as "recall_10".

Not covered: opening and closing runs, which is the registry's.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["RunHandle", "mlflow_name"]


def mlflow_name(name: str) -> str:
    """A name MLflow takes: "recall@10" becomes "recall_10"."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RunHandle:
    """One MLflow run being written."""

    run_id: str
    client: MlflowClient

    @property
    def experiment_id(self) -> str:
        """The experiment it belongs to; asks MLflow."""
        return str(self.client.get_run(self.run_id).info.experiment_id)

    def describe(self, text: str) -> None:
        """What its page says of it, Markdown."""
        self.client.set_tag(self.run_id, "mlflow.note.content", text)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters as text; a nested mapping's keys are joined by dots."""
        from mlflow.entities import Param

        def flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
            for name, value in values.items():
                if isinstance(value, Mapping):
                    yield from flat(value, f"{prefix}{name}.")
                else:
                    yield prefix + name, value

        rows = [Param(mlflow_name(name), str(value)) for name, value in flat(params, "")]
        for start in range(0, len(rows), 100):
            self.client.log_batch(self.run_id, params=rows[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """One value each."""
        self.log_metrics_series({name: {step: value} for name, value in metrics.items()})

    def log_metrics_series(self, series: Mapping[str, Sequence[float] | Mapping[int, float]]) -> None:
        """Whole curves, a thousand points a call: values in the order of their steps 0.., or {step: value}."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [
            Metric(mlflow_name(name), float(value), now, int(step))
            for name, values in series.items()
            for step, value in (values.items() if isinstance(values, Mapping) else enumerate(values))
        ]
        for start in range(0, len(points), 1000):
            self.client.log_batch(self.run_id, metrics=points[start : start + 1000])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Tags of the run."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, mlflow_name(name), str(value))

    def log_figure_bytes(self, name: str, png: bytes) -> None:
        """A picture, already encoded; `name` like "figures/loss.png"."""
        self._log_bytes(name, png)

    def log_text(self, name: str, text: str) -> None:
        """A text file."""
        self._log_bytes(name, text.encode())

    def log_dict(self, name: str, value: Any) -> None:
        """JSON values as a .json file."""
        self._log_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """A file as it is, under its own name, in the run's `folder`."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def log_folder(self, folder: Path, name: str) -> None:
        """All files of a folder, as the run's folder `name`."""
        self.client.log_artifacts(self.run_id, str(folder), name)

    @property
    def files(self) -> Any:
        """Where the run's files lie; the client's own download takes a storage that is away for files that are not there."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self.client.get_run(self.run_id).info.artifact_uri, self.client.tracking_uri)

    def fetch(self, name: str, target: Path) -> Path:
        """Copy the run's folder `name` into the folder `target`; returns where it lies. FileNotFoundError where it is not there."""
        from mlflow.exceptions import MlflowException

        try:
            found = Path(self.files.download_artifacts(name, str(target)))
        except (MlflowException, NotADirectoryError) as error:
            raise FileNotFoundError(f"run {self.run_id} has no {name}") from error
        if not found.is_dir() or not any(found.iterdir()):
            raise FileNotFoundError(f"run {self.run_id} has no {name}")
        return found

    def delete(self, name: str) -> None:
        """Delete the run's folder `name`; nothing happens where it is not there."""
        self.files.delete_artifacts(name)

    def _log_bytes(self, name: str, data: bytes) -> None:
        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / file
            path.write_bytes(data)
            self.log_file(path, folder or None)
