"""What a team would lose: a promotion that is not served, a bad bundle that is, and a service that dies of a registry's bad day."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from folder_source import FolderSource

from model.errors import Busy
from model.files import digest_json, read_json, read_npz, write_json, write_npz
from serving.api import links
from serving.app import create_app
from serving.follow import Follower
from serving.live import Live


class Follows:
    """A follower that is asked to look by hand, over a service without a thread."""

    def __init__(self, root: Path, **options: float) -> None:
        self.source, self.said, self.live = FolderSource(root), [], Live()
        self.follower = Follower(self.source, say=self.said.append, threads=1, **options)

    def look(self) -> float:
        return self.follower.look(self.live)

    def told(self, name: str) -> float:
        """A metric's value."""
        found = {
            sample.name: sample.value
            for each in vars(self.follower.told).values()
            for family in each.collect()
            for sample in family.samples
        }
        return found[name]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2."""
    source = FolderSource(tmp_path_factory.mktemp("made"))
    for version in ("1", "2"):
        source.make(version)
    return source.root


@pytest.fixture
def follows(made: Path, tmp_path: Path) -> Follows:
    """Version 1 serves, 2 is there; the bundles are copies."""
    import shutil

    shutil.copytree(made, tmp_path / "root")
    found = Follows(tmp_path / "root")
    found.source.promote("1")
    found.look()
    return found


def rewritten(folder: Path, change: Callable[[], None]) -> None:
    """Change a bundle and give it a manifest that agrees: what somebody published so, digests and all."""
    from model.files import MANIFEST, digest_file

    change()
    manifest = read_json(folder / MANIFEST)
    for name, entry in manifest["files"].items():
        entry |= {"sha256": digest_file(folder / name), "bytes": (folder / name).stat().st_size}
    manifest["digest"] = digest_json({name: entry["sha256"] for name, entry in manifest["files"].items()})
    write_json(folder / MANIFEST, manifest)


def torn(folder: Path) -> None:
    graph = folder / "retrieval.onnx"
    graph.write_bytes(graph.read_bytes()[:-1000])


def cut_off_manifest(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:50])


def file_is_missing(folder: Path) -> None:
    (folder / "items.npz").unlink()


def nothing_there(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def no_graph(folder: Path) -> None:
    rewritten(folder, lambda: (folder / "retrieval.onnx").write_bytes(b"no graph") and None)


def other_answers(folder: Path) -> None:
    golden = read_npz(folder / "golden.npz")
    rewritten(folder, lambda: write_npz(folder / "golden.npz", golden | {"scores": golden["scores"] + np.float32(0.1)}))


def other_catalogue(folder: Path) -> None:
    items = read_npz(folder / "items.npz")
    rewritten(folder, lambda: write_npz(folder / "items.npz", {name: each[:-1] for name, each in items.items()}))


BAD = {
    torn: "is not the file that was published",
    cut_off_manifest: "is not readable JSON",
    file_is_missing: "is missing or not listed",
    nothing_there: "holds no bundle",
    no_graph: "not a graph that ONNX Runtime can load",
    other_answers: "answers golden request 1",
    other_catalogue: "tables of 59 and of 60 items",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda each: each.__name__)
def test_a_bad_bundle_leaves_the_old_one_serving_and_raises_the_alert(
    follows: Follows, spoil: Callable[[Path], None]
) -> None:
    """Users keep their recommendations, whoever is on duty gets a sentence that says what is wrong."""
    before = follows.live.engine
    spoil(follows.source.root / "bundles" / "2")
    path = follows.source.root / "bundles" / "2" / "manifest.json"
    whole = spoil not in (cut_off_manifest, nothing_there)
    follows.source.promote("2", digest=str(read_json(path)["digest"]) if whole else "0" * 64)
    follows.look()
    assert follows.live.engine is before
    assert follows.told("miss_reload_failed") == 1
    assert follows.told("miss_reload_failures_total") == 1
    assert follows.told("miss_engines") == 1
    sentence = follows.said[-1]
    assert sentence.startswith("version 2 is promoted and cannot be loaded, so version 1 serves on: ")
    assert BAD[spoil] in sentence
    assert "\n" not in sentence


def test_another_bundle_than_the_registered_one_is_not_even_parsed(
    follows: Follows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and sound, and not what was judged: somebody exchanged it as a whole. Nothing of it reaches a parser."""
    follows.source.promote("2", digest="f" * 64)
    monkeypatch.setattr("serving.engine.read_npz", lambda path: pytest.fail(f"parsed {path}"))
    follows.look()
    assert follows.live.engine.version == "1"
    assert "not ffffffffffffffff as registered" in follows.said[-1]


def test_a_bad_bundle_is_tried_again_after_a_pause_that_grows_and_told_once(follows: Follows) -> None:
    """A service that fetched gigabytes every ten seconds all night would be the next incident."""
    clock = [1000.0]
    source, follower = follows.source, follows.follower
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.follow.time.monotonic", lambda: clock[0])
        source.promote("2", digest="f" * 64)
        tries = []
        for _ in range(2000):  # two thousand looks of ten seconds
            fetches = source.fetches
            follower.look(follows.live)
            if source.fetches > fetches:
                tries.append(clock[0])
            clock[0] += 10
    gaps = np.diff(tries)
    assert gaps[0] >= 0.8 * 30
    assert (gaps[1:4] > 1.2 * gaps[:3]).all(), "each pause is longer than the one before"
    assert gaps.max() <= 1.2 * 300 + 10
    assert len([each for each in follows.said if "cannot be loaded" in each]) == 1
    # promoted again, mended: taken at the next look, and the alert goes
    source.promote("2")
    follows.look()
    assert (follows.live.engine.version, follows.told("miss_reload_failed")) == ("2", 0)


