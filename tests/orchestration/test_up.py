"""What a newcomer would lose on the first evening: `miss up` that shows nothing, or leaves processes and ports behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from shared_servers import ROOT, free_port, listens
from terminal import Miss

from assets.settings import Settings
from model.errors import BadInput, NotReady
from orchestration.commands import up


def test_a_port_that_is_taken_is_named_with_the_way_out(miss: Miss, empty_home: Path) -> None:
    """Most often it is another `miss up`; nothing is started and nothing is made."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--port", "--dagster-port", "--mlflow-port"):
            said = miss("up", "--port", free_port(), "--dagster-port", free_port(), option, port)
            assert said.code == BadInput.exit_code
            assert f"127.0.0.1:{port}" in said.sentence()
            assert f"choose another with {option}" in said.sentence()
    assert not empty_home.exists()


@pytest.mark.parametrize(
    ("host", "place"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("box", "box")],
)
def test_links_lead_to_where_things_listen_unless_somebody_says_where(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch, host: str, place: str
) -> None:
    """Behind a proxy the address people use is another one, and only they know it."""
    ports = {"dagster": 1, "mlflow": 2, "service": 3}
    every = {"MISS_DAGSTER_URL": f"http://{place}:1", "MISS_MLFLOW_UI_URL": f"http://{place}:2"}
    every |= {"MISS_SERVICE_URL": f"http://{place}:3"}
    assert up._pages(Settings(), host, ports) == every
    monkeypatch.setenv("MISS_SERVICE_URL", "https://films.example")
    del every["MISS_SERVICE_URL"]
    assert up._pages(Settings(), host, ports) == every
    monkeypatch.setenv("MISS_MLFLOW_URI", "https://ann:secret@mlflow.example")
    del every["MISS_MLFLOW_UI_URL"]
    assert up._pages(Settings(), host, ports) == every


def test_a_second_interrupt_does_not_leave_children_behind(tmp_path: Path) -> None:
    """An impatient Ctrl-C, Ctrl-C would leave three servers on their ports."""
    slow = "import signal, time; signal.signal(signal.SIGINT, lambda *_: time.sleep(1.5) or exit()); print('up', flush=True)"
    with up.Children(tmp_path) as children:
        children.start("slow", [sys.executable, "-c", f"{slow}; time.sleep(60)"], env=os.environ)
        while not children.log("slow").read_text():
            time.sleep(0.05)
        child = children.running["slow"]
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()  # while it is being waited for
    assert child.poll() is not None


class Up:
    """`miss up` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.ports = {"--port": free_port(), "--dagster-port": free_port(), "--mlflow-port": free_port()}
        given = {n: v for n, v in os.environ.items() if not n.startswith(("MISS_", "MLFLOW_", "DAGSTER_"))}
        given |= {"PYTHONPATH": str(ROOT), "MISS_HOME": str(folder / "home"), "MISS_FOLLOW_SECONDS": "0.5"}
        options = [str(each) for pair in self.ports.items() for each in pair]
        command = [sys.executable, "-W", "ignore", "-m", "orchestration.cli", "up", *options]
        self.process = subprocess.Popen(
            command, env=given, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def addresses(self) -> dict[str, str]:
        """What it printed, after it has printed all three."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in self.ports]
        return dict(re.findall(r"^(\w+) +(http://\S+)$", "".join(lines), re.MULTILINE))

    def descendants(self) -> set[int]:
        """Processes whose ancestor it is."""
        found = {self.process.pid}
        parents = {}
        for each in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(each.parent.name)] = int(each.read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {self.process.pid}


@contextmanager
def started(folder: Path) -> Iterator[Up]:
    found = Up(folder)
    try:
        yield found
    finally:
        found.process.send_signal(signal.SIGTERM)
        found.process.communicate(timeout=240)


def gone(pids: set[int]) -> bool:
    stats = [Path(f"/proc/{pid}/stat") for pid in pids]
    return not [each for each in stats if each.exists() and each.read_text().rpartition(")")[2].split()[0] != "Z"]


@pytest.mark.slow
def test_a_fresh_clone_shows_three_pages_that_lead_to_each_other_and_ends_clean(tmp_path: Path) -> None:
    """Nothing was made before; Ctrl-C ends all, and the next `miss up` finds its ports free."""
    with started(tmp_path) as running:
        addresses = running.addresses()
        assert addresses == {
            "service": f"http://127.0.0.1:{running.ports['--port']}",
            "Dagster": f"http://127.0.0.1:{running.ports['--dagster-port']}",
            "MLflow": f"http://127.0.0.1:{running.ports['--mlflow-port']}",
        }
        for name, path in (("Dagster", "/server_info"), ("MLflow", "/health"), ("service", "/health/live")):
            assert httpx.get(f"{addresses[name]}{path}").status_code == 200
        told = httpx.get(f"{addresses['service']}/health/ready")
        assert (told.status_code, "miss materialize" in told.json()["detail"]) == (503, True)
        pages = httpx.get(f"{addresses['service']}/v1/links").json()
        assert (pages["dagster"], pages["mlflow"]) == (addresses["Dagster"], addresses["MLflow"])
        assert "<html" in httpx.get(pages["dagster"], follow_redirects=True).text.lower()
        assert "<html" in httpx.get(pages["mlflow"], follow_redirects=True).text.lower()
        children = running.descendants()
        assert len(children) >= 4, "webserver and daemon are two"
        running.process.send_signal(signal.SIGINT)
        _, said = running.process.communicate(timeout=240)
        assert (running.process.returncode, said.splitlines()[-1]) == (0, "stopping")
        assert gone(children)
        assert not any(listens(port) for port in running.ports.values())


def test_one_that_dies_ends_the_others_and_its_last_words_are_told(
    miss: Miss, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is gone while two others go on is found out by the third person who looks; the reason is read at once."""
    ports = {"--port": free_port(), "--dagster-port": free_port(), "--mlflow-port": free_port()}
    serves = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]
    dies = "import threading, os, http.server as h; "
    dies += "threading.Timer(2, lambda: (print('out of memory', flush=True), os._exit(7))).start()"
    dies += f"; h.HTTPServer(('127.0.0.1', {ports['--mlflow-port']}), h.BaseHTTPRequestHandler).serve_forever()"
    commands = {
        "dagster": [*serves, str(ports["--dagster-port"])],
        "mlflow": [sys.executable, "-c", dies],
        "service": [*serves, str(ports["--port"])],
    }
    monkeypatch.setattr(up, "_commands", lambda *_: commands)
    said = miss("up", *(str(each) for pair in ports.items() for each in pair))
    assert said.code == NotReady.exit_code
    *before, last = said.err.splitlines()
    assert last.startswith(f"miss: mlflow ended by itself (exit code 7); its log is {home / 'logs' / 'mlflow.log'}")
    assert "mlflow: out of memory" in before
    assert not any(listens(port) for port in ports.values())


@pytest.mark.slow
def test_a_background_job_can_be_stopped_as_any_other(tmp_path: Path) -> None:
    """A shell starts those deaf to SIGINT, and they would go on for ever."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        running = Up(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert len(running.addresses()) == 3
        running.process.send_signal(signal.SIGINT)
        running.process.communicate(timeout=90)
        assert running.process.returncode == 0
    finally:
        running.process.kill()
