"""Real servers for the tests, each a process on a free port: Debian's PostgreSQL, S3 by moto, MLflow's tracking server."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = "s3cret-Pa55 word@/:"  # must be quoted in a URL, and is nowhere to be read
QUOTED = "s3cret-Pa55%20word%40%2F%3A"
BUCKET = "miss-artifacts"


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(
    command: Sequence[str], log: Path, *, ready: Any, stop: int = signal.SIGTERM, **options: Any
) -> Iterator[None]:
    """A child that is ended with the block; `ready()` says when it answers."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options)
    try:
        deadline = time.monotonic() + 90
        while not ready():
            assert child.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, stop)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def listens(port: int) -> bool:
    """Whether something accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as found:
        return int(found.status) == 200
    return False


def installed() -> Path | None:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found and shutil.which("psql") else None


@contextlib.contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """A cluster with the databases that deploy/postgres-init.sh makes; {database: URL}. Skips where it is not installed."""
    programs, port = installed(), free_port()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    place = Path(tempfile.mkdtemp(prefix="miss-postgres-"))  # a short path: it holds a socket
    options: dict[str, Any] = {"cwd": place}
    try:
        (place / "password").write_text(PASSWORD)
        if os.getuid() == 0:  # the server refuses to run as root
            options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
            for path in (place, place / "password"):
                shutil.chown(path, "postgres", "postgres")
        make = [
            programs / "initdb",
            "-D",
            place / "data",
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run([*make, f"--pwfile={place / 'password'}"], check=True, capture_output=True, **options)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": place, "fsync": "off"}
        serve = [
            programs / "postgres",
            "-D",
            place / "data",
            *(f"--{name}={value}" for name, value in settings.items()),
        ]
        with process(
            [str(each) for each in serve], place / "log", ready=lambda: listens(port), stop=signal.SIGINT, **options
        ):
            # SIGINT: a server asked to end by SIGTERM waits for its clients
            given = {"DATABASE_MLFLOW_PASSWORD": PASSWORD, "DATABASE_DAGSTER_PASSWORD": PASSWORD}
            given |= {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGPASSWORD": PASSWORD, "POSTGRES_USER": "postgres"}
            script = ["bash", str(ROOT / "deploy" / "postgres-init.sh")]
            subprocess.run(script, check=True, capture_output=True, text=True, env=os.environ | given)
            yield {name: f"postgresql://{name}:{QUOTED}@127.0.0.1:{port}/{name}" for name in ("mlflow", "dagster")}
    finally:
        shutil.rmtree(place, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """An S3 server with one bucket; `environment` is what its clients are given."""

    environment: dict[str, str]
    client: Any

    def names(self, prefix: str = "") -> list[str]:
        """Names of all objects."""
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for each in found.get("Contents", [])]


@contextlib.contextmanager
def s3(log: Path) -> Iterator[Storage]:
    """moto's server, which speaks the protocol and keeps the objects in memory."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    given = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "aws-secret", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, log, ready=lambda: listens(port)):
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=given["AWS_DEFAULT_REGION"],
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=BUCKET)
        yield Storage(environment=given | {"MLFLOW_S3_ENDPOINT_URL": endpoint}, client=client)
        client.close()


@contextlib.contextmanager
def mlflow_server(store: str, storage: Storage, log: Path) -> Iterator[str]:
    """`mlflow server` over a store, with the runs' files in S3, as deploy/ starts it; its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    given = {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow"}
    given |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    given |= {"MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*,mlflow:5000"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MISS_"))}
    with process(
        command, log, ready=lambda: answers(f"{address}/health"), env=environment | storage.environment | given
    ):
        yield address
