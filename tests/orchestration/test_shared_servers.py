"""MLflow, PostgreSQL and S3 as a team shares them, all real processes, against the code as it runs from day to day.

What a team would lose: a bundle that does not come back byte for byte on the machine that serves it, a champion put back by a
machine that has no ledger, runs that two machines do not both see, a password in a log, and minutes of waiting for a server.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from shared_servers import (
    BUCKET,
    PASSWORD,
    QUOTED,
    ROOT,
    Storage,
    answers,
    free_port,
    installed,
    mlflow_server,
    postgres,
    process,
    s3,
)
from terminal import Miss
from tiny_bundle import publish

from assets.release.promotion import Promotion
from assets.release.review import carry_out
from assets.settings import Settings
from assets.stores import servers
from assets.stores.books import Books
from assets.stores.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from assets.stores.resource import Stores
from model.errors import Corrupt, MissError, NotReady
from model.files import verify_dir

pytestmark = pytest.mark.slow
RULES = [{"name": "beats-popularity", "value": 0.3, "bound": 0.0, "baseline": 0.1, "passed": True}]


@pytest.fixture(scope="module")
def databases() -> Iterator[dict[str, str]]:
    with postgres() as found:
        yield found


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with s3(tmp_path_factory.mktemp("s3") / "log") as found:
        yield found


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tracking server's address; over SQLite only where PostgreSQL is not installed."""
    folder = tmp_path_factory.mktemp("mlflow")
    store = f"sqlite:///{folder / 'server.db'}"
    if installed():
        store = request.getfixturevalue("databases")["mlflow"].replace("postgresql:", "postgresql+psycopg2:")
    with mlflow_server(store, storage, folder / "log") as found:
        yield found
    assert QUOTED not in (folder / "log").read_text()
    assert PASSWORD not in (folder / "log").read_text()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Small real bundles by number."""
    folder = tmp_path_factory.mktemp("bundles")

    def make(number: int) -> Path:
        place = folder / str(number)
        return place if place.exists() else publish(place, note=f"bundle {number}")

    return make


class Machine:
    """A home with a ledger of its own; its clients get no key for S3, which is the server's business."""

    def __init__(self, home: Path, name: str) -> None:
        self.settings = Settings(home=home, model_name=name)
        stores = Stores(home=str(home))
        self.books, self.registry = Books(self.settings.books), stores.registry
        self.promotion = Promotion(self.books, self.registry)

    def register(self, bundle: Path) -> str:
        with self.registry.run("candidate") as run:
            version = self.registry.register(bundle, run_id=run.run_id)
        digest = self.registry.version(version).digest
        self.books.record_verdict(digest, True, {"bundle_digest": digest, "rules": RULES})
        return version

    def story(self) -> list[tuple[str, str, str]]:
        return [(row["action"], row["version"], row["actor"]) for row in self.books.ledger()]


