"""`miss serve` and `miss up`: the service alone, or Dagster, MLflow and the service as children of one process.

- Every child has a process group of its own, so that Ctrl-C reaches this process alone and the groups are then stopped in
  order: asked to, waited for, and killed where they do not end.
- The service follows the champion by itself (`serving.follow`): started before there is one, it answers from when there is.
- A child that ends by itself ends everything, with the end of its log and the place of it.
- Each is told where the other two are, so that links between them lead there.

Not covered: restarting what crashed (a supervisor's work), several workers per service, access control.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import BadInput, NotReady
from orchestration.commands.home import challenger_engine, project_file, registry_of, say, settings

if TYPE_CHECKING:
    from assets.settings import Settings

__all__ = ["Children", "serve", "up"]

START_WAIT_S, STOP_WAIT_S, POLL_S = 120.0, 8.0, 0.5
TAIL = 10  # lines
ENDS = (signal.SIGTERM, signal.SIGHUP)
"""What ends all as Ctrl-C does: being asked to, and the end of the terminal."""


def serve(host: str, port: int, *, challenger: bool = False) -> None:
    """Serve what is champion, whenever that is another, until interrupted; `challenger` beside it, for a reviewer to compare."""
    from assets.stores.links import mlflow_ui
    from model.configure import configure
    from orchestration.commands.agents import CALLS
    from orchestration.commands.source import ChampionSource
    from serving.agents.http import AgentsOverHttp
    from serving.api import links, webhook
    from serving.app import create_app, run
    from serving.follow import Follower
    from serving.limits import Limits
    from serving.live import Live

    home = settings()
    limits = configure(Limits, home.serving, where="serving")
    rival = challenger_engine(home, threads=limits.threads) if challenger else None
    follower = Follower(ChampionSource(home), poll_s=home.follow_seconds, threads=limits.threads, say=say)
    agents = AgentsOverHttp(log=home.root / "logs" / CALLS, host=host)
    app = create_app(
        Live(),
        challenger=Live(rival),
        limits=limits,
        token=home.service_token.get_secret_value(),
        name=home.model_name,
        routers=[
            links.router(follower, dagster=home.dagster_url, mlflow=mlflow_ui(home)),
            webhook.router(follower.wake, home.webhook_secret.get_secret_value()),
            agents.router,
        ],
        beside=[follower.beside, agents.beside],
        unguarded=[webhook.PATH],
    )
    say(f"http://{host}:{port} serves the champion of {home.root}, Ctrl-C stops it")
    run(app, host=host, port=port)


class Children:
    """Named child processes, each in its own process group with a log in `logs`; all are stopped at the end of `with`."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        with _signals(signal.SIG_IGN, signal.SIGINT, *ENDS):  # an impatient second Ctrl-C would leave them behind
            self.stop(*reversed(self.running))

    def log(self, name: str) -> Path:
        """Where a child's output goes."""
        return self.logs / f"{name}.log"

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None) -> None:
        """Start one; its output replaces that of the last time."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise NotReady where one has ended, after the last lines that it wrote."""
        for name, child in self.running.items():
            if child.poll() is not None:
                for line in self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]:
                    say(f"{name}: {line}")
                raise NotReady(f"{name} ended by itself (exit code {child.returncode}); its log is {self.log(name)}")

    def stop(self, *names: str) -> None:
        """Ask them to end as Ctrl-C does, then as `kill` does, then kill; also what their children left in the group."""
        children = [self.running.pop(name) for name in names]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):  # a background job's children ignore SIGINT
            for child in children:
                _signal(child, number)
            deadline = time.monotonic() + STOP_WAIT_S
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(deadline - time.monotonic(), 0.01))
            if number is signal.SIGINT and all(child.poll() is not None for child in children):
                time.sleep(POLL_S)  # for what they started to end by itself


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


@contextlib.contextmanager
def _signals(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    """These are handled so within the block."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _hold_free(host: str, ports: Mapping[str, int]) -> None:
    if len(set(ports.values())) < len(ports):
        raise BadInput(f"the ports {', '.join(map(str, ports.values()))} must differ; choose them with --*-port")
    for name, port in ports.items():
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                option = "--port" if name == "service" else f"--{name}-port"
                raise BadInput(
                    f"{host}:{port} for {name} cannot be had ({error}); choose another with {option}"
                ) from error


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _wait(children: Children, name: str, host: str, port: int) -> None:
    """Until something listens on the port; NotReady where nothing does in time."""
    deadline = time.monotonic() + START_WAIT_S
    while not _answers(host, port):
        children.check()
        if time.monotonic() > deadline:
            raise NotReady(f"{name} did not answer within {START_WAIT_S:g} s; its log is {children.log(name)}")
        time.sleep(POLL_S)


def _commands(home: Settings, host: str, ports: Mapping[str, int]) -> dict[str, list[str]]:
    python = sys.executable
    dagster = ["-h", host, "-p", str(ports["dagster"])]
    mlflow = ["--host", host, "--port", str(ports["mlflow"])]  # the store is in the environment, unseen by `ps`
    mlflow += ["--default-artifact-root", (home.root / "mlflow-artifacts").as_uri()]
    return {
        "dagster": [python, "-m", "dagster", "dev", "-w", str(project_file("workspace.yaml")), *dagster],
        "mlflow": [python, "-m", "mlflow", "server", "--workers", "1", *mlflow],
        "service": [python, "-m", "orchestration.cli", "serve", "--host", host, "--port", str(ports["service"])],
    }


def _pages(home: Settings, host: str, ports: Mapping[str, int]) -> dict[str, str]:
    """Settings that say where people open what is started here, where nobody has set them."""
    from assets.stores.servers import is_served

    place = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    names = {"dagster_url": "dagster", "service_url": "service"}
    if not is_served(home.tracking_uri):
        names["mlflow_ui_url"] = "mlflow"
    return {
        f"MISS_{setting.upper()}": f"http://{place}:{ports[name]}"
        for setting, name in names.items()
        if setting not in home.model_fields_set
    }


def up(host: str, ports: Mapping[str, int]) -> None:
    """Run all three until interrupted; `ports` of "dagster", "mlflow" and "service"."""
    from assets.stores.servers import DRIVER, POSTGRES, is_served, masked
    from orchestration.dagster_yaml import answers
    from orchestration.run import dagster_home

    home = settings()
    _hold_free(host, ports)
    answers(home)
    root = project_file("workspace.yaml").parent
    env = os.environ | {
        "MISS_HOME": str(home.root),
        "DAGSTER_HOME": str(dagster_home(home)),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": POSTGRES.sub(DRIVER, home.tracking_uri),
        **_pages(home, host, ports),
    }
    served_elsewhere = is_served(home.tracking_uri)
    if not served_elsewhere:
        registry_of(home).prepare()  # so that the server need not migrate the schema, which must happen once
    commands = _commands(home, host, ports)
    names = {"dagster": "Dagster", "mlflow": "MLflow", "service": "service"}
    # also SIGINT: a shell starts a background job, and all below it, deaf to Ctrl-C
    with _signals(_interrupt, signal.SIGINT, *ENDS), Children(home.root / "logs") as children:
        try:
            for name in names:
                if name == "mlflow" and served_elsewhere:
                    print(f"MLflow   {masked(home.tracking_uri)}", flush=True)
                    continue
                children.start(name, commands[name], env=env, cwd=root)
            for name in list(children.running):
                _wait(children, name, host, ports[name])
                print(f"{names[name]:<8} http://{host}:{ports[name]}", flush=True)
            say(f"they run until Ctrl-C; what they say is in {children.logs}")
            while True:
                children.check()
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            say("stopping")
