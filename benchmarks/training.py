"""The dense path's training against a kept library's SASRec: targets a second, and seconds to a given NDCG@10.

- Equal on both sides: machine, threads, torch, users and their behaviors, width, layers, heads, window, dropout, users a step,
  float32, softmax over the whole catalogue. The peer also has a row with its own default of 128 users a step.
- Not equal: by default ours learns every level of the tree (twice the nodes that the catalogue has items), hides items already
  seen, and has HSTU's layers. So there are rows between: a transformer's layers, and those with the leaves alone, the peer's
  work but for a feed-forward part twice as wide (ours) and dropout of attention weights (the peer's).
- Padding is each side's own affair: only targets count. Both cut windows from the same behaviors, ours anywhere, the peer the
  newest; a user's first behavior is a target of ours alone.
- Timed is the best epoch of three over a sample of users, without reading data and building models, all rows in turn in one
  process, so that a busy machine weighs on all alike; seconds an epoch of all users, for the same targets on every row, follow.
- Time to NDCG@10 counts training alone: `model.evaluation` ranks every item for the same users on both sides, the clock stopped.
  The peer is asked four times an epoch, ours once, at its end, which can only cost us. Each has its own learning rate and schedule.
- The floor is what the matrix products of reading and loss would take at the speed of one large product, nothing else counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assets.environment import quiet_environment
from benchmarks import rectools_sasrec
from benchmarks.material import prepare
from benchmarks.measured import ROOT, apart, at_least, at_most, write
from model.configure import configure, merged
from model.dense_training import train_dense
from model.errors import MissError
from model.evaluation import evaluate
from model.exhaustive import Exhaustive
from model.histories import EvaluationSet, Histories
from model.index_tree import IndexTree, TreeConfig, build_tree
from model.retriever import Retriever
from model.training import TrainingConfig, dense_alone, new_model

OURS, PEER = "MISS", "RecTools SASRec"
SHAPES: dict[str, dict[str, Any]] = {
    "default": {},
    "a transformer's layers": {"scorer": {"attention": "softmax"}},
    "the peer's shape": {"scorer": {"attention": "softmax"}, "dense": {"min_level_nodes": 10**9}},
}
"""Rows of ours -> options over the default; the last has the leaves alone."""
PEER_BATCH, PEER_EVERY = 128, 0.25
"""The peer's own users a step; epochs between two evaluations of it."""
USERS, EPOCHS = 310, 3
"""Users timed, and epochs over them."""
JUDGES, REACH, BUDGET_S = 1000, 0.1, 120.0
"""Validation users, the NDCG@10 to reach, and seconds of training at most."""


class _Enough(Exception):
    """Training has gone as far as was asked."""


class Watch:
    """Counts the seconds of training, and asks how good the model is with the clock stopped."""

    def __init__(self, validation: EvaluationSet, train: Histories, *, reach: float, budget_s: float) -> None:
        self.validation, self.counts, self.reach, self.budget_s = validation, train.counts(), reach, budget_s
        self.points: list[dict[str, float]] = []
        self.seconds, self.last = 0.0, time.perf_counter()

    def __call__(self, retriever: Retriever, epochs: float) -> bool:
        """Evaluate; True where the training may end."""
        self.seconds += time.perf_counter() - self.last
        found = evaluate(retriever, self.validation, counts=self.counts).ndcg()
        self.points.append({"epochs": round(epochs, 2), "seconds": self.seconds, "NDCG@10": found})
        print(f"  {self.seconds:.0f} s: NDCG@10 {found:.4f}", file=sys.stderr)
        self.last = time.perf_counter()
        return found >= self.reach or self.seconds >= self.budget_s


def some(train: Histories, users: int) -> Histories:
    """The histories of so many users, the same ones each time; everybody else's are empty."""
    chosen = np.random.default_rng(0).permutation(len(train))[:users]
    return train.drop_last(np.where(np.isin(np.arange(len(train)), chosen), 0, train.lengths))


