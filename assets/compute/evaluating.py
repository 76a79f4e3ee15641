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
from model.files import npz_length, read_npz, replacing, write_npz
from model.histories import EvaluationSet, Histories

__all__ = ["SHARD_USERS", "EvaluateShard", "JoinRanks", "evaluated"]

SHARD_USERS = 4 * BATCH


class EvaluateShard:
    """Work on a shard {"begin", "end", "part"}: users by their place in the set, and the file that takes their ranks."""

    def __init__(self, model: str, options: dict[str, Any], users: str, limit: int) -> None:
        """Raises BadInput for an empty set, or one over another catalogue."""
        from model.configure import configure
        from model.index_tree import IndexTree
        from model.training import TrainingConfig, load_parameters
        from model.tree_retriever import TreeRetriever

        config = configure(TrainingConfig, options, where="training")
        tree = IndexTree.load(Path(model) / "tree.npz")
        parameters = load_parameters(tree, config, Path(model) / "parameters.npz")
        self._retriever = TreeRetriever(parameters, tree, beam=config.beam)
        self._users, self._limit = EvaluationSet.load(Path(users)), limit
        check_evaluable(self._users, tree.n_items, "the model")

    def __call__(self, shard: Shard) -> Shard:
        """Ask for these users; answers with the seconds that it took."""
        users = self._users.part(shard["begin"], shard["end"])
        ranked = rank(self._retriever, users, limit=self._limit, progress=True)
        write_npz(Path(shard["part"]), {"ranks": ranked.ranks, "shown": ranked.shown})
        return {"seconds": ranked.seconds, "name": self._retriever.name}


class JoinRanks:
    """Work on a shard {"parts", "seconds", "name", "limit"}: the evaluation of the parts' files, in order."""

    def __init__(self, histories: str, evaluation: str, per_user: str) -> None:
        """histories: folder of test.npz and train.npz; the others name the files that take what comes of it."""
        self._histories, self._evaluation, self._per_user = Path(histories), Path(evaluation), Path(per_user)

    def __call__(self, shard: Shard) -> Shard:
        """Join: `Evaluation`, and a table of users."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        users = EvaluationSet.load(self._histories / "test.npz")
        counts = Histories.load(self._histories / "train.npz").counts()
        parts = [
            Ranked(ranks=found["ranks"], shown=found["shown"], seconds=seconds)
            for found, seconds in zip(map(read_npz, map(Path, shard["parts"])), shard["seconds"], strict=True)
        ]
        whole = evaluation_of(shard["name"], users, Ranked.joined(parts), limit=shard["limit"], counts=counts)
        whole.save(self._evaluation)
        columns = {"user": users.users, "history": users.seen.lengths, "target": users.targets, "rank": whole.ranks}
        with replacing(self._per_user) as file:
            pq.write_table(pa.table(columns), file)
        return {}


def evaluated(
    engine: Engine, model: Path, options: dict[str, Any], histories: Path, *, work: Path, per_user: Path
) -> Evaluation:
    """The model of a folder (parameters.npz, tree.npz) on the test part of `training_histories` in another.

    options: of `TrainingConfig`, as it was trained. per_user: a Parquet file of what became of each user: `user` (index), `history`
    (behaviors before the target), `target` (item index), `rank` (1 the first, 0 where it was not found).
    Raises BadInput for an empty set, or one over another catalogue.
    """
    from model.configure import configure
    from model.training import TrainingConfig

    test = histories / "test.npz"
    n, n_items = npz_length(test, "users"), npz_length(model / "tree.npz", "item_leaf")
    limit = list_length(n_items, configure(TrainingConfig, options, where="training").beam)
    shards = [
        {"begin": at, "end": min(at + SHARD_USERS, n), "part": str(work / f"ranks-{at}.npz")}
        for at in range(0, max(n, 1), SHARD_USERS)
    ]
    told = engine.each(EvaluateShard, (str(model), options, str(test), limit), shards, "test users", loads=True)
    whole = {
        "parts": [shard["part"] for shard in shards],
        "seconds": [each["seconds"] for each in told],
        "name": told[0]["name"],
        "limit": limit,
    }
    evaluation = work / "evaluation.npz"
    engine.each(JoinRanks, (str(histories), str(evaluation), str(per_user)), [whole], "test users, together")
    return Evaluation.load(evaluation)
