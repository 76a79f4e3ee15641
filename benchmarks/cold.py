"""The cold part of the quality table: items held out of everything that is learnt, then retrieved from content alone.

- Held out is a seeded share of the items with behaviors. Their behaviors leave the training histories, and so the item pairs:
  the embeddings are aligned anew, since vectors that had met these items' partners would be no content alone.
- A user's target is the last held-out item they came to. What trains of that user ends before it, as at a leave-one-out target;
  with the first one instead most of the logs would have to go, or train on what came after the target.
- Held-out items a user had before the target are not read, but they stay excluded from the answer, as everything seen does.
- The catalogue is ranked whole, and once more without the warm items ("among cold"): which of the new ones, for whom. There,
  popularity knows nothing: its expectation is chance, which is given. `KNOWN_POPULARITY` counts the whole logs: an oracle.
- Every item left without training behaviors starts from content, held out or never touched; only held-out ones are targets.
- How cold items start (`model.cold_start`) was chosen on MovieLens' split 0; the table's is another, drawn with seed 1.
- Less training than the table's (`Cold`'s budget, told in the rows' options), found again by digests as all runs are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.stores.artifacts import RECIPE, Artifact
from benchmarks.grid import Cell
from benchmarks.material import Material
from benchmarks.report import Result
from benchmarks.runs import Runs
from model.configure import merged
from model.errors import BadInput
from model.evaluation import evaluate
from model.files import read_npz, write_npz
from model.histories import EvaluationSet, Histories, leave_one_out
from model.ranking import flatten, top_k
from model.retriever import Retriever, check_k

__all__ = ["CONTENT", "Cold", "ColdSplit", "ContentMean", "NewItems", "chance", "draw", "split_cold"]

CODE_VERSION = "1"
"""Raise it when the split, what is made of it, or how cold items start (`model.cold_start`) changes."""
CONTENT = "MISS, cold items from content"
AS_TRAINED = "MISS, cold items as training left them"
DENSE = "MISS, lifelong path switched off, cold items from content"
KNOWN_POPULARITY = "popularity, were it known"
LAST = 10
"""Behaviors that the content baseline reads."""
FRONT = 10
"""Length of the list that is looked at among cold items."""


@dataclass(frozen=True, kw_only=True)
class ColdSplit:
    """What is held out, what is left to train on, and who is asked."""

    train: Histories
    """All users' training histories without them, ended before the user's target."""
    validation: EvaluationSet
    """The leave-one-out validation without them: histories and targets."""
    cold: EvaluationSet
    """Users with a target: everything before it, other held-out items included, and the target."""


def draw(whole: Histories, *, share: float, seed: int) -> NDArray[np.int64]:
    """(K,) a random `share` of the items with behaviors, ascending. Raises BadInput for a share that takes none or all."""
    touched = np.flatnonzero(whole.counts())
    size = round(share * len(touched))
    if not 0 < size < len(touched):
        raise BadInput(f"share = {share} holds out {size} of {len(touched)} items; give one that leaves both kinds")
    return np.sort(np.random.default_rng(seed).permutation(touched)[:size])


def split_cold(whole: Histories, held_out: NDArray[np.int64]) -> ColdSplit:
    """Take items (K,) out of whole histories, and ask for them.

    A target is the last held-out item that was new to its user, who had had some other item by then.
    Raises BadInput where nobody has one.
    """
    held = np.zeros(whole.n_items, dtype=bool)
    held[held_out] = True
    user, place = _places(whole)
    others = np.concatenate([[0], np.cumsum(~held[whole.items])])  # behaviors on other items so far, over all users
    known = others[:-1] > others[whole.offsets[user]]
    first = np.zeros(len(whole.items), dtype=bool)
    first[np.unique(user * whole.n_items + whole.items, return_index=True)[1]] = True
    at = np.flatnonzero(held[whole.items] & first & known)
    at = at[np.append(user[at][1:] != user[at][:-1], True)[: len(at)]]
    if not len(at):
        raise BadInput(f"no user has one of {len(held_out)} held-out items after another item; hold out more")
    end = np.full(len(whole), np.iinfo(np.int64).max)
    end[user[at]] = place[at]
    asked = np.zeros(len(whole), dtype=bool)
    asked[user[at]] = True
    seen = _kept(whole, asked[user] & (place < end[user]), user[at])
    cold = EvaluationSet(split="cold", users=user[at], seen=seen, targets=whole.items[at])

    train, validation, _ = leave_one_out(whole)
    user, place = _places(train)
    train = _kept(train, ~held[train.items] & (place < end[user]))
    warm = ~held[validation.targets]
    row, _ = _places(validation.seen)
    seen = _kept(validation.seen, ~held[validation.seen.items] & warm[row], np.flatnonzero(warm))
    users, targets = validation.users[warm], validation.targets[warm]
    validation = EvaluationSet(split="validation", users=users, seen=seen, targets=targets)
    return ColdSplit(train=train, validation=validation, cold=cold)


def _places(histories: Histories) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """User and position within the history of each behavior, (B,) both."""
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    return user, np.arange(len(user)) - histories.offsets[user]


def _kept(histories: Histories, mask: NDArray[np.bool_], users: NDArray[np.int64] | None = None) -> Histories:
    """The behaviors in `mask` (B,), of `users` alone where given; the mask holds none of other users."""
    lengths = np.bincount(_places(histories)[0][mask], minlength=len(histories))
    offsets = np.concatenate([[0], np.cumsum(lengths if users is None else lengths[users])]).astype(np.int64)
    return Histories(offsets=offsets, items=histories.items[mask], n_items=histories.n_items)


class NewItems(Retriever):
    """A retriever for which some items are new: it does not read them in histories, and excludes them all the same."""

    def __init__(self, inner: Retriever, new: NDArray[np.int64], *, alone: bool = False) -> None:
        """new: (K,) items. alone: answer with these alone."""
        self.inner, self.new, self.name, self.n_items = inner, new, inner.name, inner.n_items
        self.beam = int(getattr(inner, "beam", inner.n_items))
        self.others = np.setdiff1d(np.arange(self.n_items), new) if alone else np.zeros(0, np.int64)

    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`."""
        gone = [np.concatenate([self.others, each]) for each in (histories if exclude is None else exclude)]
        known = [history[~np.isin(history, self.new)] for history in histories]
        return self.inner.recommend(known, k, exclude=gone)