def ours(
    tree: IndexTree,
    train: Histories,
    nobody: EvaluationSet,
    config: TrainingConfig,
    *,
    watch: Watch | None = None,
) -> tuple[int, list[float]]:
    """Train without validation but the watch's; (targets of an epoch, seconds of each epoch)."""
    model, dense = new_model(tree, config), replace(config.dense, patience=config.dense.epochs)
    targets = int(np.minimum(train.lengths, config.scorer.window).sum())

    def report(epoch: int, _: float) -> None:
        if watch is not None and watch(Exhaustive(model, tree, beam=config.beam, lifelong=False), epoch + 1):
            raise _Enough

    try:
        curve = train_dense(model, tree, train, nobody, dense, seed=0, progress=lambda _: None, report=report)
    except _Enough:
        return targets, []
    return targets, [point["seconds"] for point in curve]


def floor(tree: IndexTree, train: Histories, config: TrainingConfig) -> dict[str, float]:
    """Targets a second if nothing were done but the products of reading and loss, forward and back, at full speed."""
    size, best = 1024, 0.0
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    for _ in range(100):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    scorer, widths = config.scorer, np.diff(tree.level_offsets)
    nodes = int(widths[:-1][widths[:-1] >= config.dense.min_level_nodes].sum() + widths[-1])
    s = np.minimum(train.lengths, scorer.window).astype(np.float64)
    squares = 5 if scorer.attention == "pointwise" else 8  # d x d products of a layer and position
    reading = scorer.layers * (6 * squares * scorer.d**2 * s.sum() + 12 * scorer.d * (s**2).sum())
    work = reading / s.sum() + 6.0 * scorer.d * nodes
    return {"targets a second": best / work, "MFLOP a target": work / 1e6, "GFLOP/s": best / 1e9}


