"""The gate's fresh process: `python -m serving.probe BUNDLE --requests 300` loads a bundle as the service would and tries it.

- Prints {"digest", "load_seconds", "golden": bool, "error": text or null, "requests", "p50_ms", "p95_ms"} as JSON.
- Latency is that of one user at a time, history and answer in item indices, after a few requests that are not counted.
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

from model.errors import Corrupt, MissError
from serving.engine import Engine

__all__ = ["main", "probe"]

WARM_UP = 5
FRONT = 100
"""Items asked for, fewer where the beam is narrower."""


def probe(engine: Engine, *, requests: int, seed: int = 0) -> dict[str, Any]:
    """Golden requests and latency of an engine; users are drawn from the bundle's own, or have no history where it has none."""
    try:
        engine.check_golden()
        error = None
    except Corrupt as wrong:
        error = str(wrong)
    stored = engine.histories.histories if engine.histories is not None and len(engine.histories) else None
    rng = np.random.default_rng(seed)
    users = rng.integers(0, len(stored), requests + WARM_UP) if stored is not None else range(requests + WARM_UP)
    spent = []
    for user in users:
        history = stored[int(user)] if stored is not None else np.zeros(0, np.int64)
        started = time.perf_counter()
        engine.recommend([history], min(FRONT, engine.beam))
        spent.append(1000 * (time.perf_counter() - started))
    p50, p95 = np.percentile(spent[WARM_UP:], [50, 95])
    latency = {"requests": requests, "p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3)}
    return {"golden": error is None, "error": error} | latency


def main(arguments: Sequence[str]) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.probe", description="Load a bundle and try it.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=300, choices=range(1, 100_001), metavar="N")
    parsed = parser.parse_args(arguments)
    try:
        started = time.perf_counter()
        engine = Engine(parsed.bundle)
        loaded = {"digest": engine.digest, "load_seconds": round(time.perf_counter() - started, 3)}
        report = probe(engine, requests=parsed.requests)
    except MissError as error:
        print(f"miss: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(loaded | report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
