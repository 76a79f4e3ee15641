"""Hands artifacts from asset to asset: what travels is a pointer to a published folder, never a pickled object.

- `materialized` turns a produced artifact into the asset's result, with its data version and what it cost; annotate the
  asset with `-> MaterializeResult[Artifact]`, or nothing is handed on.
- `handle_output` makes the artifact the asset's current one. `load_input` gives the one that this very run has made, by the event
  log, so that a run sees one state of the data whatever other runs do meanwhile; else the current one of the asset upstream.
- Assets that live in the warehouse return no artifact (`None`, or `MaterializeResult`) and are named in `deps`.
"""

import base64
from pathlib import Path
from typing import Any

from dagster import (
    ConfigurableIOManager,
    DagsterEventType,
    DataVersion,
    InputContext,
    MaterializeResult,
    MetadataValue,
    OutputContext,
)

from assets.stores.artifacts import RECIPE, Artifact, ArtifactStore
from model.errors import Corrupt
from model.files import MANIFEST

__all__ = ["ArtifactIOManager", "materialized", "picture"]


def materialized(artifact: Artifact, *, reused: bool, **metadata: Any) -> MaterializeResult[Artifact]:
    """The result of an asset that made `artifact`: its content's digest as data version, its metadata in the event log.

    Numbers and texts of `artifact.meta` become entries of their own, anything nested becomes JSON; `metadata` is added
    and wins (plots, tables).
    """
    entries: dict[str, Any] = {"path": MetadataValue.path(artifact.path), "key": artifact.key, "reused": reused}
    entries["build_seconds"] = artifact.seconds
    for name, value in artifact.meta.items():
        if name != RECIPE:
            plain = isinstance(value, bool | int | float | str)
            entries[name] = value if plain or value is None else MetadataValue.json(value)
    # not `Output`: its data_version warns of being beta, this one's does not
    version = DataVersion(artifact.data_version)
    return MaterializeResult(value=artifact, data_version=version, metadata=entries | metadata)


def picture(path: Path) -> MetadataValue:
    """A PNG as it shows in Dagster's UI, from the file itself: no server, no request."""
    data = base64.b64encode(path.read_bytes()).decode()
    return MetadataValue.md(f"![{path.stem}](data:image/png;base64,{data})")


class ArtifactIOManager(ConfigurableIOManager):
    """Artifacts under `root`; loads and stores nothing but pointers."""

    root: str

    @property
    def store(self) -> ArtifactStore:
        """The store behind it."""
        return ArtifactStore(Path(self.root))

    def handle_output(self, context: OutputContext, obj: Artifact | None) -> None:
        """Make `obj` current; TypeError for anything that is not this asset's own artifact."""
        if obj is None:
            return
        name = context.asset_key.path[-1]
        if not isinstance(obj, Artifact) or obj.asset != name:
            told = f"the artifact of {obj.asset!r}" if isinstance(obj, Artifact) else f"a {type(obj).__name__}"
            raise TypeError(f"asset {name!r} returned {told}; return its own Artifact from ArtifactStore.produce")
        self.store.point(obj)

    def load_input(self, context: InputContext) -> Artifact:
        """The artifact of the asset upstream; `NotReady` where it was never made, `Corrupt` where it is gone."""
        name, key = context.asset_key.path[-1], _made_in_this_run(context)
        artifact = self.store.current(name) if key is None else self.store.of_key(name, key)
        if not (artifact.path / MANIFEST).is_file():
            raise Corrupt(f"{artifact.path} has no {MANIFEST}; run `miss materialize` again")
        context.add_input_metadata({"key": artifact.key, "data_version": artifact.data_version})
        return artifact


def _made_in_this_run(context: InputContext) -> str | None:
    """Key of the artifact that the run has materialized of the input's asset; None where it has not."""
    records = context.instance.get_records_for_run(
        context.step_context.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION
    ).records
    made = [each.asset_materialization for each in records if each.asset_key == context.asset_key]
    return str(made[-1].metadata["key"].value) if made and made[-1] else None
