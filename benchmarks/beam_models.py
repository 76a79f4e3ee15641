"""What searches are measured on: a model whose tree means something, at any size, and the trained one of MovieLens-1M.

- The synthetic model is not trained, but its scores lie as a trained one's do: a leaf's embedding is a projection of its content
  and noise, a node's is the mean over its leaves, and a node's bias is what the best leaf under it is likely to score above that
  mean (their popularity, and how far their embeddings spread). The lifelong units search by likeness, behind them random weights.
- Popularity follows Zipf's law and does not follow content. A user comes back to five parts of the tree in sessions of twenty, one
  behavior in ten is anything. Shorter histories are the newest part of the longest.
- The trained model is the quality table's, found by what it was made from under `.miss-bench`; it is never trained here.

Not here: what a recommendation is worth. Recall against scoring every item says what a search loses of a model, not how good it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from model.index_tree import IndexTree
    from model.scorer import MISS

__all__ = ["LIFELONG", "Measured", "movielens", "synthetic", "users"]

LIFELONG = {"transitions": False}
"""The synthetic model's reading of the history, of `LifelongConfig`: the default's, as the trained model has it, less transitions.
They are counted for every node, which is work that grows with the catalogue."""
WIDTHS = {"d": 64, "heads": 2, "layers": 2, "window": 100}
"""The synthetic model's, of `ScorerConfig`."""
INTERESTS, SESSION, ANYTHING = 5, 20, 0.1
NOISE, POPULARITY, GAIN = 0.6, 0.5, 1.0
"""Length of the noise of a leaf's embedding (the projected content's is 1), standard deviation of a leaf's bias, and of the
lifelong path's last weights: of the 100 best by the full score dot products find some .8, as with the trained model."""


class Measured(NamedTuple):
    """A model, its tree, and who is asked for."""

    model: MISS
    """The scorer."""
    tree: IndexTree
    """Its tree."""
    histories: list[NDArray[np.int64]]
    """One history a user, oldest first."""


def synthetic(n: int, *, branching: int = 2, length: int = 10_000, count: int = 64) -> Measured:
    """A model over n clustered items and `count` users with `length` behaviors."""
    from benchmarks.tree import clustered
    from model.index_tree import TreeConfig, build_tree

    tree = build_tree(clustered(n), TreeConfig(branching=branching))
    return Measured(_model(tree), tree, users(tree, count=count, length=length))