@pytest.fixture
def machine(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], Machine]:
    """Machines by name that share one tracking server, set by MLflow's own variable, and one model of their own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MISS_MODEL_NAME", request.node.name)
    return lambda name: Machine(tmp_path / name, request.node.name)


def test_a_release_from_its_registration_to_its_end_over_a_tracking_server(
    machine: Callable[[str], Machine], bundles: Callable[[int], Path], storage: Storage, tmp_path: Path
) -> None:
    pipeline = machine("pipeline")
    first, second = (pipeline.register(bundles(number)) for number in (1, 2))
    assert pipeline.registry.aliases() == {CHALLENGER: second}
    pipeline.promotion.bootstrap(first)
    reviewer = machine("reviewer").registry  # MLflow's UI, which has no ledger
    reviewer.set_tags(second, {"review": "approved", "review_by": "ann"})
    assert [answer["review"] for answer in carry_out(pipeline.promotion)] == ["promoted"]
    assert pipeline.registry.aliases() == {CHAMPION: second, PREVIOUS: first}
    began = time.monotonic()
    pipeline.promotion.rollback(actor="bob", reason="complaints")
    assert time.monotonic() - began < 5
    assert reviewer.aliases() == {CHAMPION: first, PREVIOUS: second}
    assert pipeline.story() == [("bootstrap", "1", "miss"), ("promote", "2", "ann"), ("rollback", "1", "bob")]
    assert pipeline.promotion.champion.check_ledger() == 3
    # text, pictures and descriptions take the same way
    pipeline.registry.describe(second, "# Card\n" + "x" * 9000)
    assert len(reviewer.version(second).description) == 5000
    assert any(key.endswith("model_card_2.md") for key in storage.names())
    # every byte is in the object storage, and a changed one is never handed out
    digest = reviewer.version(first).digest
    keys = [key for key in storage.names() if f"bundle/{digest[:16]}/" in key]
    files = {path.name for path in bundles(1).rglob("*") if path.is_file()}
    assert {Path(key).name for key in keys} == files
    assert verify_dir(reviewer.download(first, tmp_path / "got")) == verify_dir(bundles(1))
    note = next(key for key in keys if key.endswith("note.txt"))
    storage.client.put_object(Bucket=BUCKET, Key=note, Body=b"bundle 7")
    with pytest.raises(Corrupt, match="sha256 differs"):
        reviewer.download(first, tmp_path / "again")
    assert pipeline.registry.register(bundles(1), run_id=reviewer.version(first).run_id) == first, "which repairs it"
    assert reviewer.download(first, tmp_path / "again").is_dir()
    # old versions go with their objects
    for number in (3, 4, 5, 6):
        pipeline.register(bundles(number))
    gone = pipeline.registry.version("3").digest
    assert any(f"bundle/{gone[:16]}/" in key for key in storage.names())
    assert pipeline.registry.prune(3) == ["3"]
    assert not any(f"bundle/{gone[:16]}/" in key for key in storage.names())
    assert [each.version for each in reviewer.versions()] == ["1", "2", "4", "5", "6"]


def test_a_service_needs_mlflow_and_nothing_else_and_moves_nothing(
    machine: Callable[[str], Machine], bundles: Callable[[int], Path], empty_home: Path, miss: Miss, tmp_path: Path
) -> None:
    pipeline = machine("pipeline")
    first, second = (pipeline.register(bundles(number)) for number in (1, 2))
    pipeline.promotion.bootstrap(first)
    port = free_port()
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", "orchestration.cli", "serve", "--port", str(port)]
    service = f"http://127.0.0.1:{port}"
    health = f"{service}/health/ready"
    log = tmp_path / "service.log"
    with process(command, log, ready=lambda: answers(health), env=environment, cwd=tmp_path / "elsewhere"):
        with urllib.request.urlopen(f"{service}/v1/model") as found:
            told = json.load(found)
        assert (told["model_version"], told["digest"]) == (first, pipeline.registry.version(first).digest)
        wanted = urllib.request.Request(
            f"{service}/v1/recommend",
            data=b'{"user": "user-03", "k": 3}',
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(wanted) as found:
            assert len(json.load(found)["items"]) == 3
    assert not (empty_home / "books.duckdb").exists(), "a machine that serves keeps no ledger"
    # somebody moves the alias to a version that failed: what was promoted is served, and nothing is moved from here
    pipeline.registry.set_alias(CHAMPION, second)
    pipeline.books.record_verdict(pipeline.registry.version(second).digest, False, {"rules": RULES})
    said = miss("recommend", "--user", "user-03", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["version"] == first
    for command in (["promote", second, "--reason", "mine"], ["rollback", "--reason", "mine"]):
        said = miss(*command)
        assert said.code == NotReady.exit_code
        assert "promote on the machine that has it" in said.sentence()
    assert pipeline.registry.aliases()[CHAMPION] == second
    with pytest.raises(NotReady, match="MISS_MODEL_NAME"):
        machine("another catalogue").promotion.bootstrap(second)
    told = json.loads(miss("doctor", "--json").out)
    checks = {check["name"]: (check["status"], check["detail"]) for check in told["checks"]}
    assert checks["mlflow"][0] == checks["champion"][0] == "ok"
    assert "answers" in checks["mlflow"][1]
    assert checks["ledger"] == ("todo", checks["ledger"][1])
    # where the ledger is, the hand is put right
    settled = pipeline.promotion.reconcile()
    assert settled is not None
    assert (settled["action"], pipeline.registry.aliases()[CHAMPION]) == ("restore", first)


def test_two_machines_that_begin_at_once_share_one_model_and_one_experiment(
    machine: Callable[[str], Machine], bundles: Callable[[int], Path]
) -> None:
    machines, failed = [machine(name) for name in "abcd"], []

    def begin(each: Machine) -> None:
        try:
            with each.registry.run("first"):
                pass
        except Exception as error:
            failed.append(error)

    bundles(1)  # before the clock: an export
    threads = [threading.Thread(target=begin, args=(each,)) for each in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len({each.registry._experiment_id for each in machines}) == 1


def test_clients_may_write_to_s3_themselves(
    machine: Callable[[str], Machine],
    bundles: Callable[[int], Path],
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    pipeline = machine("pipeline")
    # as `mlflow server --no-serve-artifacts --default-artifact-root s3://...` makes every experiment
    pipeline.registry._client.create_experiment(pipeline.registry.model_name, artifact_location=f"s3://{BUCKET}/direct")
    for number in (1, 2, 3, 4):
        pipeline.register(bundles(number))
    assert len([key for key in storage.names("direct/") if key.endswith("manifest.json")]) == 4
    assert verify_dir(pipeline.registry.download("2", tmp_path / "got")) == verify_dir(bundles(2))
    assert pipeline.registry.prune(3) == ["1"]
    assert len([key for key in storage.names("direct/") if key.endswith("manifest.json")]) == 3
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(NotReady, match=r"does not answer \(.*connect to the endpoint"):
        pipeline.registry.download("2", tmp_path / "away")


# -- Dagster on PostgreSQL -----------------------------------------------------------------------------------------------


def _rows(url: str, query: str) -> list[tuple[Any, ...]]:
    import psycopg2

    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()
    finally:
        connection.close()


def test_runs_and_events_are_in_postgresql_and_the_password_nowhere(
    databases: dict[str, str], empty_home: Path, miss: Miss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.run import instance

    home = empty_home
    monkeypatch.setenv("DAGSTER_HOME", "")
    with instance(Settings(home=home)):  # a home that was on SQLite before
        pass
    (tmp_path / "shop").mkdir()
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT unnest(['a', 'b']) AS item_id) TO '{tmp_path}/shop/items.parquet'")
        rows = "SELECT 'u' || n % 3 AS user_id, ['a', 'b'][1 + n % 2] AS item_id, 1599955200 + 40000 * n AS timestamp"
        connection.execute(f"COPY ({rows} FROM range(9) t(n)) TO '{tmp_path}/shop/behaviors.parquet'")
    monkeypatch.setenv("MISS_DAGSTER_POSTGRES", databases["dagster"])
    told = []
    for command in (["ingest", str(tmp_path / "shop")], ["backfill", "2020-09-13", "2020-09-15"], ["doctor"]):
        said = miss(*command)
        told.append(said.out + said.err)
        assert said.code == 0, told[-1]
    (line,) = [line for line in told[-1].splitlines() if "ok    dagster" in line]
    assert "runs and events are in PostgreSQL: postgresql+psycopg2://dagster:***@127.0.0.1" in line
    [(run_id, status)] = _rows(databases["dagster"], "SELECT run_id, status FROM runs")
    assert status == "SUCCESS"
    counted = "SELECT count(DISTINCT partition) FROM event_logs WHERE asset_key LIKE '%behaviors%' AND run_id = "
    assert _rows(databases["dagster"], f"{counted}'{run_id}'") == [(3,)]
    with instance(Settings(home=home)) as found:
        assert [run.run_id for run in found.get_runs()] == [run_id]
        told.append(found.info_str())
        assert found.event_log_storage.get_pool_config().default_pool_limit == 1
    files = [path.read_bytes() for path in (home / "dagster").rglob("*") if path.is_file()]
    assert files, "its configuration, and the SQLite files of before"
    assert not [text for text in files if run_id.encode() in text]
    for text in [*files, *(each.encode() for each in told)]:
        assert QUOTED.encode() not in text
        assert PASSWORD.encode() not in text
    # without the variable no second history begins
    monkeypatch.delenv("MISS_DAGSTER_POSTGRES")
    said = miss("backfill", "2020-09-13")
    assert said.code == NotReady.exit_code
    assert "MISS_DAGSTER_POSTGRES is not set" in said.sentence()


def test_mlflow_may_be_postgresql_itself(
    databases: dict[str, str], bundles: Callable[[int], Path], tmp_path: Path
) -> None:
    registry = Registry(databases["mlflow"], "direct", tmp_path / "runs")
    with registry.run("candidate") as run:
        assert registry.register(bundles(1), run_id=run.run_id) == "1"
    assert verify_dir(registry.download("1", tmp_path / "got")) == verify_dir(bundles(1))


# -- what is away -------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


@pytest.mark.parametrize("mute", [False, True])
def test_a_server_that_is_away_is_told_within_seconds_and_without_its_password(
    mute: bool, silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    from orchestration.run import instance

    monkeypatch.setattr(servers, "WAIT_S", 2.0)
    port = silent if mute else free_port()
    for scheme, name in (("http", "MLFLOW_TRACKING_URI"), ("postgresql", "MISS_DAGSTER_POSTGRES")):
        url = f"{scheme}://miss:{QUOTED}@127.0.0.1:{port}/dagster"
        with monkeypatch.context() as patched:
            patched.setenv(name, url)
            patched.setenv("DAGSTER_HOME", "")
            settings, began = Settings(home=tmp_path / scheme), time.monotonic()
            ask = Stores(home=str(settings.home)).registry.aliases if scheme == "http" else instance(settings).__enter__
            with pytest.raises(NotReady) as raised:
                ask()
            assert time.monotonic() - began < 10
            patched.delenv("MISS_DAGSTER_POSTGRES", raising=False)
        told = str(raised.value)
        assert raised.value.__suppress_context__ or raised.value.__context__ is None
        assert f"{scheme}://miss:***@127.0.0.1:{port}/dagster does not answer" in told
        assert name in told
        for secret in (QUOTED, PASSWORD):
            assert secret not in told
        assert "\n" not in told


def test_a_server_that_goes_away_in_the_middle_of_a_run_is_told_the_same_way(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with mlflow_server(f"sqlite:///{tmp_path / 'server.db'}", storage, tmp_path / "log") as address:
        registry = Registry(address.replace("://", f"://miss:{QUOTED}@"), "gone", tmp_path / "runs")
        with registry.run("candidate") as run:
            pass
    for ask in (registry.aliases, lambda: run.log_metrics({"loss": 1.0}), lambda: run.log_text("a.txt", "text")):
        with pytest.raises(MissError) as raised:
            ask()
        assert isinstance(raised.value, NotReady)
        assert QUOTED not in str(raised.value)
        assert "miss:***@127.0.0.1" in str(raised.value)
