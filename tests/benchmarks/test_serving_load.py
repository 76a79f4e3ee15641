"""What the load test must not hide: requests that wait for a service that is busy, and those that get no answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import publish

from benchmarks.serving import RATE, arrivals, ask, bodies, measure, targets, told


def test_time_runs_from_when_a_request_was_due() -> None:
    """A service that answers one at a time in 50 ms cannot look fast at 100 a second."""

    class OneAtATime(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            time.sleep(0.05)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), OneAtATime)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        taken, statuses = asyncio.run(ask(url, [b"{}"] * 20, np.arange(20) / 100))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert statuses == [200] * 20
    assert taken.max() > 700, "the last of 20 waits for 19 others, 50 ms each, less the .19 s it came later"


def test_what_is_not_answered_is_told() -> None:
    """A service that refuses half is not a fast one."""
    row = told(np.array([1.0, 2.0, 900.0, 3.0]), [200, 200, 503, 0], RATE)
    assert (row["answered"], row["worst ms"], json.loads(row["others"])) == (0.5, 2.0, {"0": 1, "503": 1})
    assert [each["met"] for each in targets([row])] == [True, False]
    nobody = told(np.array([5.0]), [0], RATE)
    assert not targets([nobody])[0]["met"]


def test_arrivals_are_of_the_rate() -> None:
    """100 a second is 100 a second, in no rhythm."""
    due = arrivals(100.0, 20_000)
    gaps = np.diff(due)
    assert due[-1] == pytest.approx(200, rel=0.03)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)


def test_a_bundle_under_a_little_load(tmp_path: Path) -> None:
    """The whole way: a service, a caller, a row."""
    bundle = publish(tmp_path / "bundle")
    assert {"history", "k"} == set(json.loads(bodies(bundle, 3)[0]))
    row = measure(bundle, rate=100.0, seconds=1.0, workers=2)
    assert (row["requests"], row["answered"]) == (100, 1.0)
    assert row["users a call"] >= 1
    assert 0 < row["p50 ms"] <= row["p99 ms"] <= row["worst ms"]