class ContentMean(Retriever):
    """Items by inner product with the mean content of the user's last few."""

    def __init__(self, vectors: NDArray[np.float32], *, last: int = LAST) -> None:
        """vectors: (N, c) content of unit length. last: behaviors that are read."""
        self.name, self.vectors, self.last = f"content of the last {last} items", vectors, last
        self.n_items = len(vectors)

    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`."""
        check_k(k, self.n_items)
        known = flatten([history[-self.last :] for history in histories], self.n_items)
        mean = np.zeros((len(histories), self.vectors.shape[1]), dtype=np.float32)
        np.add.at(mean, known.rows, self.vectors[known.items])
        mean /= np.maximum(np.bincount(known.rows, minlength=len(histories)), 1)[:, None].astype(np.float32)
        return top_k(mean @ self.vectors.T, k, flatten(histories if exclude is None else exclude, self.n_items))


def chance(chosen: EvaluationSet, held_out: NDArray[np.int64]) -> dict[str, float]:
    """What a random order of the held-out items that a user has not had is expected to reach: {"recall@10", "ndcg@10"}."""
    had = [len(np.intersect1d(chosen.seen[row], held_out)) for row in range(len(chosen))]
    left = len(held_out) - np.array(had)
    gain = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(FRONT) + 2.0))])
    shown = np.minimum(left, FRONT)
    return {f"recall@{FRONT}": float((shown / left).mean()), f"ndcg@{FRONT}": float((gain[shown] / left).mean())}


class Cold:
    """One data set's cold part: rows for `quality.json`, and what is said of them there."""

    split, of = "cold", CONTENT

    def __init__(
        self,
        made: Material,
        options: Mapping[str, Any],
        *,
        share: float = 0.05,
        split_seed: int = 1,
        dense_epochs: int = 8,
        lifelong_epochs: int = 2,
        progress: Callable[[str], None] = print,
    ) -> None:
        """options: of `TrainingConfig`, as the main table's. dense_epochs, lifelong_epochs: the budget, at most."""
        base = Runs(made, options).config(Cell(), 0)
        epochs = min(dense_epochs, base.dense.epochs), min(lifelong_epochs, base.lifelong.epochs)
        budget = {"dense": {"epochs": epochs[0]}, "lifelong": {"epochs": epochs[1]}}
        self.options = merged(options, budget)
        self.made, self.held_out = _without(made, share, split_seed)
        self.chosen = self.made.test
        # the base's whole configuration: on fewer behaviors the defaults might be a smaller model's
        self.runs = Runs(self.made, merged(asdict(base), budget), progress=progress)

    def rows(self, seeds: Sequence[int]) -> Iterator[Result]:
        """MISS for each seed of its training, then what has no seed. Row's extra: "among_cold" with recall, NDCG and chance."""
        for seed in seeds:
            yield from self._miss(seed)
        yield from self._baselines()

    def _miss(self, seed: int) -> Iterator[Result]:
        from model.cold_start import warm_from_content
        from model.tree_retriever import TreeRetriever

        cell, runs = Cell(), self.runs
        tree, dense, whole = runs.tree(cell.tree, seed), runs.dense(cell, seed), runs.model(cell, seed)
        beam = runs.config(cell, seed).beam
        dense_seconds, seconds = float(dense.meta["train_seconds"]), runs.train_seconds(cell, seed)
        short = asdict(replace(cell, lifelong="none"))
        for name, trained, load, took, told in (
            (CONTENT, whole, runs.load, seconds, asdict(cell)),
            (AS_TRAINED, whole, runs.load, seconds, asdict(cell)),
            (DENSE, dense, runs.load_dense, dense_seconds, short),
        ):

            def make(name: str = name, load: Any = load) -> Retriever:
                model, index = load(cell, seed)
                if name != AS_TRAINED:
                    warm_from_content(model, index, self.made.train.counts())
                return TreeRetriever(model, index, beam=beam)

            yield self._row(name, seed, {"model": trained, "tree": tree}, make, {"beam": beam}, took, told)

    def _baselines(self) -> Iterator[Result]:
        from model.baselines import Popularity

        content = ContentMean(self.made.aligned)
        yield self._row(content.name, None, {"content": self.made.inputs["multimodal_embeddings"]}, lambda: content, {})
        behaviors = self.made.inputs["histories"]
        oracle = Popularity.fit(Histories.load(behaviors.path / "histories.npz"))
        yield self._row(KNOWN_POPULARITY, None, {"behaviors": behaviors}, lambda: oracle, {})

    def _row(
        self,
        name: str,
        seed: int | None,
        inputs: Mapping[str, Artifact | str],
        make: Callable[[], Retriever],
        own: Mapping[str, Any],
        seconds: float = 0.0,
        cell: dict[str, Any] | None = None,
    ) -> Result:
        found, stored = self.runs.evaluation(
            name,
            inputs,
            lambda work: NewItems(make(), self.held_out),
            split="test",
            own={"cold": CODE_VERSION, **own},
            extra=lambda retriever, chosen: {"among_cold": self._among(retriever)},
        )
        return Result(
            dataset=self.made.dataset,
            retriever=name,
            seed=seed,
            evaluation=found,
            train_seconds=seconds,
            cell=cell or {},
            options=self.options,
            extra={"among_cold": stored.meta["among_cold"]},
        )

    def _among(self, retriever: Any) -> dict[str, Any]:
        """Figures of the ranking without warm items: JSON values."""
        alone = NewItems(retriever.inner, self.held_out, alone=True)
        found = evaluate(alone, self.chosen, ks=(FRONT,), counts=self.made.train.counts())
        figures = {f"recall@{FRONT}": found.recall(FRONT), f"ndcg@{FRONT}": found.ndcg()}
        by_chance = chance(self.chosen, self.held_out)
        return {
            "items": len(self.held_out),
            **{metric: round(value, 5) for metric, value in figures.items()},
            "chance": {metric: round(value, 5) for metric, value in by_chance.items()},
        }


def _without(made: Material, share: float, seed: int) -> tuple[Material, NDArray[np.int64]]:
    """The material without a share of its items' behaviors, embeddings aligned anew; and these items (K,)."""
    store, behaviors = made.store, made.store.current("histories")

    def split(folder: Path, work: Path) -> dict[str, Any]:
        whole = Histories.load(behaviors.path / "histories.npz")
        held_out = draw(whole, share=share, seed=seed)
        found = split_cold(whole, held_out)
        write_npz(folder / "held_out.npz", {"items": held_out})
        found.train.save(folder / "train.npz")
        found.validation.save(folder / "validation.npz")
        found.cold.save(folder / "cold.npz")
        return {"held_out": len(held_out), "behaviors": len(found.train.items), "users": len(found.cold)}

    config = {"share": share, "seed": seed}
    inputs = {"behaviors": behaviors}
    histories, _ = store.produce(
        "bench_cold_histories", code_version=CODE_VERSION, config=config, inputs=inputs, build=split
    )
    train = Histories.load(histories.path / "train.npz")
    content = _aligned(made, histories, train)
    left = replace(
        made,
        train=train,
        validation=EvaluationSet.load(histories.path / "validation.npz"),
        test=EvaluationSet.load(histories.path / "cold.npz"),
        aligned=read_npz(content.path / "embeddings.npz")["embeddings"],
        inputs=made.inputs
        | {"histories": behaviors, "training_histories": histories, "multimodal_embeddings": content},
    )
    return left, read_npz(histories.path / "held_out.npz")["items"]


def _aligned(made: Material, histories: Artifact, train: Histories) -> Artifact:
    """Content embeddings aligned on the pairs of `train` alone, with the material's own options."""
    options = {name: made.inputs[name].meta[RECIPE]["config"] for name in ("item_pairs", "multimodal_embeddings")}
    modalities = {name: made.inputs[f"{name}_embeddings"] for name in ("text", "image")}

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.alignment import AlignmentConfig, align
        from model.item_pairs import ItemPairsConfig, item_pairs

        pairs = item_pairs(train, ItemPairsConfig(**options["item_pairs"]))
        text, image = (read_npz(each.path / "embeddings.npz") for each in modalities.values())
        config = AlignmentConfig(**options["multimodal_embeddings"])
        aligned = align(text["vectors"], text["present"], image["vectors"], image["present"], pairs, config)
        write_npz(folder / "embeddings.npz", {"embeddings": aligned.embeddings.astype(np.float32)})
        return {"alignment": aligned.metrics}

    inputs = {"histories": histories, **modalities}
    return made.store.produce(
        "bench_cold_content", code_version=CODE_VERSION, config=options, inputs=inputs, build=build
    )[0]