def test_taking_a_bad_promotion_back_ends_the_alert_without_a_load(follows: Follows) -> None:
    """A rollback in the registry is the way out that whoever is on duty has."""
    before = follows.live.engine
    follows.source.promote("2", digest="f" * 64)
    follows.look()
    follows.source.promote("1")
    fetches = follows.source.fetches
    follows.look()
    assert (follows.told("miss_reload_failed"), follows.source.fetches) == (0, fetches)
    assert follows.live.engine is before


def test_a_registry_that_is_away_changes_nothing_and_is_asked_more_and_more_rarely(follows: Follows) -> None:
    """It would come back to a fleet that asks it all at once."""
    follows.source.error = ConnectionError("no route\nto host")
    random.seed(0)
    pauses = [follows.look() for _ in range(12)]
    assert follows.live.engine.version == "1"
    assert follows.told("miss_registry_unreachable") == 1
    assert follows.told("miss_registry_failures_total") == 12
    assert pauses[0] < pauses[2] < pauses[4]
    assert 200 < max(pauses) <= 360
    assert len(set(pauses[-4:])) == 4, "by chance"
    assert follows.said[1:] == [
        "it cannot be known what is promoted, so version 1 serves on: ConnectionError: no route to host"
    ]
    follows.source.error = None
    follows.source.promote("2")
    assert follows.look() < 13
    assert (follows.live.engine.version, follows.told("miss_registry_unreachable")) == ("2", 0)
    assert follows.said[2] == "the registry answers again"


def test_a_registry_that_goes_away_during_a_download_is_no_fault_of_the_bundle(
    follows: Follows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again at the next look, not after the pause for what is bad."""

    def away(_: object) -> Path:
        raise Busy("mlflow does not answer; start it")

    follows.source.promote("2")
    with monkeypatch.context() as patch:
        patch.setattr(follows.source, "fetch", away)
        follows.look()
    assert (follows.told("miss_reload_failed"), follows.told("miss_registry_unreachable")) == (0, 1)
    follows.look()
    assert follows.live.engine.version == "2"


def test_an_alias_that_vanishes_leaves_what_serves(follows: Follows) -> None:
    """No champion is no reason to answer nobody."""
    follows.source.promote(None)
    follows.look()
    assert follows.live.engine.version == "1"


def test_the_old_engine_is_let_go(follows: Follows) -> None:
    """Kept by anything, twenty promotions would be twenty models in memory."""
    for version in ("2", "1", "2"):
        follows.source.promote(version)
        follows.look()
    assert follows.told("miss_engines") == 1
    assert follows.told("miss_swaps_total") == 4


# -- beside a service ----------------------------------------------------------------------------------------------------


def soon(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@contextmanager
def service(follows: Follows, **options: float) -> Iterator[TestClient]:
    follower = follows.follower
    pages = links.router(follower, dagster="http://dagster", mlflow="http://mlflow")
    with TestClient(create_app(follows.live, routers=[pages], beside=[follower.beside])) as client:
        yield client


def test_started_before_the_first_promotion_it_serves_from_then_on(made: Path, tmp_path: Path) -> None:
    """A new home: the service may be started first, a probe keeps users away, and nobody restarts it."""
    (tmp_path / "bundles").symlink_to(made / "bundles")
    follows = Follows(tmp_path, poll_s=0.1)
    with service(follows) as client:
        soon(lambda: follows.source.looks > 1)
        told = client.get("/health/ready")
        assert (told.status_code, client.get("/health/live").status_code) == (503, 200)
        assert told.json()["detail"].startswith("nothing is promoted yet; run `miss materialize`")
        assert client.get("/v1/links").json() == {
            "dagster": "http://dagster",
            "mlflow": "http://mlflow",
        } | dict.fromkeys(("model_version", "mlflow_version", "mlflow_run", "dagster_run"))
        follows.source.promote("1", digest="f" * 64)
        soon(lambda: "cannot be loaded" in client.get("/health/ready").json().get("detail", ""))
        follows.source.error = ConnectionError("gone")
        soon(lambda: "cannot be known" in client.get("/health/ready").json().get("detail", ""))
        follows.source.error = None
        follows.source.promote("1")
        soon(lambda: client.get("/health/ready").status_code == 200)
        told = client.post("/v1/recommend", json={"user": "user-03"}).json()
        assert told["model_version"] == "1"
        assert client.get("/v1/links").json()["mlflow_version"] == "http://mlflow/1"
        text = client.get("/metrics").text
        assert "miss_swaps_total 1.0" in text
        assert "miss_reload_failed 0.0" in text
    assert not [each for each in threading.enumerate() if each.name == "miss-follow"]


def test_woken_it_looks_at_once(follows: Follows) -> None:
    """What a webhook is for: a promotion is served within a second, not within a poll."""
    with service(follows) as client:
        soon(lambda: follows.source.looks > 1)
        follows.source.promote("2")
        time.sleep(0.3)
        assert client.get("/v1/model").json()["model_version"] == "1"
        follows.follower.wake()
        soon(lambda: client.get("/v1/model").json()["model_version"] == "2")


def test_a_defect_in_the_source_does_not_end_following(follows: Follows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that died of an exception would leave yesterday's model serving, with nothing to see."""
    monkeypatch.setattr(follows.follower, "_poll_s", 0.05)
    follows.source.error = ZeroDivisionError("a defect")
    with service(follows) as client:
        soon(lambda: follows.source.looks > 3)
        follows.source.error = None
        follows.source.promote("2")
        soon(lambda: client.get("/v1/model").json()["model_version"] == "2")
