"""What a team would lose: a promotion in the real registry that is not served, one by a hand that is, half a download."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from shared_servers import ROOT, answers, free_port, listens, process
from terminal import Miss

from model.files import verify_dir
from orchestration.commands.home import registry_of, settings
from orchestration.commands.source import ChampionSource
from serving.follow import Follower
from serving.live import Live


class Following:
    """A follower of the home that MISS_HOME names, asked to look by hand."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.live, self.source = Live(), ChampionSource(settings())
        self.follower = Follower(self.source, say=self.said.append, threads=1)

    def serves(self) -> str:
        """The version that serves after a look."""
        self.follower.look(self.live)
        return self.live.engine.version


def test_promotions_and_rollbacks_are_followed(miss: Miss, home: Path) -> None:
    """By the command line, as people do it; each answer leads to the version's page in MLflow."""
    following = Following()
    assert following.serves() == "1"
    assert miss("promote", "--reason", "better").code == 0
    assert following.serves() == "3"
    promoted = following.follower.promoted
    assert promoted is not None
    version = registry_of(settings()).version("3")
    assert following.live.engine.digest == version.digest
    assert promoted.links["mlflow_version"] == "http://127.0.0.1:5000/#/models/miss-retrieval/versions/3"
    assert promoted.links["mlflow_run"] == f"http://127.0.0.1:5000/#/experiments/1/runs/{version.run_id}"
    assert miss("rollback", "--reason", "complaints").code == 0
    assert following.serves() == "1"
    assert len(following.said) == 3


def test_a_hand_that_moves_the_alias_to_what_was_not_judged_changes_nothing(home: Path) -> None:
    """Version 2 has no verdict: it is put back, and was never served meanwhile."""
    following = Following()
    assert following.serves() == "1"
    registry_of(settings()).set_alias("champion", "2")
    assert following.serves() == "1"
    assert registry_of(settings()).aliases()["champion"] == "1"
    assert len(list((home / "bundles").iterdir())) == 1