def users(tree: IndexTree, *, count: int, length: int) -> list[NDArray[np.int64]]:
    """Histories of `count` users, each (length,) items."""
    rng = np.random.default_rng(3)
    n, first = tree.n_items, int(tree.level_offsets[tree.depth])
    order = tree.leaf_item[first:]  # like beside like
    part = min(max(n // 200, 32), 2000)
    found = []
    for _ in range(count):
        starts = rng.integers(0, n, INTERESTS)
        session = rng.integers(0, INTERESTS, -(-length // SESSION))
        within = (part * rng.random(length) ** 2).astype(np.int64)  # some of a part more than others
        place = (starts[np.repeat(session, SESSION)[:length]] + within) % n
        found.append(np.where(rng.random(length) < ANYTHING, rng.integers(0, n, length), order[place]))
    return found


def _model(tree: IndexTree) -> MISS:
    import torch

    from model.lifelong import LifelongConfig
    from model.scorer import MISS, ScorerConfig

    lifelong = LifelongConfig(**LIFELONG)
    config = ScorerConfig(**WIDTHS, lifelong=lifelong)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MISS(tree, config)
        rng = np.random.default_rng(2)
        contents = tree.z[tree.item_leaf]
        turn = np.linalg.qr(rng.standard_normal((config.d, contents.shape[1])))[0].astype(np.float32)
        noise = rng.standard_normal((tree.n_items, config.d), dtype=np.float32) * np.float32(NOISE / config.d**0.5)
        e, bias = _nodes(tree, contents @ turn.T + noise, _popularity(tree.n_items, rng))
        with torch.no_grad():
            model.content.weight.copy_(torch.from_numpy(turn))
            model.node_embedding.copy_(torch.from_numpy(e - tree.z @ turn.T))
            model.node_bias.copy_(torch.from_numpy(bias))
            for unit in (model.co_gsu, model.mm_gsu):
                if unit is not None:
                    for part, strength in ((unit.query, config.d**0.25), (unit.key, config.d**0.25), (unit.value, 1.0)):
                        part.weight.mul_(0.5).add_(strength * torch.eye(config.d))
            model.gates.fill_(GAIN)
            torch.nn.init.normal_(model.mlp_out.weight, std=GAIN)
        if model.transitions is not None:
            model.transition_gain.data.fill_(0.05)
            model.transitions.fill(*_followers(tree, lifelong.counts.followers))
    return model.eval()


def _popularity(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(N,) bias: the logarithm of Zipf's law, in any order."""
    bias = -np.log(10.0 + rng.permutation(n))
    return (POPULARITY * (bias - bias.mean()) / bias.std()).astype(np.float32)


def _nodes(
    tree: IndexTree, leaf_e: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings (M, d) and biases (M,) of all nodes from those of the items (N, d), (N,).

    The best of m products with a reading h, |h|^2 = d, is s sqrt(2 ln m) above their mean, where s^2 is the sum of the variances of
    the embedding's coordinates.
    """
    told = np.column_stack([leaf_e, np.square(leaf_e).sum(1), np.exp(2 * bias), np.ones(len(bias), np.float32)])
    sums = np.zeros((tree.n_nodes, told.shape[1]), dtype=np.float32)
    sums[tree.item_leaf] = told
    for level in range(tree.depth - 1, -1, -1):
        nodes = slice(tree.level_offsets[level], tree.level_offsets[level + 1])
        for child in tree.children[nodes].T:
            sums[nodes] += np.where(child[:, None] >= 0, sums[child], np.float32(0))
    leaves = sums[:, -1].copy()
    sums /= leaves[:, None]
    e = sums[:, :-3]
    spread = np.sqrt(np.maximum(sums[:, -3] - np.square(e).sum(1), 0))
    return e, np.log(sums[:, -2]) / 2 + spread * np.sqrt(2 * np.log(leaves))


def _followers(tree: IndexTree, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Items (N, k) that follow each item, those near it in the tree, and weights (N, k) that fall with the distance."""
    n, k = tree.n_items, min(k, tree.n_items - 1)
    order = tree.leaf_item[tree.level_offsets[tree.depth] :]
    steps = np.stack([np.arange(1, k // 2 + 2), -np.arange(1, k // 2 + 2)], axis=1).ravel()[:k]
    items = np.empty((n, k), dtype=np.int64)
    items[order] = order[(np.arange(n)[:, None] + steps) % n]
    return items, np.broadcast_to((1 / (1 + np.abs(steps))).astype(np.float32), (n, k))


def movielens(home: Path, *, count: int = 64) -> Measured | None:
    """The quality table's model of MovieLens-1M with `count` of its test users, None where it was not trained here."""
    from model.configure import configure
    from model.errors import BadInput
    from model.histories import EvaluationSet
    from model.index_tree import IndexTree
    from model.training import TrainingConfig, load_parameters

    made = home / "movielens-1m" / "artifacts"
    default = TrainingConfig()
    for folder, recipe in _recipes(made / "bench_model"):
        own = {name: recipe["config"].get(name, {}) for name in ("scorer", "lifelong", "beam", "seed")}
        try:
            same = configure(TrainingConfig, own) == default
        except BadInput:  # of options that are no more
            same = False
        if not same:
            continue
        trees = [
            f for f, r in _recipes(made / "bench_tree", recipe["inputs"]["tree"]) if r["config"]["kind"] == "aligned"
        ]
        logs = [f for f, _ in _recipes(made / "training_histories", recipe["inputs"]["histories"])]
        if trees and logs:
            tree = IndexTree.load(trees[0] / "tree.npz")
            test = EvaluationSet.load(logs[0] / "test.npz")
            chosen = np.random.default_rng(0).permutation(len(test))[:count]
            histories = [test.seen[int(user)].astype(np.int64) for user in chosen]
            return Measured(load_parameters(tree, default, folder / "parameters.npz"), tree, histories)
    return None


def _recipes(asset: Path, digest: str | None = None) -> Sequence[tuple[Path, dict[str, Any]]]:
    """Folders of an asset, of that digest where one is given, and what they were made from."""
    from assets.stores.artifacts import RECIPE
    from model.files import MANIFEST, read_json

    told = [(path.parent, read_json(path)) for path in sorted(asset.glob(f"[!.]*/{MANIFEST}"))]
    return [(folder, each["meta"][RECIPE]) for folder, each in told if digest in (None, each["digest"])]
