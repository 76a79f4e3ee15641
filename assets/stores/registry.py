"""The one place that talks to MLflow: runs, model versions, aliases, and the bundles' bytes.

- Only the client is used, never MLflow's global state (active run, tracking URI), and no model flavor: a bundle is a
  folder of artifacts, so nothing is pickled.
- A new SQLite store is built beside its place under a file lock and renamed: migrating in place takes seconds, is not
  safe to do twice at once, and a kill in the middle would leave a schema that no later run can finish.
- A bundle is registered once by its digest and read back against that digest.
- Aliases are read from the registered model: a search over versions returns them empty.
- Reading from a registry that does not exist yet finds nothing and creates nothing.

Cost, SQLite: 2-3 s of imports in each process, 3-7 s for the first use of a home, 30-60 ms a write, 0.2 s for 1,000
points of a curve. Not covered: moving a home's folder (MLflow keeps absolute artifact locations), access rights, a lock over
several machines (see `lock`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from assets.stores import servers
from assets.stores.run_log import RunHandle, mlflow_name
from model.errors import BadInput, Busy, Corrupt
from model.files import MANIFEST, verify_dir

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "MODEL_FILES",
    "PREVIOUS",
    "REVIEW",
    "REVIEW_BY",
    "REVIEW_REASON",
    "TRAINED_BY",
    "ModelVersionInfo",
    "Registry",
    "RunHandle",
]

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
TRAINED_BY, REVIEW, REVIEW_BY, REVIEW_REASON = "trained_by", "review", "review_by", "review_reason"
"""Tags of a version: who trained it; what a reviewer says in MLflow ("approved"), who that is, and why."""
DIGEST_TAG, MODEL_FILES = "bundle_digest", "model"
"""The tag that says which bundle a version is; the folder of a run with what training left (`assets.release.registration`)."""
DESCRIPTION_LENGTH = 5000  # what MLflow's column holds; PostgreSQL refuses more
LOCK_WAIT_S = 600.0
KEPT_AT_LEAST = 3  # versions


@dataclass(frozen=True, kw_only=True)
class ModelVersionInfo:
    """One registered bundle: version as text, sha256 of the bundle ("" where somebody registered something else)."""

    version: str
    digest: str
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    description: str
    created_at: float
    """Seconds since 1970."""


class Registry:
    """Runs and versions of one registered model; nothing is imported or opened before a method needs it.

    tracking_uri: MLflow's store, "sqlite:///<absolute path>" or any other it takes; artifact_root: the folder of the
    runs' files (a tracking server over HTTP decides for itself).
    """

    def __init__(self, tracking_uri: str, model_name: str, artifact_root: Path) -> None:
        self.tracking_uri, self.model_name, self.artifact_root = tracking_uri, model_name, artifact_root

    # -- the store -----------------------------------------------------------------------------------------------------

    @property
    def _database(self) -> Path | None:
        """The SQLite file, None for another kind of store."""
        path = self.tracking_uri.removeprefix("sqlite:///")
        return Path(path) if path != self.tracking_uri else None

    @property
    def shared(self) -> bool:
        """Whether other machines may use it too."""
        return self._database is None

    @property
    def exists(self) -> bool:
        """Whether there may be something to read."""
        return self._database is None or self._database.exists()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while versions are registered and aliases moved; the same thread may take it again.

        It is this home's, on this machine: a server that several share is written to from the machine that has the ledger.
        """
        path = self._database or self.artifact_root / "registry"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_WAIT_S, is_singleton=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise Busy(
                f"another process held {lock.lock_file} for {LOCK_WAIT_S:g} s; wait for it to end and try again"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def prepare(self) -> None:
        """Make the store and the registered model where they are missing; anything that writes does so by itself."""
        assert self._client is not None

    @cached_property
    def _client(self) -> MlflowClient:
        with self.lock():
            client = servers.connect(self.tracking_uri, database=self._database)
            if not client.search_registered_models(f"name = '{self.model_name}'", max_results=1):
                with servers.already_there():
                    client.create_registered_model(self.model_name)
        return client

    @cached_property
    def _experiment_id(self) -> str:
        with self.lock():
            found = self._client.get_experiment_by_name(self.model_name)
            if found is None:
                served = servers.is_served(self.tracking_uri)
                location = None if served else self.artifact_root.absolute().as_uri()
                with servers.already_there():
                    self._client.create_experiment(self.model_name, artifact_location=location)
                found = self._client.get_experiment_by_name(self.model_name)
            return str(found.experiment_id)

    # -- runs ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def run(
        self, name: str, *, tags: Mapping[str, Any] | None = None, run_id: str | None = None
    ) -> Iterator[RunHandle]:
        """A run that ends FINISHED, FAILED on an exception, KILLED on an interrupt; `run_id` continues an earlier one.

        `tags` should hold "dagster/run_id", so that the two systems' runs name each other.
        """
        client = self._client
        if run_id is None:
            run_id = client.create_run(self._experiment_id, run_name=name).info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
        handle = RunHandle(run_id=run_id, client=client)
        status = "FINISHED"
        try:
            handle.set_tags(tags or {})
            yield handle
        except Exception:
            status = "FAILED"
            raise
        except BaseException:
            status = "KILLED"
            raise
        finally:
            client.set_terminated(run_id, status)

    def find_run(self, tag: str, value: str) -> str | None:
        """Id of the newest run with this tag, like ("dagster/run_id", ...); None where there is none."""
        if not self.exists:
            return None
        quote = '"' if "'" in value else "'"
        found = self._client.search_runs([self._experiment_id], f"tags.`{tag}` = {quote}{value}{quote}", max_results=1)
        return str(found[0].info.run_id) if found else None

    # -- versions ------------------------------------------------------------------------------------------------------

    def register(
        self, bundle: Path, *, run_id: str, tags: Mapping[str, Any] | None = None, challenges: bool = True
    ) -> str:
        """Store a published bundle with a run and make it a model version, alias `challenger`; returns the version.

        The same bundle is registered once: its version is returned again, its files put back where they were lost,
        and no alias is set where it is the champion already, or `challenges` is False. Tags: "bundle_digest",
        "digest/<file>" for each file, "data_version/<asset>" from the manifest's meta, and `tags`.
        Raises `BadInput` where `bundle` is no published folder, `Corrupt` where its bytes are not its manifest's.
        """
        try:
            manifest = verify_dir(bundle)
        except FileNotFoundError as error:
            raise BadInput(f"{bundle} is no bundle: it has no {MANIFEST}; run `miss materialize`") from error
        digest = str(manifest["digest"])
        with self.lock():
            known = self.find(digest)
            if known is None:
                source = self._upload(bundle, run_id=run_id, digest=digest)
                own = {f"digest/{name}": entry["sha256"] for name, entry in manifest["files"].items()}
                own |= {
                    f"data_version/{name}": each for name, each in manifest["meta"].get("data_versions", {}).items()
                }
                every = {
                    mlflow_name(name): str(value)
                    for name, value in (own | dict(tags or {}) | {DIGEST_TAG: digest}).items()
                }
                made = self._client.create_model_version(self.model_name, source, run_id, tags=every)
                version = str(made.version)
            else:
                version = known.version
                with tempfile.TemporaryDirectory() as temporary:
                    try:
                        self.download(version, Path(temporary) / "bundle")
                    except Corrupt:
                        self._upload(bundle, run_id=known.run_id, digest=digest)
            if challenges and self.aliases().get(CHAMPION) != version:
                self.set_alias(CHALLENGER, version)
        return version

    def _upload(self, bundle: Path, *, run_id: str, digest: str) -> str:
        # a place of its own for each bundle: two in one run must not overwrite each other
        place = f"bundle/{digest[:16]}"
        self._client.log_artifacts(run_id, str(bundle), place)
        return f"runs:/{run_id}/{place}"

    def versions(self) -> list[ModelVersionInfo]:
        """All versions, oldest first."""
        return self._search(f"name = '{self.model_name}'")

    def find(self, digest: str) -> ModelVersionInfo | None:
        """The version that holds exactly this bundle; None where it was not registered."""
        found = self._search(f"name = '{self.model_name}' AND tags.{DIGEST_TAG} = '{digest}'")
        return found[0] if found else None

    def version(self, version: str) -> ModelVersionInfo:
        """One version; `BadInput` where there is none of that number."""
        if self.exists and re.fullmatch(r"[0-9]{1,9}", str(version)):
            client = self._client  # before the import: it turns telemetry off
            from mlflow.exceptions import MlflowException

            try:
                return self._info(client.get_model_version(self.model_name, str(version)), self.aliases())
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        known = ", ".join(each.version for each in self.versions()[-5:]) or "none yet"
        raise BadInput(f"{self.model_name} has no version {version!r}; registered are {known} (see `miss status`)")

    def by_alias(self, alias: str) -> ModelVersionInfo | None:
        """The version an alias names now; None where nothing has it."""
        version = self.aliases().get(alias)
        return None if version is None else self.version(version)

    def aliases(self) -> dict[str, str]:
        """All aliases, {alias: version}."""
        if not self.exists:
            return {}
        found = self._client.get_registered_model(self.model_name).aliases
        return {str(alias): str(version) for alias, version in found.items()}

    def set_alias(self, alias: str, version: str) -> None:
        """Give a version an alias, taking it from the one that had it."""
        self._client.set_registered_model_alias(self.model_name, alias, str(version))

    def delete_alias(self, alias: str) -> None:
        """Take an alias away; nothing happens where nobody has it."""
        if alias in self.aliases():
            self._client.delete_registered_model_alias(self.model_name, alias)

    def set_tags(self, version: str, tags: Mapping[str, Any]) -> None:
        """Set tags of a version."""
        for name, value in tags.items():
            self._client.set_model_version_tag(self.model_name, str(version), mlflow_name(name), str(value))

    def delete_tag(self, version: str, name: str) -> None:
        """Take a version's tag away; nothing happens where it has none of that name."""
        if mlflow_name(name) in self.version(version).tags:
            self._client.delete_model_version_tag(self.model_name, str(version), mlflow_name(name))

    def parameters(self, version: str) -> dict[str, str]:
        """Parameters of a version's run, as text."""
        run_id = self.version(version).run_id
        return dict(self._client.get_run(run_id).data.params) if run_id else {}

    def run_of(self, version: str) -> RunHandle:
        """The run that made a version, to write to or to read files from."""
        return RunHandle(run_id=self.version(version).run_id, client=self._client)

    def describe(self, version: str, text: str) -> None:
        """Set a version's description (its model card, Markdown); what is too long for it is whole in the run's files."""
        self.run_of(version).log_text(f"model_card_{version}.md", text)
        if len(text) > DESCRIPTION_LENGTH:
            end = f"\n\n... whole in the run's `model_card_{version}.md`"
            text = text[: DESCRIPTION_LENGTH - len(end)] + end
        self._client.update_model_version(self.model_name, str(version), text)

    def download(self, version: str, target: Path) -> Path:
        """Put a version's bundle at `target`, every byte checked; returns `target`. A right one already there is kept.

        Raises `Corrupt` where the stored files are not those of the version's digest, `BadInput` where the version does
        not exist or `target` is a folder of something else.
        """
        info = self.version(version)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            if not (target / MANIFEST).is_file():
                raise BadInput(f"{target} is in the way and is no bundle; choose another folder")
            with contextlib.suppress(Corrupt):
                if verify_dir(target)["digest"] == info.digest:
                    return target
        from mlflow.exceptions import MlflowException

        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp") as staging:
            try:
                place = f"bundle/{info.digest[:16]}"
                with servers.telling(self.tracking_uri):
                    folder = Path(self.run_of(version).files.download_artifacts(place, staging))
                found = str(verify_dir(folder)["digest"])
            except (FileNotFoundError, NotADirectoryError, MlflowException) as error:  # no artifact, or no manifest
                raise Corrupt(
                    f"the files of {self.model_name} version {version} are not there; run `miss materialize` again"
                ) from error
            if found != info.digest:
                raise Corrupt(f"version {version} holds bundle {found[:16]}, not {info.digest[:16]} as registered")
            with self.lock():
                if target.exists():
                    shutil.rmtree(target)
                os.replace(folder, target)
        return target

    def prune(self, keep: int) -> list[str]:
        """Delete versions that are not among the `keep` newest and have no alias, with their files; returns which.

        The runs stay, with their parameters, metrics and cards. Raises `BadInput` for fewer than 3.
        """
        if keep < KEPT_AT_LEAST:
            raise BadInput(f"keep={keep} versions would delete what one may want back; keep at least {KEPT_AT_LEAST}")
        gone = []
        with self.lock():
            for info in self.versions()[:-keep]:
                if info.aliases:
                    continue
                if info.run_id and info.digest:
                    with servers.telling(self.tracking_uri):
                        for place in ("bundle", MODEL_FILES):
                            self.run_of(info.version).delete(f"{place}/{info.digest[:16]}")
                self._client.delete_model_version(self.model_name, info.version)
                gone.append(info.version)
        return gone

    def _search(self, query: str) -> list[ModelVersionInfo]:
        if not self.exists:
            return []
        aliases = self.aliases()
        found, token = [], None
        while True:
            page = self._client.search_model_versions(query, max_results=1000, page_token=token)
            found += [self._info(each, aliases) for each in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda info: int(info.version))

    @staticmethod
    def _info(found: Any, aliases: Mapping[str, str]) -> ModelVersionInfo:
        version = str(found.version)
        return ModelVersionInfo(
            version=version,
            digest=found.tags.get(DIGEST_TAG, ""),
            run_id=found.run_id or "",
            tags=dict(found.tags),
            aliases=tuple(sorted(alias for alias, each in aliases.items() if each == version)),
            description=found.description or "",
            created_at=found.creation_timestamp / 1000,
        )
