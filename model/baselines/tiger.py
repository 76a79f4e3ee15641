"""TIGER-style generative retrieval: the next item's semantic ID, spelt code by code by a beam search over existing IDs.

- After Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, in what matters here: IDs from content,
  a sequence model that sees nothing but codes, likelihood of the next ID as the loss, beam search as the retrieval. What differs
  and why: residual k-means instead of an RQ-VAE (`semantic_ids`), and an item-level reader with a small decoder instead of one
  transformer over the flattened codes, which keeps a step under twice a SASRec's (`tiger_net`).
- Every position of a window is a target (teacher forcing), one random window a user and epoch; no sampled negatives.
- The score of an item is the log-probability of its ID. Softmaxes go over all codes of a level, as trained; only the search is
  held to the trie of existing IDs, so that nothing else can be spelt.
- A front whose items are all excluded is not kept: a beam of k always finds k items where so many are left.
- Not covered: items that come after training.

Shape legend: N items, D codes of an ID, B users, w nodes of a beam, W candidates, d width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.baselines.semantic_ids import CodeTrie, semantic_ids
from model.baselines.tiger_net import CodeNet, TIGERConfig
from model.dense_training import pad_left, windows
from model.errors import BadInput, Corrupt
from model.evaluation import evaluate
from model.files import canonical_json, read_npz, write_npz
from model.histories import EvaluationSet, Histories, length_batches
from model.ranking import flatten, top_k
from model.retriever import Retriever, check_k
from model.scorer import MISS
from model.stage import Progress, Stage, stage_rng

__all__ = ["TIGER", "TIGERConfig", "train_codes"]

FILE = "tiger.npz"
STATES = 2**14
"""Beam states of a block of users: 64 users at a beam of 256."""


class TIGER(Retriever):
    """Spells the next item's ID; answers at most `beam` items a user."""

    name = "TIGER-style (semantic IDs)"

    def __init__(self, net: CodeNet, ids: NDArray[np.int64], config: TIGERConfig, *, beam: int | None = None) -> None:
        """net: trained over ids (N, D) int64; beam: `config.beam` where None."""
        self.net, self.config, self.trie = net.eval(), config, CodeTrie(ids)
        self.n_items, self.beam = len(ids), config.beam if beam is None else beam
        self.curve: list[dict[str, float]] = []
        if self.beam < 1:
            raise BadInput(f"beam = {self.beam} must be at least 1")

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N, D) int64, the ID of each item."""
        return self.trie.ids

    @classmethod
    def fit(
        cls,
        train: Histories,
        c: NDArray[np.float32],
        validation: EvaluationSet,
        config: TIGERConfig | None = None,
        *,
        checkpoint: Path | None = None,
        progress: Progress = print,
    ) -> TIGER:
        """IDs from c (N, dc) float32, then the network from scratch or from `checkpoint`; `curve` holds a point an epoch.

        Raises BadInput where c is of another catalogue than the histories, or what `semantic_ids` raises.
        """
        config = config or TIGERConfig()
        if len(c) != train.n_items:
            raise BadInput(f"{len(c)} embeddings for {train.n_items} items; materialize multimodal_embeddings again")
        ids = semantic_ids(c, levels=config.levels, codes=config.codes, seed=config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = CodeNet(ids, config)
            curve = train_codes(net, ids, train, validation, config, checkpoint=checkpoint, progress=progress)
        fitted = cls(net, ids, config)
        fitted.curve = curve
        return fitted

    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`; scores are log-probabilities. BadInput also for k beyond the beam.

        Indices outside the catalogue (padding, unknown items) are ignored in both arguments.
        """
        check_k(k, self.n_items)
        if k > self.beam:
            raise BadInput(f"k = {k} is beyond the search's beam of {self.beam}; ask for fewer items or widen the beam")
        items = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        known = [self._known(history) for history in histories]
        hidden = known if exclude is None else exclude
        users = max(1, min(64, STATES // min(self.beam, self.n_items)))
        for rows in length_batches([min(len(h), self.config.window) for h in known], users=users):
            found, best = self._search([known[r] for r in rows], k, [hidden[r] for r in rows])
            items[rows, : found.shape[1]], scores[rows, : found.shape[1]] = found, best
        return items, scores

    def _known(self, history: NDArray[np.integer]) -> NDArray[np.integer]:
        history = np.asarray(history)
        return history[(history >= 0) & (history < self.n_items)]

    @torch.no_grad()
    def _search(
        self, histories: Sequence[NDArray[np.integer]], k: int, exclude: Sequence[NDArray[np.integer]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items and log-probabilities (B, <= k), -1 and -inf where nothing is left."""
        trie, rows = self.trie, np.arange(len(histories))[:, None]
        hidden = flatten(exclude, self.n_items)
        spent = trie.spent(hidden.rows, hidden.items)
        states = self._read(histories)[:, None]  # (B, 1, d)
        beam = np.zeros((len(histories), 1), dtype=np.int64)  # the root
        total = np.zeros(beam.shape, dtype=np.float32)
        last = len(trie.codes) - 1
        for level, codes in enumerate(trie.codes):
            log_p = self.net.log_probabilities(states, level).numpy()  # (B, w, codes)
            nodes, source = trie.children(level, beam)  # (B, W) each
            if level == last:
                nodes, source = _by_item(nodes, source, trie.leaf_item)
            gone = (nodes < 0) | _among(rows * len(codes) + nodes, spent[level])
            score = total[rows, source] + log_p[rows, source, codes[nodes]]
            score[gone] = -np.inf
            width = min(k if level == last else self.beam, score.shape[1])
            column, total = top_k(score, width)
            beam = np.where(column < 0, -1, np.take_along_axis(nodes, column, axis=1))
            if level < last:
                # a place without a node follows the first candidate, whose state is a finite number at least
                came = torch.from_numpy(np.take_along_axis(source, np.maximum(column, 0), axis=1))
                states = states.gather(1, came[:, :, None].expand(-1, -1, states.shape[2]))
                states = self.net.step(states, torch.from_numpy(codes[np.maximum(beam, 0)]), level)
        return np.where(beam < 0, -1, trie.leaf_item[beam]), total

    def _read(self, histories: Sequence[NDArray[np.integer]]) -> Tensor:
        """(B, d) h after each history."""
        # one place more than the longest: in training, too, a history shorter than the window shows that nothing was before it
        width = min(self.config.window, 1 + max(map(len, histories)))
        return self.net.window(pad_left(histories, width))[:, -1]

    def save(self, folder: Path) -> None:
        """Write `tiger.npz` into a folder: parameters, IDs, configuration, beam."""
        arrays = {f"net.{name}": value.detach().numpy() for name, value in self.net.state_dict().items()}
        arrays |= {"ids": self.ids, "config": np.array(canonical_json(asdict(self.config)))}
        write_npz(folder / FILE, arrays | {"beam": np.array(self.beam)})

    @classmethod
    def load(cls, folder: Path) -> TIGER:
        """Read what `save` wrote; `Corrupt` where it is torn or holds another network."""
        arrays = read_npz(folder / FILE)
        config = TIGERConfig(**json.loads(str(arrays["config"])))
        with torch.random.fork_rng(devices=[]):
            net = CodeNet(arrays["ids"], config)
        state = {
            name.removeprefix("net."): torch.from_numpy(value)
            for name, value in arrays.items()
            if name.startswith("net.")
        }
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            raise Corrupt(f"{folder / FILE} holds another network than its configuration says; fit it again") from error
        return cls(net, arrays["ids"], config, beam=int(arrays["beam"]))


def _by_item(
    nodes: NDArray[np.int64], source: NDArray[np.int64], leaf_item: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Leaves (B, W) in the order of their items, -1 last: `top_k` gives ties to the left, and so to the lower item."""
    order = np.argsort(np.where(nodes < 0, len(leaf_item), leaf_item[nodes]), axis=1, kind="stable")
    return np.take_along_axis(nodes, order, axis=1), np.take_along_axis(source, order, axis=1)


def _among(values: NDArray[np.int64], sorted_keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not len(sorted_keys):
        return np.zeros(values.shape, dtype=bool)
    place = np.minimum(np.searchsorted(sorted_keys, values), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[place] == values)


def _some(evaluation: EvaluationSet, users: int) -> EvaluationSet:
    """At most `users` of the evaluated users, evenly among them."""
    if len(evaluation) <= users:
        return evaluation
    rows = np.linspace(0, len(evaluation) - 1, users).round().astype(np.int64)
    seen = [evaluation.seen[int(row)] for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in seen])]).astype(np.int64)
    return EvaluationSet(
        split=evaluation.split,
        users=evaluation.users[rows],
        seen=Histories(offsets=offsets, items=np.concatenate(seen), n_items=evaluation.seen.n_items),
        targets=evaluation.targets[rows],
    )


def train_codes(
    net: CodeNet,
    ids: NDArray[np.int64],
    train: Histories,
    validation: EvaluationSet,
    config: TIGERConfig,
    *,
    checkpoint: Path | None = None,
    progress: Progress = print,
) -> list[dict[str, float]]:
    """Train in place; the network ends with the parameters of its best epoch. Returns the curve.

    Points hold `loss`, `loss_level_<i>` of the i-th code (nats), `gradient_norm` and `validation_ndcg@10`, 0 for no users.
    """
    users = int((train.lengths > 0).sum())
    batch = min(config.batch_users, max(8, users // config.min_steps))
    steps = max(-(-users // batch), 1)
    validation = _some(validation, config.validation_users)
    stage = Stage(
        "tiger",
        model=cast(MISS, net),  # any module with parameters: a stage only copies and loads them
        seed=config.seed,
        parameters=list(net.parameters()),
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        steps=steps,
        checkpoint=checkpoint,
        progress=progress,
    )

    def epoch(number: int) -> dict[str, float]:
        net.train()
        rng = stage_rng(config.seed, "tiger", number)
        sums, norms = np.zeros(1 + ids.shape[1]), 0.0
        for inputs, targets in windows(train, config.window, batch, rng):
            target = torch.from_numpy(targets)
            chosen = target >= 0
            loss, by_code = net.loss(net.window(torch.from_numpy(inputs))[chosen], target[chosen])
            norms += stage.step(loss)
            sums += [loss.item(), *by_code.tolist()]
        point = {"loss": sums[0] / steps, "gradient_norm": norms / steps}
        point |= {f"loss_level_{i + 1}": value / steps for i, value in enumerate(sums[1:])}
        if len(validation):
            # the best of a beam of 10 or more, so that NDCG@10 means what it says
            beam = max(config.validation_beam, 10)
            found = evaluate(TIGER(net, ids, config, beam=beam), validation, ks=(10,)).ndcg()
        else:
            found = 0.0
        return point | {"validation_ndcg@10": found}

    return stage.run(epoch)
