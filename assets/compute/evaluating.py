"""A trained model on an evaluation set, shard by shard: ranks and what was shown, which add up.

- Shards are whole batches of `model.evaluation`, so that every user is asked for in the same company wherever it is: the result is
  that of one machine, to the last rank.

Not covered: baselines, which take minutes on one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assets.compute import Engine, Shard
from model.evaluation import BATCH, Evaluation, Ranked, check_evaluable, evaluation_of, list_length, rank
from model.files import read_npz, write_npz
from model.histories import EvaluationSet, Histories

__all__ = ["SHARD_USERS", "EvaluateShard", "evaluated"]

SHARD_USERS = 4 * BATCH


class EvaluateShard:
    """Work on a shard {"begin", "end", "part"}: users by their place in the set, and the file that takes their ranks."""

    def __init__(self, model: str, options: dict[str, Any], users: str, limit: int) -> None:
        from model.configure import configure
        from model.index_tree import IndexTree
        from model.training import TrainingConfig, load_parameters
        from model.tree_retriever import TreeRetriever

        config = configure(TrainingConfig, options, where="training")
        tree = IndexTree.load(Path(model) / "tree.npz")
        parameters = load_parameters(tree, config, Path(model) / "parameters.npz")
        self._retriever = TreeRetriever(parameters, tree, beam=config.beam)
        self._users, self._limit = EvaluationSet.load(Path(users)), limit

    def __call__(self, shard: Shard) -> Shard:
        """Ask for these users; answers with the seconds that it took."""
        users = self._users.part(shard["begin"], shard["end"])
        ranked = rank(self._retriever, users, limit=self._limit, progress=True)
        write_npz(Path(shard["part"]), {"ranks": ranked.ranks, "shown": ranked.shown})
        return {"seconds": ranked.seconds, "name": self._retriever.name}


def evaluated(engine: Engine, model: Path, options: dict[str, Any], histories: Path, *, work: Path) -> Evaluation:
    """The model of a folder (parameters.npz, tree.npz) on the test part of `training_histories` in another.

    options: of `TrainingConfig`, as it was trained. Raises BadInput for an empty set, or one over another catalogue.
    """
    from model.configure import configure
    from model.training import TrainingConfig

    users = EvaluationSet.load(histories / "test.npz")
    n_items = len(read_npz(model / "tree.npz")["item_leaf"])
    check_evaluable(users, n_items, "the model")
    limit = list_length(n_items, configure(TrainingConfig, options, where="training").beam)
    shards = [
        {"begin": at, "end": min(at + SHARD_USERS, len(users)), "part": str(work / f"ranks-{at}.npz")}
        for at in range(0, len(users), SHARD_USERS)
    ]
    told = engine.each(EvaluateShard, (str(model), options, str(histories / "test.npz"), limit), shards, "test users")
    parts = []
    for shard, said in zip(shards, told, strict=True):
        found = read_npz(Path(shard["part"]))
        parts.append(Ranked(ranks=found["ranks"], shown=found["shown"], seconds=said["seconds"]))
    counts = Histories.load(histories / "train.npz").counts()
    return evaluation_of(told[0]["name"], users, Ranked.joined(parts), limit=limit, counts=counts)
