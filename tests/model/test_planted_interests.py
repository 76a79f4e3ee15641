"""Known answer: users with planted interests are recommended what they are interested in.

A user would lose an index that finds the right shelf. The simulator says which interest each event belonged to; a tree over
content that tells groups apart, and a model trained on the logs, have to find it again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from model.baselines import Popularity
from model.configure import configure
from model.evaluation import evaluate
from model.histories import EvaluationSet, Histories, leave_one_out
from model.index_tree import IndexTree, TreeConfig, build_tree
from model.retriever import Retriever
from model.scorer import MISS
from model.simulator import SimulatorConfig, simulate
from model.training import TrainingConfig, dense_alone, new_model, train_model
from model.tree_retriever import TreeRetriever

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GROUPS, PER_GROUP = 40, 12
RECENT = 200
"""Events back to which an interest counts as held."""
OPTIONS = {
    "scorer": {
        "d": 32,
        "heads": 2,
        "layers": 2,
        "window": 16,
        "dropout": 0.1,
        "hidden": 32,
        "lifelong": {"kept": 32, "top_k": 16, "probes": 32},
    },
    "dense": {"epochs": 9},
    "lifelong": {"epochs": 2, "validation_users": 300},
    "beam": 100,
}


@dataclass(frozen=True)
class World:
    """A trained index over planted interests."""

    groups: NDArray[np.int64]
    """(N,) group of each item."""
    test: EvaluationSet
    target: NDArray[np.int64]
    """(E,) interest whose turn it was at the target."""
    held: list[set[int]]
    """Interests of each user's latest events before the target."""
    train: Histories
    tree: IndexTree
    model: MISS
    dense: MISS
    """The same model, its lifelong path switched off."""

    def answers(self, retriever: Retriever) -> NDArray[np.int64]:
        """(E, 10) groups of what each test user is recommended."""
        items, _ = retriever.recommend([self.test.seen[i] for i in range(len(self.test))], 10)
        return self.groups[items]

    def target_found(self, retriever: Retriever) -> float:
        """Share of users with an item of the target's interest among their ten."""
        return float((self.answers(retriever) == self.target[:, None]).any(axis=1).mean())

    def on_interest(self, retriever: Retriever) -> float:
        """Share of recommended items that belong to an interest the user holds."""
        rows = zip(self.answers(retriever), self.held, strict=True)
        return float(np.mean([[int(group) in held for group in row] for row, held in rows]))


@pytest.fixture(scope="module")
def world() -> World:
    groups = np.repeat(np.arange(GROUPS), PER_GROUP)
    logs = simulate(SimulatorConfig(users=700, median_events=90, return_gap=30, interests=8, seed=7), groups)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(logs.users))]).astype(np.int64)
    train, validation, test = leave_one_out(Histories(offsets=offsets, items=logs.items, n_items=len(groups)))
    rng = np.random.default_rng(0)
    content = rng.normal(size=(GROUPS, 32))[groups] + 0.7 * rng.normal(size=(len(groups), 32))
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    config = configure(TrainingConfig, OPTIONS, where="training")
    trained = train_model(build_tree(content.astype(np.float32), TreeConfig()), train, validation, config)
    dense = new_model(trained.tree, dense_alone(config))
    own = dense.state_dict()
    dense.load_state_dict({name: value for name, value in trained.model.state_dict().items() if name in own})
    end = offsets[1:][test.users] - 1
    begin = np.maximum(offsets[test.users], end - RECENT)
    return World(
        groups=groups,
        test=test,
        target=logs.interests[end].astype(np.int64),
        held=[set(logs.interests[a:b].tolist()) for a, b in zip(begin, end, strict=True)],
        train=train,
        tree=trained.tree,
        model=trained.model,
        dense=dense.eval(),
    )


def test_the_planted_interest_is_found(world: World) -> None:
    """1 event in 7 falls outside of every interest, and two interests take turns: no retriever can reach 1."""
    ours = TreeRetriever(world.model, world.tree, beam=100)
    assert world.target_found(ours) > 0.65
    assert world.on_interest(ours) > 0.65
    assert evaluate(ours, world.test, counts=world.train.counts()).recall(10) > 0.42
    assert world.on_interest(Popularity.fit(world.train)) < 0.3, "what is popular is no answer here"


def test_the_lifelong_path_finds_more_of_it(world: World) -> None:
    ours, short = (TreeRetriever(model, world.tree, beam=100) for model in (world.model, world.dense))
    assert world.target_found(ours) > world.target_found(short) + 0.1
    assert world.on_interest(ours) > world.on_interest(short) + 0.1
