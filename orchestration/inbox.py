"""Logs that land in the home's inbox: a sensor sees a file, a run takes it in, and the file goes to `done` or `refused`.

- A file is taken when it has been still for some seconds; names that begin with a dot or end in .tmp or .part are somebody's
  work in progress. Write under such a name and rename.
- What the data contract refuses is moved aside whole, nothing of it is in the warehouse, and the run fails with the rows named.
- A warehouse that is held by somebody else is tried again; a refusal is not.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.behaviors import POOL
from assets.retries import patient
from assets.sources import detect
from assets.stores.resource import Stores
from model.errors import BadInput, Refused
from orchestration.run import report_landed

__all__ = ["INBOX", "inbox", "inbox_job", "still_files"]

INBOX, STILL_S = "inbox", 5.0
UNFINISHED = (".tmp", ".part")


class Landed(dg.Config):
    """What `take_in` is asked to take."""

    path: str


@dg.op(pool=POOL)
@patient
def take_in(context: dg.OpExecutionContext, config: Landed, stores: Stores) -> None:
    """Ingest one file or folder of the inbox and move it out of the way."""
    root, path = stores.settings.inbox, Path(config.path).resolve()
    if path.parent != root:
        raise dg.Failure(f"{path} is not in {root}, so it is left alone", allow_retries=False)
    if not path.exists():
        context.log.info(f"{path} was taken already")
        return
    try:
        report = stores.warehouse.ingest(detect(path))
    except (BadInput, Refused) as error:
        aside = _moved(path, root / "refused")
        raise dg.Failure(f"{error} (moved to {aside})", allow_retries=False) from error
    news = report_landed(context.instance, stores)
    context.log.info(
        f"{report.sentence()}; news: {', '.join(news[:10]) or 'none'}; moved to {_moved(path, root / 'done')}"
    )


def _moved(path: Path, folder: Path) -> Path:
    """`path` in `folder`, beside and never over what lies there."""
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}-{number}{path.suffix}"
    os.replace(path, target)
    return target


@dg.job(name=INBOX, description="one log of the inbox into the warehouse")
def inbox_job() -> None:
    """`take_in` by itself."""
    take_in()


def still_files(root: Path, *, now: float, still_s: float = STILL_S) -> Iterator[tuple[Path, str]]:
    """(path, key) of what lies in the inbox and is written to no more, by name.

    The key changes with size and time, and once an hour, so that what could not be taken in is tried again.
    """
    if not root.is_dir():
        return
    for entry in sorted(os.scandir(root), key=lambda each: each.name):
        if entry.name.startswith(".") or entry.name.endswith(UNFINISHED) or entry.name in ("done", "refused"):
            continue
        files = [Path(entry.path), *Path(entry.path).rglob("*")] if entry.is_dir() else [Path(entry.path)]
        stats = [each.stat() for each in files if each.exists()]
        newest = max(each.st_mtime_ns for each in stats)
        if now - newest / 1e9 >= still_s:
            hours = int((now - newest / 1e9) // 3600)
            yield Path(entry.path), f"{entry.name}:{sum(each.st_size for each in stats)}:{newest}:{hours}"


@dg.sensor(
    job_name=INBOX,
    name="inbox_files",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="starts a run for every new log file, or folder of an export, in the home's inbox",
)
def inbox(context: dg.SensorEvaluationContext, stores: Stores) -> list[dg.RunRequest] | dg.SkipReason:
    """One request a file; the daemon starts one run for one key."""
    root = stores.settings.inbox
    requests = [
        dg.RunRequest(
            run_key=key,
            run_config={"ops": {take_in.name: {"config": {"path": str(path)}}}},
            tags={"miss/reason": f"{path.name} landed in the inbox"[:250]},
        )
        for path, key in still_files(root, now=time.time())
    ]
    return requests or dg.SkipReason(f"nothing new lies in {root}")
