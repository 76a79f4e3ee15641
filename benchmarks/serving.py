"""The service under load: so many requests a second, whether or not it keeps up, and how long each takes.

- Open loop: requests begin when a Poisson process says, not when the one before is answered, and the time of each runs from then.
  A service that falls behind shows it in its p99; a closed loop would ask it less.
- The caller is a process of its own on the same cores, on aiohttp, which is there already: wrk cannot hold a rate, and locust would
  bring sixteen packages for the same loop.
- The service is a process of its own, as `miss serve` runs it. Its bundle is that of `--bundle`, or the default model of
  MovieLens-1M with its test users: the quality table's where it was trained here, else one that is not trained. Its search does
  the same work: a beam is as wide whatever the weights. A request carries a user's whole history and asks for ten items.
- The first requests warm up and are not counted.

Not covered: a network, TLS, several callers' connections beyond what the rate needs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measured import ROOT, at_least, at_most, write
from model.files import publish_dir, read_npz, write_npz
from model.histories import Histories
from serving.limits import Limits

if TYPE_CHECKING:
    from benchmarks.beam_models import Measured

RATE, SECONDS, WARM_UP, P99_MS, K = 100.0, 20.0, 200, 50.0, 10
START_S = 60.0

Row = dict[str, Any]


# -- what is served ----------------------------------------------------------------------------------------------------


def model_of(home: Path, data: Path) -> Measured:
    """The default model of MovieLens-1M with the histories of its test users, trained where that was done under `home`."""
    from benchmarks.beam_models import Measured, movielens
    from benchmarks.material import prepare
    from model.index_tree import TreeConfig, build_tree
    from model.training import TrainingConfig, new_model
    from model.transitions import followers

    if (trained := movielens(home, count=sys.maxsize)) is not None:
        return trained
    made = prepare("movielens-1m", data=data, home=home)
    tree = build_tree(made.aligned, TreeConfig())
    model = new_model(tree, TrainingConfig()).eval()
    if model.transitions is not None:
        model.transitions.fill(*followers(made.train, model.config.lifelong.counts))
    seen = made.test.seen
    return Measured(model, tree, [seen[user].astype(np.int64) for user in range(len(seen))])


def bundle_of(measured: Measured, target: Path) -> None:
    """Publish a model at `target`; items are called by their index, users are all of its users with what they had seen."""
    from model.beam_search import BeamSearch
    from model.onnx_export import export_search
    from model.training import TrainingConfig

    model, tree, histories = measured
    n, beam = tree.n_items, TrainingConfig().beam

    def build(folder: Path) -> dict[str, Any]:
        export_search(BeamSearch(model, tree, beam=beam), folder / "retrieval.onnx")
        tree.save(folder / "tree.npz")
        ids = np.array([str(item) for item in range(n)])
        titles = np.array([f"Film {item}" for item in ids])
        write_npz(folder / "items.npz", {"item_id": ids, "title": titles, "categories": np.array(["Film"] * n)})
        offsets = np.concatenate([[0], np.cumsum([len(each) for each in histories])]).astype(np.int64)
        items = np.concatenate(histories).astype(np.int32)
        write_npz(folder / "popularity.npz", {"counts": np.bincount(items, minlength=n).astype(np.int64)})
        users = np.array([f"{user:05d}" for user in range(len(histories))])
        write_npz(folder / "histories.npz", {"user_id": users, "offsets": offsets, "items": items})
        return {"model": {"beam": beam, "max_history": 0, "n_items": n}, "dataset": "movielens-1m", "simulated": False}

    publish_dir(target, build)


def bodies(bundle: Path, count: int) -> list[bytes]:
    """Requests of users drawn from the bundle's."""
    ids, stored = read_npz(bundle / "items.npz")["item_id"], read_npz(bundle / "histories.npz")
    histories = Histories(offsets=stored["offsets"], items=stored["items"], n_items=len(ids))
    drawn = np.random.default_rng(0).integers(0, len(histories), count)
    return [json.dumps({"history": ids[histories[int(user)]].tolist(), "k": K}).encode() for user in drawn]


# -- who asks ----------------------------------------------------------------------------------------------------------


