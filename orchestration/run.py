"""Run the whole graph in this process, against the home's own Dagster instance, so that the UI shows every run."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from filelock import FileLock

from assets.environment import quiet_environment
from assets.settings import Settings
from assets.stores.resource import Stores
from model.errors import BadInput, MissError
from model.files import write_bytes
from orchestration import dagster_yaml

if TYPE_CHECKING:
    import dagster as dg

__all__ = ["DAYS", "EVERYTHING", "dagster_home", "instance", "materialize", "materialize_days", "report_landed"]

EVERYTHING, DAYS, NEW_ITEMS = "everything", "days", "add_new_items"
"""The jobs, none of an asset's name: from histories to the champion, days of logs into the warehouse, and items the champion does
not know."""
LANDED_ITEMS = "landed_items"
"""The external asset that stands for the rows of the warehouse's items."""
RETRAINING_TAG = "miss/retraining"
"""Tag of runs that train: one at a time is taken from the queue."""
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
"""Dagster's tags of a run over a range of partitions."""
PROCESS = "miss/process"
DATA_VERSION = "dagster/data_version"
"""Dagster's tag of a materialization; of a day it is the digest of what had landed."""


def dagster_home(settings: Settings) -> Path:
    """The folder of Dagster's instance, made with its dagster.yaml where it is not there; raises as `dagster_yaml.prepare` does.

    Beside a workspace.yaml, with the default home, it also leaves a .env that tells plain `dagster dev` of it.
    """
    home = settings.root / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    dagster_yaml.prepare(home, settings)
    # `dagster dev` reads .env before it looks for an instance: the default home is then its home too
    plain = "MISS_HOME" not in os.environ and settings.root == type(settings).model_fields["home"].default.resolve()
    if plain and Path("workspace.yaml").is_file() and not Path(".env").exists():
        write_bytes(
            Path(".env").resolve(), f"# written by miss, for plain `dagster dev`\nDAGSTER_HOME={home}\n".encode()
        )
    return home


@contextlib.contextmanager
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The home's Dagster instance. NotReady where its PostgreSQL does not answer."""
    quiet_environment()
    import dagster as dg

    home = dagster_home(settings)
    dagster_yaml.answers(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    with FileLock(home / ".opening.lock"):  # two processes that make its tables at once would be in each other's way
        found = dg.DagsterInstance.from_config(str(home))
    with found:
        yield found


def process_tag() -> dict[str, str]:
    """The tag of a run in this process: machine, process, and when that began, since numbers come again."""
    return {PROCESS: f"{socket.gethostname()} {os.getpid()} {_began(os.getpid())}"}


def _began(pid: int) -> str:
    """When a process of this machine began, in ticks; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def bury(found: dg.DagsterInstance) -> list[str]:
    """Tell Dagster of runs in processes of this machine that have died without a word; their ids.

    They would be shown as running for ever, and keep their places in pools, for which the next run would wait.
    """
    import dagster as dg

    gone = []
    for run in found.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])):
        host, _, rest = run.tags.get(PROCESS, "").partition(" ")
        pid, _, began = rest.partition(" ")
        if host == socket.gethostname() and _began(int(pid)) != began:
            found.report_run_failed(run, f"process {pid} has died")
            found.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            gone.append(run.run_id)
    return gone


def report_landed(found: dg.DagsterInstance, stores: Stores) -> list[str]:
    """Tell Dagster of the days and the catalogue that came into the warehouse without a run of its own; what was news to it.

    Days are partitions of `behaviors`, the catalogue is `landed_items`; the data version of each is a digest of its rows.
    """
    import dagster as dg

    there, landed = stores.warehouse.days(), stores.warehouse.landing.days()
    days, catalogue = dg.AssetKey("behaviors"), dg.AssetKey(LANDED_ITEMS)
    known = found.event_log_storage.get_latest_tags_by_partition(
        days, dg.DagsterEventType.ASSET_MATERIALIZATION, tag_keys=[DATA_VERSION]
    )
    news = [
        dg.AssetMaterialization(days, partition=day, metadata={"rows": there[day]}, tags={DATA_VERSION: digest})
        for day, digest in landed.items()
        if day in there and known.get(day, {}).get(DATA_VERSION) != digest
    ]
    items = stores.warehouse.counts()["items"]
    if items:
        digest, last = stores.warehouse.digests()["items"], found.get_latest_materialization_event(catalogue)
        told = last.asset_materialization.tags if last and last.asset_materialization else {}
        if (told or {}).get(DATA_VERSION) != digest:
            news.append(dg.AssetMaterialization(catalogue, metadata={"rows": items}, tags={DATA_VERSION: digest}))
    for event in news:
        found.report_runless_asset_event(event)
    return [event.partition or LANDED_ITEMS for event in news]


def materialize_days(settings: Settings, first: date, last: date) -> None:
    """Materialize `behaviors` for a range of days in one run. A deliberate error of the asset is raised as it is."""
    with instance(settings) as found:
        import dagster as dg

        from orchestration.definitions import build

        job = build(settings).resolve_job_def(DAYS)
        begin, end = RANGE
        bury(found)
        try:
            job.execute_in_process(
                instance=found, tags=process_tag() | {begin: first.isoformat(), end: last.isoformat()}
            )
        except dg.DagsterError as error:
            _raise_own(error)


def _raise_own(error: BaseException) -> NoReturn:
    """The deliberate error of an asset (a MissError) that Dagster's one was raised for; else that one."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, MissError):
        cause = cause.__cause__
    raise cause or error


def materialize(settings: Settings, *, select: str | None = None) -> bool:
    """Materialize the graph, or the assets of a Dagster selection such as "key:index_tree+"; whether all went well.

    What is made already from the same inputs is reused. A deliberate error of an asset (a MissError) is raised as it is;
    a failed check returns False after its rules were logged. BadInput for a selection that names nothing.
    """
    with instance(settings) as found:
        import dagster as dg

        from orchestration.definitions import build

        definitions = build(settings)
        bury(found)
        report_landed(found, Stores(home=str(settings.root)))
        job = definitions.resolve_job_def(EVERYTHING)
        chosen = None
        if select is not None:
            try:
                graph = definitions.resolve_asset_graph()
                named = dg.AssetSelection.from_string(select).resolve(graph)
                chosen = sorted(key for key in named if graph.get(key).partitions_def is None)
            except Exception as error:  # Dagster has a class of its own for each way to get a selection wrong
                raise BadInput(f"{select!r} is no selection of assets ({str(error).splitlines()[0]})") from error
            if not chosen:
                raise BadInput(f"{select!r} selects no asset; see the lineage in the README")
        try:
            result = job.execute_in_process(
                instance=found, asset_selection=chosen, raise_on_error=True, tags=process_tag()
            )
        except MissError:
            raise
        except dg.DagsterError as error:
            if type(error).__name__ == "DagsterAssetCheckFailedError":  # not among dagster's public names
                return False
            _raise_own(error)
        return bool(result.success)
