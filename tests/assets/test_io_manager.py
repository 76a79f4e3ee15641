"""Artifacts through Dagster: what is materialized must be seen in the event log with its version, and reach the next asset."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.stores.artifacts import Artifact, ArtifactStore
from assets.stores.io_manager import ArtifactIOManager, materialized
from model.errors import Corrupt, NotReady


class Words(dg.Config):
    text: str = "one two"


def _build(text: str) -> Any:
    def build(folder: Path, work: Path) -> dict[str, Any]:
        (folder / "text.txt").write_text(text)
        return {"rows": len(text.split()), "by_length": {"3": 2}}

    return build


def _graph(root: Path) -> list[dg.AssetsDefinition]:
    store = ArtifactStore(root)

    @dg.asset(code_version="1")
    def words(config: Words) -> dg.MaterializeResult[Artifact]:
        artifact, reused = store.produce(
            "words", code_version="1", config=config.model_dump(), inputs={}, build=_build(config.text)
        )
        return materialized(artifact, reused=reused)

    @dg.asset(code_version="1")
    def shout(words: Artifact) -> dg.MaterializeResult[Artifact]:
        text = (words.path / "text.txt").read_text().upper()
        artifact, reused = store.produce(
            "shout", code_version="1", config={}, inputs={"words": words}, build=_build(text)
        )
        return materialized(artifact, reused=reused, plot=dg.MetadataValue.md("a plot"))

    @dg.asset(deps=[shout])
    def table() -> None:
        return None

    return [words, shout, table]


def _run(
    root: Path, instance: dg.DagsterInstance, *, text: str = "one two", **options: Any
) -> dg.ExecuteInProcessResult:
    config = {"ops": {"words": {"config": {"text": text}}}}
    return dg.materialize(
        _graph(root),
        resources={"io_manager": ArtifactIOManager(root=str(root))},
        instance=instance,
        run_config={} if options else config,
        **options,
    )


def _event(instance: dg.DagsterInstance, asset: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def test_versions_and_metadata_are_in_the_event_log_and_nothing_is_pickled(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert _run(tmp_path, instance).success
        words = ArtifactStore(tmp_path).current("words")
        shout = ArtifactStore(tmp_path).current("shout")
        event = _event(instance, "shout")
        assert event.tags is not None
        assert event.tags["dagster/data_version"] == shout.data_version
        assert event.tags["dagster/input_data_version/words"] == words.data_version
        assert event.tags["dagster/code_version"] == "1"
        found = {name: value.value for name, value in event.metadata.items()}
        assert found["rows"] == 2
        assert found["by_length"] == {"3": 2}
        assert found["reused"] is False
        assert found["path"] == str(shout.path)
        assert found["plot"] == "a plot"
        assert found["build_seconds"] >= 0
        assert (shout.path / "text.txt").read_text() == "ONE TWO"
        files = {path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".lock")}
        assert files == {"current.json", "manifest.json", "text.txt"}
        assert _run(tmp_path, instance).success
        assert _event(instance, "shout").metadata["reused"].value is True
        assert _run(tmp_path, instance, text="three").success
        assert _event(instance, "shout").tags["dagster/data_version"] != shout.data_version  # type: ignore[index]


def test_one_asset_alone_takes_what_was_made_upstream_before(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(NotReady, match="'words' has not been made"):
            _run(tmp_path, instance, selection=["shout"])
        assert _run(tmp_path, instance, selection=["words"]).success
        assert _run(tmp_path, instance, selection=["shout"]).success
        (ArtifactStore(tmp_path).current("words").path / "manifest.json").unlink()
        with pytest.raises(Corrupt, match="miss materialize"):
            _run(tmp_path, instance, selection=["shout"])


def test_a_run_sees_what_it_made_itself_whatever_another_run_makes_meanwhile(tmp_path: Path) -> None:
    """A sensor that keeps the catalogue fresh must not put another catalogue under a training that has begun."""
    with dg.DagsterInstance.ephemeral() as instance:
        words, *_ = _graph(tmp_path)

        @dg.asset(deps=[words])
        def meanwhile() -> None:
            assert _run(tmp_path, instance, text="four five six").success
            assert ArtifactStore(tmp_path).current("words").meta["rows"] == 3

        @dg.asset(deps=[meanwhile])
        def late(words: Artifact) -> dg.MaterializeResult[None]:
            return dg.MaterializeResult(metadata={"rows": words.meta["rows"]})

        done = dg.materialize(
            [words, meanwhile, late],
            resources={"io_manager": ArtifactIOManager(root=str(tmp_path))},
            instance=instance,
            run_config={"ops": {"words": {"config": {"text": "one two"}}}},
        )
        assert done.success
        assert _event(instance, "late").metadata["rows"].value == 2
        assert ArtifactStore(tmp_path).current("words").meta["rows"] == 3


def test_anything_but_the_assets_own_artifact_is_refused(tmp_path: Path) -> None:
    artifact, _ = ArtifactStore(tmp_path).produce("words", code_version="1", config={}, inputs={}, build=_build("x"))

    @dg.asset
    def numbers() -> list[int]:
        return [1, 2]

    @dg.asset
    def other() -> Artifact:
        return artifact

    resources = {"io_manager": ArtifactIOManager(root=str(tmp_path))}
    with pytest.raises(TypeError, match="'numbers' returned a list"):
        dg.materialize([numbers], resources=resources, instance=dg.DagsterInstance.ephemeral())
    with pytest.raises(TypeError, match="'other' returned the artifact of 'words'"):
        dg.materialize([other], resources=resources, instance=dg.DagsterInstance.ephemeral())
