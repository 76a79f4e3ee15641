"""Stages on a Ray cluster beside the same stages in one process: what the cluster costs, and that its driver stays small.

- On a machine of two cores nothing is to be won by a cluster. What can be shown is the overhead (Ray with one worker against this
  process held to one core), what a second worker adds although Ray's own processes want a core too, and flat memory: the process
  that plans is to hold no more of ten times the data.
- A stage runs at 1x and at 10x of its data, shards of one size. Units a second are those of the 10x run; overhead is the part of
  the 1x run that did not grow with the data, by a line through both; a core-second is a second of a worker's processor, as workers
  account for it, their start and imports included.
- Nodes of the cluster are real Ray nodes of one core each on this machine, started before the clock is. Memory of the driver is the
  largest its process has had, so what is said after 10x less what is said after 1x is its growth.
- Every stage on every engine is a process of its own; data are written by others before (`benchmarks.scale_stages`).
- Not alike: a worker has one core for all it does, but Ray's processes and the driver may use the other one, of which the local
  process has nothing; and on a cluster histories go by day files, which are written within the time.

Exit code 3 where Ray is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.compute import Shard, engine
from assets.environment import quiet_environment
from benchmarks.measured import RESULTS, ROOT, apart, at_most, peak_mib, write
from benchmarks.scale_stages import STAGES, made, run
from model.errors import NotReady
from model.files import read_json

__all__ = ["figures", "prepared", "side", "targets"]

WORK = ROOT / ".miss-bench" / "scale"
TIMES = (1, 10)
ENGINES = (("local", 1), ("ray", 1), ("ray", 2))
"""(engine, workers)."""
GROWTH_MIB, SLOWER = 64, 1.5
"""Targets: the driver's growth, and seconds of Ray with one worker against this process on one core."""


def tell(line: str) -> None:
    """Tell whoever waits."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[str]:
    """Within a cluster of so many nodes of one core each, warm; what it is called."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # the agent's usual port may be another cluster's
    first = {"num_cpus": 1, "include_dashboard": False, "dashboard_agent_listen_port": 0}
    nodes = Cluster(initialize_head=True, head_node_args=first)
    try:
        for _ in range(workers - 1):
            nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False)

        def work() -> Any:
            def same(shard: Shard) -> Shard:
                return shard

            return same

        engine("ray", tell).each(work, (), [{"n": n} for n in range(2 * workers)], "warm-up")
        yield f"Ray {ray.__version__}"
    finally:
        ray.shutdown()
        nodes.shutdown()


@contextlib.contextmanager
def alone() -> Iterator[str]:
    """This process on one core: some libraries ask OMP_NUM_THREADS how many threads to start, others the machine."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    yield "this process"


def side(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record for each stage and size: all stages at 1x, then all at 10x. For a process of its own, of which memory is told.

    asked: {"engine", "workers", "folder", "sizes": stage -> units at 1x}.
    """
    found, folder = [], Path(asked["folder"])
    with alone() if asked["engine"] == "local" else cluster(asked["workers"]) as called:
        for times in TIMES:
            for name, size in asked["sizes"].items():
                where = engine(asked["engine"], tell)
                work = folder / f"work-{os.getpid()}"
                units, seconds = run(name, where, folder / f"{name}-{times}", work, shard=max(size // 2, 1))
                record = {"stage": name, "times": times, "units": units, "seconds": seconds, "driver MiB": peak_mib()}
                found.append(record | {"engine": called, "workers": asked["workers"], "used": where.used()})
                tell(f"{name}, {called}, {asked['workers']}: {units:,} {STAGES[name].unit} in {seconds:.1f} s")
    return found


def prepared(folder: Path, sizes: Mapping[str, int], length: int | None = None) -> None:
    """Data of both sizes of all stages, written by another process. length: behaviors a user where not a stage's own."""
    asked = [
        [name, str(folder / f"{name}-{times}"), times * size, length or STAGES[name].length]
        for name, size in sizes.items()
        for times in TIMES
    ]
    apart("scale", "--make", json.dumps(asked))


def figures(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table, from the records of both sizes."""
    took, more = large["seconds"] - small["seconds"], large["units"] - small["units"]
    each = took / more if took > 0 else 0.0  # a busy machine may turn them round
    busy = large["used"]["workers_cpu_seconds"]
    return {
        "stage": large["stage"],
        "engine": large["engine"],
        "workers": large["workers"],
        "unit": STAGES[large["stage"]].unit,
        "units at 10x": large["units"],
        "seconds, 1x": small["seconds"],
        "seconds, 10x": large["seconds"],
        "units a second": large["units"] / large["seconds"],
        "overhead, s": small["seconds"] - small["units"] * each,
        "units a core-second": large["units"] / busy if busy else None,
        "driver MiB, 1x": small["driver MiB"],
        "driver MiB, 10x": large["driver MiB"],
        "driver's growth, MiB": large["driver MiB"] - small["driver MiB"],
        "worker peak MiB": large["used"]["worker_peak_mib"],
    }


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows, with each rate as a share of what the stage does in this process on one core."""
    alone_at = {row["stage"]: row["units a second"] for row in rows if row["engine"] == "this process"}
    return [row | {"rate against this process": row["units a second"] / alone_at[row["stage"]]} for row in rows]


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows that are `compared`."""
    on_ray = [row for row in rows if row["engine"] != "this process"]
    growth = max(row["driver's growth, MiB"] for row in on_ray)
    told = [at_most("driver's growth from 1x to 10x, MiB, worst stage", growth, GROWTH_MIB)]
    for row in on_ray:
        if row["workers"] == 1:
            name = f"{row['stage']}: Ray with one worker, seconds at 10x against this process on one core"
            told.append(at_most(name, 1 / row["rate against this process"], SLOWER))
    return told


def measure(folder: Path, sizes: Mapping[str, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows, targets); rows of other stages are those that the results file has."""
    prepared(folder, sizes)
    rows = []
    for name, size in sizes.items():
        for where, workers in ENGINES:
            asked = {"engine": where, "workers": workers, "folder": str(folder), "sizes": {name: size}}
            rows.append(figures(*apart("scale", "--one", json.dumps(asked))["records"]))
    path = RESULTS / "scale.json"
    known = read_json(path)["rows"] if path.exists() else []
    rows = compared([*(row for row in known if row["stage"] not in sizes), *rows])
    rows.sort(key=lambda row: list(STAGES).index(row["stage"]))
    return rows, targets(rows)


def main() -> None:
    """Everything, or what a process of its own was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), help="the others stay as they were measured last"
    )
    parser.add_argument("--sizes", type=json.loads, default={}, help="JSON, stage -> units at 1x, over the defaults")
    parser.add_argument("--folder", type=Path, default=WORK, help="for data, which are kept")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not (chosen.one or chosen.make):
        try:
            engine("ray")  # before minutes have gone into anything else
        except NotReady as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(3)
    quiet_environment()
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    if chosen.make:
        for name, place, size, length in chosen.make:
            tell(f"{name}: data of {size:,} {STAGES[name].unit}")
            made(name, Path(place), size, length)
        print(json.dumps({}))
    elif chosen.one:
        print(json.dumps({"records": side(chosen.one)}))
    else:
        sizes = {name: int(chosen.sizes.get(name, STAGES[name].size)) for name in chosen.stages}
        write("scale", *measure(chosen.folder.resolve(), sizes))


if __name__ == "__main__":
    main()
