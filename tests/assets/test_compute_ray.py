"""What a team would lose to a cluster: other results, a step that a lost worker ends, an error that says nothing.

A real cluster of two nodes on this machine. Skips where Ray is not installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import publish
from works import OPTIONS, contents, trained, vectors_of

from assets.compute import Shard, engine
from assets.compute import encoding as encoding_module
from assets.compute import evaluating as evaluating_module
from assets.compute import recommending as recommending_module
from assets.compute.evaluating import evaluated
from assets.compute.local import LocalEngine
from assets.compute.recommending import recommend_all
from model.errors import BadInput

pytestmark = pytest.mark.ray


def test_every_shard_once_in_order_on_both_nodes(cluster: Any) -> None:
    def work(start: int) -> Any:
        import time

        import ray

        def add(shard: Shard) -> Shard:
            time.sleep(0.3)
            return {"sum": start + shard["n"], "node": ray.get_runtime_context().get_node_id()}

        return add

    lines = list[str]()
    on_ray = engine("ray", lines.append)
    told = on_ray.each(work, (10,), [{"n": n} for n in range(12)], "sums")
    assert [each["sum"] for each in told] == [10 + n for n in range(12)]
    assert len({each["node"] for each in told}) == 2
    assert lines[-1].startswith("sums: 12 of 12 shards, ")
    used = on_ray.used()
    assert used["workers"] == 2
    assert used["workers_cpu_seconds"] > 0
    assert used["worker_peak_mib"] > 30
    assert engine("ray").each(work, (10,), [], "nothing") == []


def test_what_is_raised_on_purpose_comes_back_as_it_was(cluster: Any) -> None:
    def work() -> Any:
        def refuse(shard: Shard) -> Shard:
            if shard["n"] == 2:
                raise BadInput("n = 2 is not usable; give another")
            return shard

        return refuse

    with pytest.raises(BadInput, match=r"^n = 2 is not usable; give another$"):
        engine("ray").each(work, (), [{"n": n} for n in range(4)], "refusals")


def test_a_worker_that_is_killed_is_replaced_and_its_shard_done_again(cluster: Any, tmp_path: Path) -> None:
    def work(marker: str) -> Any:
        def die_once(shard: Shard) -> Shard:
            if shard["n"] == 3 and not os.path.exists(marker):
                open(marker, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"n": shard["n"], "pid": os.getpid()}

        return die_once

    told = engine("ray").each(work, (str(tmp_path / "died"),), [{"n": n} for n in range(6)], "deaths")
    assert [each["n"] for each in told] == list(range(6))
    assert (tmp_path / "died").exists()


STEPS = """
import ray
from assets.compute import engine

def work(harm):
    def one(shard):
        import os
        if harm:
            raise RuntimeError("a fault of ours")
        return {"pid": os.getpid()}
    return one

def each(harm=False):
    return {told["pid"] for told in engine("ray", print).each(work, (harm,), [{"n": 1}, {"n": 2}], "steps")}

first = each()
assert first & each(), "workers of the last step are there for the next"
try:
    each(harm=True)
except Exception as error:
    assert "a fault of ours" in str(error), error
assert not ray.is_initialized()
each()
print("went on")
"""


def test_a_process_stays_connected_until_something_unexpected_and_goes_on_after_it(cluster: Any) -> None:
    """A night's run has many steps, and is tried again in the same process when its cluster was started anew."""
    there = os.environ | {"RAY_ADDRESS": cluster.address}
    done = subprocess.run([sys.executable, "-c", STEPS], env=there, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("went on\n"), done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["text", "image"])
def test_embeddings_are_those_of_one_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(encoding_module, "SHARD_ITEMS", 13)
    asked = contents(tmp_path, kind)
    found, there, counts = vectors_of(engine("ray"), asked, tmp_path / "ray")
    assert counts["encoded"] > 50
    own = replace(asked, cache=str(tmp_path / "own cache"))
    expected, present, _ = vectors_of(LocalEngine(), own, tmp_path / "local")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(there, present)


def test_an_evaluation_is_that_of_one_machine(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating_module, "SHARD_USERS", 16)
    model, histories = trained(tmp_path)
    by_ray = evaluated(engine("ray"), model, OPTIONS, histories, work=tmp_path, per_user=tmp_path / "per_user.parquet")
    by_one = evaluated(LocalEngine(), model, OPTIONS, histories, work=tmp_path, per_user=tmp_path / "per_user.parquet")
    np.testing.assert_array_equal(by_ray.ranks, by_one.ranks)
    assert by_ray.row() | {"seconds": 0} == by_one.row() | {"seconds": 0}


def test_everybody_gets_the_same_as_on_one_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommending_module, "SHARD_USERS", 5)
    bundle = publish(tmp_path / "bundle")
    by_ray = recommend_all(engine("ray"), bundle, tmp_path / "ray", k=6, version="3", threads=1)
    by_one = recommend_all(LocalEngine(), bundle, tmp_path / "one", k=6, version="3", threads=1)
    assert by_ray == by_one, "the same bytes, part by part"


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from model.errors import NotReady

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotReady, match="pip install"):
        engine("ray")
