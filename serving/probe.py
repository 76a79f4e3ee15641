"""The gate's fresh process: `python -m serving.probe BUNDLE --requests 300` loads a bundle as the service would and tries it.

- Prints {"digest", "load_seconds", "golden": bool, "error": text or null, "requests", "p50_ms", "p95_ms"} as JSON.
- Latency is that of one user at a time, history and answer in item indices, after a few requests that are not counted.
- `--beside RIVAL` asks a second bundle in turn, request by request, so that whatever else the machine does falls on both alike:
  "beside": {"p50_ms", "p95_ms"}, or {"error": text} where the rival cannot be loaded.
- A bundle that cannot be loaded is one sentence on stderr and the exit code of its error.

Not covered: throughput, concurrent requests, the HTTP layer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import Corrupt, MissError
from serving.engine import Engine

__all__ = ["latencies", "main", "probe"]

WARM_UP = 5
FRONT = 100
"""Items asked for, fewer where the beam is narrower."""


def latencies(engines: Sequence[Engine], *, requests: int, seed: int = 0) -> list[dict[str, Any]]:
    """{"requests", "p50_ms", "p95_ms"} of each engine, asked in turn; users are an engine's own, none where it holds none."""
    rng = np.random.default_rng(seed)
    spent = np.empty((len(engines), requests + WARM_UP))
    for request in range(requests + WARM_UP):
        draw = int(rng.integers(0, 2**62))
        for engine, row in zip(engines, spent, strict=True):
            history = _history(engine, draw)
            started = time.perf_counter()
            engine.recommend([history], min(FRONT, engine.beam))
            row[request] = 1000 * (time.perf_counter() - started)
    quantiles = np.percentile(spent[:, WARM_UP:], [50, 95], axis=1).round(3).T
    return [{"requests": requests, "p50_ms": float(p50), "p95_ms": float(p95)} for p50, p95 in quantiles]


def _history(engine: Engine, draw: int) -> NDArray[np.int64]:
    stored = engine.histories.histories if engine.histories is not None and len(engine.histories) else None
    return np.zeros(0, np.int64) if stored is None else stored[draw % len(stored)]


def probe(engine: Engine, *, requests: int, rival: Engine | None = None) -> dict[str, Any]:
    """Golden requests and latency of an engine, and the latency of a rival asked in turn."""
    try:
        engine.check_golden()
        error = None
    except Corrupt as wrong:
        error = str(wrong)
    own, *beside = latencies([engine] if rival is None else [engine, rival], requests=requests)
    return {"golden": error is None, "error": error} | own | ({"beside": beside[0]} if beside else {})


def _rival(bundle: Path | None) -> tuple[Engine | None, dict[str, Any]]:
    """The bundle to be timed beside, or what to say of one that cannot be loaded: that is no fault of the first."""
    if bundle is None:
        return None, {}
    try:
        return Engine(bundle), {}
    except MissError as error:
        return None, {"beside": {"error": str(error)}}


def main(arguments: Sequence[str]) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.probe", description="Load a bundle and try it.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=300, choices=range(1, 100_001), metavar="N")
    parser.add_argument("--beside", type=Path, metavar="RIVAL", help="a second bundle, timed in turn with the first")
    parsed = parser.parse_args(arguments)
    try:
        started = time.perf_counter()
        engine = Engine(parsed.bundle)
        loaded = {"digest": engine.digest, "load_seconds": round(time.perf_counter() - started, 3)}
        rival, missing = _rival(parsed.beside)
        report = probe(engine, requests=parsed.requests, rival=rival) | missing
    except MissError as error:
        print(f"miss: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(loaded | report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