def test_a_look_at_what_has_not_moved_opens_no_books(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ten seconds, beside a gate that holds them for its verdict."""
    following = Following()
    assert following.serves() == "1"
    monkeypatch.setattr("assets.stores.duck.DuckFile._open", lambda *_, **__: pytest.fail("opened"))
    assert following.serves() == "1"
    assert following.follower.told.unanswered._value.get() == 0


def test_files_of_the_registry_that_are_damaged_are_not_served_and_mended_are(miss: Miss, home: Path) -> None:
    """Torn in the store itself, behind a right digest."""
    following = Following()
    assert following.serves() == "1"
    assert miss("promote", "--reason", "better").code == 0
    registry = registry_of(settings())
    stored = Path(registry.run_of("3").files.download_artifacts(f"bundle/{registry.version('3').digest[:16]}"))
    graph = stored / "retrieval.onnx"
    whole = graph.read_bytes()
    try:
        graph.write_bytes(whole[:-1])
        assert following.serves() == "1"
        graph.unlink()
        assert following.serves() == "1"
    finally:
        graph.write_bytes(whole)
    assert "so version 1 serves on" in following.said[-1]
    assert len(list((home / "bundles").iterdir())) == 1, "nothing of it stays"
    following.follower._retry_at = 0
    assert following.serves() == "3"


def test_a_database_that_is_no_more_changes_nothing(home: Path) -> None:
    """The file goes to another machine, or a disk fails: users still get answers."""
    following = Following()
    assert following.serves() == "1"
    whole = (home / "mlflow.db").read_bytes()
    (home / "mlflow.db").write_bytes(b"not a database" * 1000)
    assert following.serves() == "1"
    assert following.follower.told.unreachable._value.get() == 1
    (home / "mlflow.db").write_bytes(whole)
    assert following.serves() == "1"
    assert following.follower.told.unreachable._value.get() == 0


KILLED = """
import sys, time
from pathlib import Path
from assets.stores import registry
from orchestration.commands.home import settings
from orchestration.commands.source import ChampionSource

def never(folder):
    Path(sys.argv[1]).write_text(str(folder))
    time.sleep(60)

registry.verify_dir = never
source = ChampionSource(settings())
source.fetch(source.current())
"""


def test_a_kill_in_the_middle_of_a_download_leaves_nothing_half(home: Path, tmp_path: Path) -> None:
    """Whoever starts the service again must not find a bundle that was never finished, nor pay for it with disk for ever."""
    marker = tmp_path / "verifying"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(marker)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as child:
        until = time.monotonic() + 60
        while not marker.exists() or not marker.read_text():
            assert child.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
    (left,) = (home / "bundles").iterdir()
    assert left.name.startswith(".")
    assert (Path(marker.read_text()) / "manifest.json").exists(), "it was all but finished"
    following = Following()
    assert following.serves() == "1"
    verify_dir(following.live.engine.folder)
    assert left.exists(), "another process might be downloading"
    os.utime(left, (0, 0))
    promoted = registry_of(settings()).version("3")
    following.source.fetch(type(following.follower.promoted)(version="3", digest=promoted.digest))  # type: ignore[misc]
    assert not left.exists()


def test_bundles_that_nobody_asks_for_any_more_go(miss: Miss, home: Path) -> None:
    """A promotion a day would fill the disk within months; what an alias may lead back to stays."""
    old = home / "bundles" / "0123456789abcdef"
    old.mkdir(parents=True)
    following = Following()
    assert following.serves() == "1"
    assert old.exists(), "used within the week"
    for each in (home / "bundles").iterdir():
        os.utime(each, (0, 0))
    assert miss("promote", "--reason", "better").code == 0
    assert following.serves() == "3"
    digests = {registry_of(settings()).version(version).digest[:16] for version in ("1", "3")}
    assert {each.name for each in (home / "bundles").iterdir()} == digests


# -- real processes ------------------------------------------------------------------------------------------------------


def soon(url: str, version: str, *, within_s: float = 20) -> float:
    """Seconds until the service answers with a version."""
    begun = time.monotonic()
    while True:
        told = httpx.get(f"{url}/v1/model")
        if told.status_code == 200 and told.json()["model_version"] == version:
            return time.monotonic() - begun
        assert time.monotonic() - begun < within_s, told.text
        time.sleep(0.05)


@pytest.mark.slow
def test_mlflows_server_tells_the_service_which_serves_at_once(
    home: Path, miss: Miss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server signs and delivers, and the service, which would look in an hour, serves the promoted version."""
    from cryptography.fernet import Fernet

    ports = free_port(), free_port()
    mlflow, service = (f"http://127.0.0.1:{port}" for port in ports)
    given = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    given |= {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
    }
    server = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--workers",
        "1",
        "--host",
        "127.0.0.1",
        "--port",
        str(ports[0]),
    ]
    server += ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"]
    own = {"MISS_MLFLOW_URI": mlflow, "MISS_WEBHOOK_SECRET": "between the two", "MISS_FOLLOW_SECONDS": "3600"}
    serve = [sys.executable, "-W", "ignore", "-m", "orchestration.cli", "serve", "--port", str(ports[1])]
    log = tmp_path / "service.log"
    with process(server, tmp_path / "mlflow.log", ready=lambda: answers(f"{mlflow}/health"), env=given):
        for name, value in own.items():
            monkeypatch.setenv(name, value)
        registry = registry_of(settings())
        registry._client.create_webhook(
            "miss",
            f"{service}/v1/webhooks/mlflow",
            ["model_version_alias.created"],
            secret="between the two",
        )
        with process(serve, log, ready=lambda: listens(ports[1]), env=given | own, cwd=tmp_path):
            soon(service, "1", within_s=60)
            assert miss("promote", "--reason", "better").code == 0
            spent = soon(service, "3")
            print(f"served {spent:.2f} s after `miss promote` had ended")
            assert httpx.get(f"{service}/v1/links").json()["mlflow_version"].startswith(f"{mlflow}/#/models/")
            assert httpx.post(f"{service}/v1/webhooks/mlflow").status_code == 401
            assert "serves now" in log.read_text()