async def ask(
    url: str, requests: Sequence[bytes], starts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[int]]:
    """(n,) milliseconds from when each request was due to its whole answer, and its status; 0 where there was none."""
    import aiohttp

    taken, statuses = np.zeros(len(requests)), [0] * len(requests)
    headers = {"content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        begun = time.perf_counter() + 0.1

        async def one(row: int) -> None:
            await asyncio.sleep(max(begun + starts[row] - time.perf_counter(), 0))
            try:
                async with session.post(url, data=requests[row], headers=headers) as answer:
                    await answer.read()
                    statuses[row] = answer.status
            except (aiohttp.ClientError, TimeoutError):
                pass  # counted as one without an answer
            taken[row] = 1000 * (time.perf_counter() - begun - starts[row])

        await asyncio.gather(*map(one, range(len(requests))))
    return taken, statuses


def arrivals(rate: float, count: int) -> NDArray[np.float64]:
    """(count,) seconds at which requests are due: a Poisson process of `rate` a second."""
    return np.cumsum(np.random.default_rng(1).exponential(1 / rate, count))


def load(url: str, bundle: str, rate: float, seconds: float) -> Row:
    """Ask, and tell how it went."""
    count = WARM_UP + int(rate * seconds)
    taken, statuses = asyncio.run(ask(url, bodies(Path(bundle), count), arrivals(rate, count)))
    return told(taken[WARM_UP:], statuses[WARM_UP:], rate)


def told(taken: NDArray[np.float64], statuses: Sequence[int], rate: float) -> Row:
    """A row of what was measured; times are of those that were answered."""
    counts = Counter(statuses)
    good = taken[np.array(statuses) == 200]
    p50, p99 = np.percentile(good, [50, 99]) if len(good) else (float("inf"), float("inf"))
    other = {str(status): count for status, count in sorted(counts.items()) if status != 200}
    return {
        "rate": rate,
        "requests": len(taken),
        "answered": counts[200] / max(len(taken), 1),
        "p50 ms": float(p50),
        "p99 ms": float(p99),
        "worst ms": float(good.max(initial=0.0)),
        "others": json.dumps(other) if other else None,
    }


# -- both --------------------------------------------------------------------------------------------------------------


def serve(bundle: str, port: int, workers: int) -> None:
    """What `miss serve` does, without a registry."""
    from serving.app import create_app, run
    from serving.engine import Engine
    from serving.live import Live

    limits = Limits(workers=workers)
    run(create_app(Live(Engine(Path(bundle), version="bench", threads=limits.threads)), limits=limits), port=port)


def _python(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.serving", "--one", json.dumps(arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def measure(bundle: Path, rate: float, seconds: float, workers: int) -> Row:
    """A row: a fresh service, asked at a rate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    service = _python("serve", str(bundle), port, workers)
    try:
        until = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"{address}/health/ready", timeout=1).close()
                break
            except OSError:
                if service.poll() is not None or time.monotonic() > until:
                    raise SystemExit("the service did not start; its message is above") from None
                time.sleep(0.1)
        spent, begun = _cpu_seconds(service.pid), time.monotonic()
        caller = _python("load", f"{address}/v1/recommend", str(bundle), rate, seconds, stdout=subprocess.PIPE)
        output, _ = caller.communicate()
        if caller.returncode:
            raise SystemExit("the caller failed; its message is above")
        row: Row = json.loads(output.splitlines()[-1])
        cores = (_cpu_seconds(service.pid) - spent) / (time.monotonic() - begun)
        with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
            counters = answer.read().decode()
        calls = _metric(counters, "miss_batch_size_count")
        row |= {
            "workers": workers,
            "users a call": _metric(counters, "miss_batch_size_sum") / max(calls, 1),
            "cores": cores,
        }
        return row | {"service MiB": _metric(counters, "process_resident_memory_bytes") / 2**20}
    finally:
        service.terminate()
        service.wait(30)


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is asked of the service at `RATE`."""
    (row,) = [each for each in rows if each["rate"] == RATE]
    return [
        at_most(f"p99 ms, {RATE:g} requests a second, MovieLens-1M", row["p99 ms"], P99_MS),
        at_least(f"share answered, {RATE:g} requests a second", row["answered"], 1.0),
    ]


def main() -> None:
    """At half the rate, the rate, and half more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle's folder; one of MovieLens-1M's model by default")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--home", type=Path, default=ROOT / ".miss-bench", help="where that model is kept")
    parser.add_argument("--rates", default=f"{RATE / 2:g},{RATE:g},{RATE * 1.5:g}", help="a second, comma-separated")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each rate")
    parser.add_argument("--workers", type=int, default=Limits().workers, help="calls of the graph side by side")
    parser.add_argument("--try", dest="trial", action="store_true", help="print the rows, write nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        name, *arguments = json.loads(chosen.one)
        result = {"serve": serve, "load": load}[name](*arguments)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory(prefix="miss-serving-") as scratch:
        bundle = chosen.bundle or Path(scratch) / "bundle"
        if chosen.bundle is None:
            bundle_of(model_of(chosen.home.resolve(), chosen.data.resolve()), bundle)
        rows = [measure(bundle, float(rate), chosen.seconds, chosen.workers) for rate in chosen.rates.split(",")]
    if chosen.trial:
        print(json.dumps(rows, indent=2))
    else:
        write("serving", rows, targets(rows))


if __name__ == "__main__":
    main()