class Job:
    """What the process that measures is told: histories, tree, and how everything is to be trained."""

    def __init__(self, asked: dict[str, Any]) -> None:
        folder = Path(asked["material"])
        self.tree, self.train = IndexTree.load(folder / "tree.npz"), Histories.load(folder / "train.npz")
        self.validation = EvaluationSet.load(folder / "validation.npz").first(JUDGES)
        self.asked = asked
        sys.path.insert(0, asked["peer"])

    def config(self, own: dict[str, Any]) -> TrainingConfig:
        """The default under the options asked for and a row's own, with the batch that learning from everybody takes."""
        config = dense_alone(configure(TrainingConfig, merged(self.asked["options"], own), where="training"))
        batch = min(config.dense.batch_users, max(8, int((self.train.lengths > 0).sum()) // config.dense.min_steps))
        return replace(config, dense=replace(config.dense, batch_users=batch, min_steps=1))

    def timed(self) -> list[dict[str, Any]]:
        """The rows of targets a second, one epoch of each in turn, again and again."""
        train = some(self.train, self.asked["users"])
        everybody = int(np.minimum(self.train.lengths, self.config({}).scorer.window).sum())
        kinds = [(PEER, "default"), *((OURS, shape) for shape in SHAPES), (PEER, f"{PEER_BATCH} users a step")]
        rows: list[dict[str, Any]] = [{"model": who, "shape": shape, "targets a second": 0.0} for who, shape in kinds]
        for row in rows * self.asked["epochs"]:
            config = self.config(SHAPES.get(row["shape"], {}))
            config = replace(config, dense=replace(config.dense, epochs=1))
            batch = config.dense.batch_users
            if row["model"] == OURS:
                targets, seconds = ours(self.tree, train, self.validation.first(0), config)
            else:
                batch = batch if row["shape"] == "default" else PEER_BATCH
                targets, seconds = rectools_sasrec.fit(train, config.scorer, batch=batch, epochs=1)
            rate = max(row["targets a second"], targets / seconds[0])
            row |= {"users a step": batch, "targets timed": targets, "targets a second": rate}
            row["seconds an epoch"] = everybody / rate
            print(f"{row['model']}, {row['shape']}: {targets / seconds[0]:,.0f} targets a second", file=sys.stderr)
        for shape in ("default", "the peer's shape"):
            least = floor(self.tree, train, self.config(SHAPES[shape]))
            rows.append({"model": "floor", "shape": shape} | least)
            rows[-1]["seconds an epoch"] = everybody / least["targets a second"]
        return rows

    def curve(self, who: str) -> list[dict[str, float]]:
        """NDCG@10 by seconds of training, in our default or the peer's."""
        print(f"{who} until NDCG@10 {self.asked['reach']}", file=sys.stderr)
        config = self.config({})
        watch = Watch(self.validation, self.train, reach=self.asked["reach"], budget_s=self.asked["budget_s"])
        if who == OURS:
            ours(self.tree, self.train, self.validation.first(0), config, watch=watch)
        else:
            dense = config.dense
            rectools_sasrec.fit(
                self.train,
                config.scorer,
                batch=dense.batch_users,
                epochs=dense.epochs,
                every=PEER_EVERY,
                asked=watch,
            )
        return watch.points


def until(points: Sequence[dict[str, float]], reach: float) -> float:
    """Seconds until the first point that is good enough; those of the whole curve, at least the budget, where none is."""
    return next((point["seconds"] for point in points if point["NDCG@10"] >= reach), points[-1]["seconds"])


def measure(asked: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows and targets; asked: what a `Job` is told."""
    made = apart("training", "--one", json.dumps(asked))
    rows: list[dict[str, Any]] = made["rows"]
    peer = max(row["targets a second"] for row in rows if row["model"] == PEER)
    rates = {row["shape"]: row["targets a second"] for row in rows if row["model"] == OURS}
    took, reach = {}, asked["reach"]
    for who in (OURS, PEER):
        points = made[who]
        rows += [{"model": who, "shape": "curve"} | point for point in points]
        took[who] = until(points, reach)
        if points[-1]["NDCG@10"] < reach:
            print(f"{who} has not come to {reach} after {took[who]:.0f} s, which count instead", file=sys.stderr)
    return rows, [
        at_least("targets a second against the peer's, default", rates["default"] / peer, 2),
        at_least("targets a second against the peer's, the peer's shape", rates["the peer's shape"] / peer, 2),
        at_most(f"time to NDCG@10 {reach} against the peer's", took[OURS] / took[PEER], 0.5),
    ]


def main() -> None:
    """Everything, row after row, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="movielens-1m")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--home", type=Path, default=ROOT / ".miss-bench", help="where data and the peer are kept")
    parser.add_argument("--users", type=int, default=USERS, help="users timed")
    parser.add_argument("--reach", type=float, default=REACH, help="NDCG@10 to reach")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds of training to reach it in")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON over the default training options")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        job = Job(chosen.one)
        print(json.dumps({"rows": job.timed()} | {who: job.curve(who) for who in (OURS, PEER)}))
        return
    os.environ["TQDM_DISABLE"] = "1"
    quiet_environment()
    home = chosen.home.resolve()
    folder = rectools_sasrec.installed(home / "rectools")
    made = prepare(chosen.dataset, data=chosen.data.resolve(), home=home)
    with tempfile.TemporaryDirectory() as work:
        build_tree(made.aligned, TreeConfig()).save(Path(work) / "tree.npz")
        made.train.save(Path(work) / "train.npz")
        made.validation.save(Path(work) / "validation.npz")
        asked = {"material": work, "peer": str(folder), "options": chosen.options, "users": chosen.users}
        asked |= {"epochs": EPOCHS, "reach": chosen.reach, "budget_s": chosen.budget_s}
        write("training", *measure(asked))


if __name__ == "__main__":
    try:
        main()
    except MissError as error:
        sys.exit(f"error: {error}")
