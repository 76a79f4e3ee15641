"""dagster.yaml of a home: what it says, and when it is written.

- Written where it is missing, and again where nobody but miss wrote it (its first line bears a digest of the rest) and this
  version of miss would write another; what somebody has changed is theirs.
- `MISS_DAGSTER_POSTGRES` moves runs and events to PostgreSQL. The file names the variable, never what is in it.
- A home that was moved to PostgreSQL does not go back by itself: a shell without the variable would begin a second history,
  and two daemons would each think the pool `warehouse` theirs.
- `MISS_DAGSTER_LAUNCH=ray` has runs started on a Ray cluster (`orchestration.launching`); which one is in the environment.

Not covered: carrying the runs of one storage over to the other.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assets.settings import Settings
from assets.stores.servers import NO_DRIVER, postgres_url, reach
from model.errors import BadInput, NotReady
from model.files import write_bytes
from orchestration.launching import run_launcher

__all__ = ["VARIABLE", "answers", "check", "configuration", "prepare"]

VARIABLE = "MISS_DAGSTER_POSTGRES"
FILE = "dagster.yaml"
_BODY = """\
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 4
    tag_concurrency_limits:
      - key: miss/retraining
        limit: 1
  pools:
    default_limit: 1
    granularity: op
run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  free_slots_after_run_end_seconds: 60
run_retries:
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
python_logs:
  python_log_level: INFO
"""
_STORAGE = f"""\
storage:
  postgres:
    postgres_url:
      env: {VARIABLE}
"""
_NAMES_IT = re.compile(rf"^[^#\n]*\benv:\s*[\"']?{VARIABLE}\b", re.MULTILINE)
_HEADER = re.compile(r"# written by miss \(([0-9a-f]{16})\)[^\n]*\n")


def configuration(*, postgres: bool, launcher: Mapping[str, Any] | None = None) -> str:
    """The text of dagster.yaml, with runs and events in PostgreSQL or in SQLite beside it.

    launcher: its entry `run_launcher`, as `launching.run_launcher` has it; Dagster's own launcher where None or empty.
    """
    import yaml

    told = yaml.safe_dump(dict(launcher), sort_keys=False, allow_unicode=True, width=10_000) if launcher else ""
    body = _BODY + told + (_STORAGE if postgres else "")
    return f"# written by miss ({_digest(body)}); change it as you like, it is not written again then\n{body}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def prepare(folder: Path, settings: Settings) -> None:
    """Write `folder`/dagster.yaml where it is missing or out of date, and put the secret where Dagster looks for it.

    Asks PostgreSQL for nothing yet (`answers` does). Raises as `check` does.
    """
    ours = check(folder, settings)
    secret, path = settings.dagster_postgres.get_secret_value(), folder / FILE
    if secret:
        os.environ[VARIABLE] = postgres_url(secret)  # may come from miss.env; and the driver must be named
    wanted = configuration(postgres=bool(secret), launcher=run_launcher(settings))
    if ours and _read(path) != wanted:
        write_bytes(path, wanted.encode())


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def check(folder: Path, settings: Settings) -> bool:
    """Whether `folder`/dagster.yaml is miss's to write: not there, or as miss wrote it.

    Raises BadInput where the setting is no PostgreSQL URL, or a setting does not go together with a file that somebody has changed;
    NotReady where the file asks for a variable that is not set.
    """
    secret, path = settings.dagster_postgres.get_secret_value(), folder / FILE
    if secret:
        postgres_url(secret)
    text = _read(path)
    header, names_it = _HEADER.match(text), bool(_NAMES_IT.search(text))
    ours = not text or (header is not None and header[1] == _digest(text[header.end() :]))
    if names_it and not secret:
        raise NotReady(
            f"{path} keeps Dagster's runs in PostgreSQL, and {VARIABLE} is not set; set it, or delete the file to begin with "
            "SQLite again"
        )
    if secret and not names_it and not ours:
        raise BadInput(
            f"{VARIABLE} is set, but {path} was changed by hand and does not use it; put "
            f"`storage: {{postgres: {{postgres_url: {{env: {VARIABLE}}}}}}}` into it, or delete it to have it written again"
        )
    if settings.dagster_launch == "ray" and not ours and "RayRunLauncher" not in text:
        raise BadInput(
            f"MISS_DAGSTER_LAUNCH = ray, but {path} was changed by hand and has no RayRunLauncher; delete it to have it written "
            "again, and change it then"
        )
    return ours


def answers(settings: Settings) -> None:
    """NotReady where runs and events are kept in a PostgreSQL that does not answer, or that cannot be spoken to."""
    if secret := settings.dagster_postgres.get_secret_value():
        try:
            import dagster_postgres  # noqa: F401
        except ImportError:
            raise NotReady(NO_DRIVER) from None
        reach(secret, name=VARIABLE)
