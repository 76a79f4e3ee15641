"""SASRec: a causal transformer over item ids, the strongest common baseline for "what next", and what it costs through an index.

- The layout of Kang and McAuley, ICDM 2018 (arXiv 1808.09781): item embeddings times sqrt(d) plus learned absolute positions,
  causal blocks with layer norm first, the same item embeddings for the output, no item bias. Ids alone: no content.
- Two departures, as in its stronger versions: softmax cross-entropy over the whole catalogue instead of one sampled negative
  (Klenitskiy and Vasilev, RecSys 2023), and GELU for ReLU.
- The blocks are torch's own `TransformerEncoder`. No kept library can be a dependency beside numpy 2.4 and pandas 3.1: RecTools
  0.19 asks for older ones (`benchmarks.training` runs it against an older pandas in a folder of its own, to compare speed),
  and RecBole 1.2.1 stops at `np.float_`; tried with pip on 2026-11-22 and 23.
- Positions count from the end of the window, as in the paper. Behaviors stand on the left of a row and padding on the
  right, where nothing real can see it: causality is the only mask.
- Data, loss (items already seen are no alternatives), stages and patience are those of the model's own dense path, so that the
  two rows differ in the model, and in the levels that ours learns beside the leaves.
- Two ways to answer: every item scored, or the same vectors through FAISS HNSW, as a service of that kind would.
- A history that says nothing (empty, or only unknown items) is answered in the order of popularity.
- Not covered: content, negatives by sampling (some 10^5 items and more are better trained so), a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from model.baselines._dense import DenseRetriever, backfill
from model.dense_training import seen_before, windows
from model.errors import BadInput
from model.evaluation import evaluate
from model.files import read_npz, write_npz
from model.histories import EvaluationSet, Histories, length_batches
from model.hnsw import HNSW
from model.level_loss import level_softmax_loss
from model.ranking import FlatHistories, flatten
from model.retriever import check_k
from model.stage import Progress, Stage, stage_rng

if TYPE_CHECKING:
    from model.scorer import MISS

__all__ = ["SASRec", "SASRecConfig", "SASRecNetwork", "Search"]

FILE = "sasrec.npz"
Search = Literal["exact", "hnsw"]
_AT_LEAST_ONE = ("d", "layers", "heads", "feed_forward", "window", "epochs", "patience", "batch_users", "min_steps")


@dataclass(frozen=True, kw_only=True)
class SASRecConfig:
    """Sizes and training; the defaults of training are `DenseConfig`'s but for the epochs."""

    d: int = 64
    """Width."""
    layers: int = 2
    """Blocks."""
    heads: int = 1
    """Attention heads of a block; the paper's is one."""
    feed_forward: int = 64
    """Inner width of a block's feed-forward part; the paper's is d."""
    window: int = 200
    """Behaviors that are read, the newest."""
    dropout: float = 0.2
    """Dropout of embeddings, attention weights and blocks."""
    epochs: int = 20
    """Passes over the users at most."""
    patience: int = 4
    """Epochs without a better validation NDCG@10 before it stops."""
    batch_users: int = 64
    """Windows a step, at most."""
    min_steps: int = 190
    """Steps an epoch has at least: on few users the batch shrinks, down to 8 windows."""
    learning_rate: float = 2e-3
    """Peak of a cosine schedule with a short warm-up."""
    weight_decay: float = 1e-4
    """AdamW's."""
    hide_seen: bool = True
    """Items of the window before the target are no alternatives to it: `DenseConfig`'s, which the paper's has not."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if (value := getattr(self, name)) < 1:
                raise BadInput(f"{name} = {value} is out of range: give 1 or more")
        if self.d % self.heads:
            raise BadInput(f"d = {self.d} is not a multiple of heads = {self.heads}")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout = {self.dropout} is out of range: give at least 0 and less than 1")


class SASRecNetwork(nn.Module):
    """Vectors of users at every position of a window, in the space of the item embeddings."""

    def __init__(self, n_items: int, config: SASRecConfig) -> None:
        super().__init__()
        self.window, self.scale = config.window, math.sqrt(config.d)
        self.items = nn.Embedding(n_items, config.d)
        self.positions = nn.Embedding(config.window, config.d)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        block = nn.TransformerEncoderLayer(
            config.d,
            config.heads,
            config.feed_forward,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(config.d)
        self.blocks = nn.TransformerEncoder(block, config.layers, norm=norm, enable_nested_tensor=False)
        self.dropout = nn.Dropout(config.dropout)
        causal = nn.Transformer.generate_square_subsequent_mask(config.window)
        self.register_buffer("causal", causal, persistent=False)
        self.causal: Tensor

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """items (B, S) int64, the first lengths (B,) of a row real and any item after them; returns (B, S, d)."""
        s = items.shape[1]
        place = (self.window - lengths)[:, None] + torch.arange(
            s
        )  # (B, S): the newest stands at the window's last place
        x = self.items(items) * self.scale + self.positions(place.clamp(max=self.window - 1))
        out: Tensor = self.blocks(self.dropout(x), mask=self.causal[:s, :s], is_causal=True)
        return out


class SASRec(DenseRetriever):
    """A trained network and one of two ways to find its nearest items."""

    def __init__(
        self,
        network: SASRecNetwork,
        fill: NDArray[np.float32],
        config: SASRecConfig,
        *,
        search: Search = "exact",
        ef_search: int = 512,
    ) -> None:
        """fill: (N,) scores in the order of popularity. search: score every item, or ask an HNSW graph of width ef_search."""
        if search not in get_args(Search):
            raise BadInput(f"search = {search!r} is not known: choose exact or hnsw")
        self.network, self.fill, self.config = network.eval(), fill, config
        self.search, self.ef_search = search, ef_search
        self.n_items = len(fill)
        self.curve: list[dict[str, float]] = []
        self.name = "SASRec (exact)" if search == "exact" else "SASRec (HNSW)"
        self._index = HNSW(self._vectors(), ef_search=ef_search) if search == "hnsw" else None

    @classmethod
    def fit(
        cls,
        train: Histories,
        validation: EvaluationSet,
        config: SASRecConfig | None = None,
        *,
        checkpoint: Path | None = None,
        progress: Progress = print,
    ) -> SASRec:
        """Train from scratch, or from `checkpoint` where that file is; searches exactly, see `searching`.

        `curve` holds a point an epoch.
        Ends with the parameters of the epoch of best validation NDCG@10. Raises BadInput where there is nothing to learn
        from or nobody to validate on.
        """
        config = config or SASRecConfig()
        if train.n_items != validation.seen.n_items:
            raise BadInput(
                f"train has {train.n_items} items, validation {validation.seen.n_items}; split one log again"
            )
        if not (train.lengths > 1).any():
            raise BadInput(
                "no user has two training behaviors, so there is no next item to learn; leave this baseline out"
            )
        if not len(validation):
            raise BadInput(
                "there is nobody to validate on: a user needs at least three behaviors; leave this baseline out"
            )
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = SASRecNetwork(train.n_items, config)
        fitted = cls(network, backfill(train.counts()), config)
        fitted.curve = _train(fitted, train, validation, checkpoint=checkpoint, progress=progress)
        return fitted

    def searching(self, search: Search, *, ef_search: int = 512) -> SASRec:
        """The same parameters, answering in another way."""
        return SASRec(self.network, self.fill, self.config, search=search, ef_search=ef_search)

    def _vectors(self) -> NDArray[np.float32]:
        """(N, d) item embeddings, a view."""
        vectors: NDArray[np.float32] = self.network.items.weight.detach().numpy()
        return vectors

    @torch.no_grad()
    def read(self, batch: FlatHistories, n_rows: int) -> NDArray[np.float32]:
        """(n_rows, d) user vectors after the newest behavior; 0 where a history says nothing."""
        self.network.eval()
        lengths = np.bincount(batch.rows, minlength=n_rows)
        ends = np.cumsum(lengths)
        taken = np.minimum(lengths, self.config.window)
        vectors = np.zeros((n_rows, self.config.d), dtype=np.float32)
        for rows in length_batches(taken.tolist()):
            rows = rows[taken[rows] > 0]
            if not len(rows):
                continue
            column = np.arange(taken[rows].max())
            flat = (ends - taken)[rows][:, None] + column
            real = column < taken[rows][:, None]
            items = batch.items[np.where(real, flat, 0)]  # (b, S), padding of any item on the right
            h = self.network(torch.from_numpy(items), torch.from_numpy(taken[rows]))
            vectors[rows] = h[torch.arange(len(rows)), torch.from_numpy(taken[rows] - 1)].numpy()
        return vectors

    def scores(self, batch: FlatHistories, n_rows: int) -> NDArray[np.float32]:
        """(n_rows, N) products with the item embeddings; the order of popularity where a history says nothing."""
        told = np.bincount(batch.rows, minlength=n_rows)[:, None] > 0
        return np.where(told, self.read(batch, n_rows) @ self._vectors().T, self.fill)

    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`. Indices outside the catalogue (padding, unknown items) are ignored in both arguments."""
        if self._index is None:
            return super().recommend(histories, k, exclude=exclude)
        check_k(k, self.n_items)
        hidden = histories if exclude is None else exclude
        flat = flatten(histories, self.n_items)
        told = np.bincount(flat.rows, minlength=len(histories)) > 0
        items = np.empty((len(histories), k), dtype=np.int64)
        best = np.empty((len(histories), k), dtype=np.float32)
        vectors = self.read(flat, len(histories))
        asking, silent = np.flatnonzero(told).tolist(), np.flatnonzero(~told).tolist()
        items[asking], best[asking] = self._index.search(vectors[asking], k, [hidden[row] for row in asking])
        items[silent], best[silent] = super().recommend(
            [histories[row] for row in silent], k, exclude=[hidden[row] for row in silent]
        )
        return items, best

    def save(self, folder: Path) -> None:
        """Write `sasrec.npz` (4 x N x d bytes, mostly) into a folder; the graph of HNSW is made again on loading."""
        arrays = {f"network.{name}": value.numpy() for name, value in self.network.state_dict().items()}
        arrays |= {f"config.{name}": np.array(value) for name, value in asdict(self.config).items()}
        arrays |= {"fill": self.fill, "search": np.array(self.search), "ef_search": np.array(self.ef_search)}
        write_npz(folder / FILE, arrays)

    @classmethod
    def load(cls, folder: Path) -> SASRec:
        """Read what `save` wrote; `Corrupt` where it is torn."""
        arrays = read_npz(folder / FILE)
        config = SASRecConfig(**{name: arrays[f"config.{name}"].item() for name in SASRecConfig.__dataclass_fields__})
        with torch.random.fork_rng():  # what it starts from is replaced: no draw of the caller's is used up
            network = SASRecNetwork(len(arrays["fill"]), config)
        network.load_state_dict({name: torch.from_numpy(arrays[f"network.{name}"]) for name in network.state_dict()})
        search = cast(Search, str(arrays["search"]))
        return cls(network, arrays["fill"], config, search=search, ef_search=int(arrays["ef_search"]))


def _left_aligned(inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Windows padded on the left (B, S) as rows padded on the right: inputs (B, S), lengths (B,), targets (B, S), -1 for none.

    A history's first behavior, which nothing stands before, is no target here.
    """
    real = inputs >= 0
    order = np.argsort(~real, axis=1, kind="stable")  # what is real first, in its order
    lengths = real.sum(axis=1)
    inputs = np.take_along_axis(inputs, order, axis=1)
    targets = np.where(inputs >= 0, np.take_along_axis(targets, order, axis=1), -1)
    return torch.from_numpy(np.maximum(inputs, 0)), torch.from_numpy(lengths), torch.from_numpy(targets)


def _train(
    fitted: SASRec, train: Histories, validation: EvaluationSet, *, checkpoint: Path | None, progress: Progress
) -> list[dict[str, float]]:
    """Train in place; returns the curve: `loss` (nats), `gradient_norm`, `validation_ndcg@10`."""
    network, config = fitted.network, fitted.config
    users = int((train.lengths > 0).sum())
    batch = min(config.batch_users, max(8, users // config.min_steps))
    steps = -(-users // batch)
    no_bias = torch.zeros(train.n_items)
    stage = Stage(
        "sasrec",
        model=cast("MISS", network),  # a stage asks for parameters and a state_dict, which any module has
        seed=config.seed,
        parameters=list(network.parameters()),
        epochs=config.epochs,
        patience=config.patience,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        steps=steps,
        checkpoint=checkpoint,
        progress=progress,
    )

    def epoch(number: int) -> dict[str, float]:
        network.train()
        loss_sum, norm_sum = 0.0, 0.0
        batches = windows(train, config.window, batch, stage_rng(config.seed, "sasrec", number))
        for pair in tqdm(
            batches, total=steps, desc=f"SASRec {number + 1}/{config.epochs}", leave=False, mininterval=1.0
        ):
            inputs, lengths, targets = _left_aligned(*pair)
            h = network(inputs, lengths)
            chosen = targets >= 0
            loss, _ = level_softmax_loss(
                h[chosen],
                network.items.weight,
                no_bias,
                targets[chosen][:, None],
                starts=[0, train.n_items],
                weights=[1.0],
                hidden=seen_before(inputs)[chosen] if config.hide_seen else None,
            )
            norm_sum += stage.step(loss)
            loss_sum += loss.item()
        score = evaluate(fitted, validation, ks=(10,)).ndcg(10)
        return {"loss": loss_sum / steps, "gradient_norm": norm_sum / steps, "validation_ndcg@10": score}

    return stage.run(epoch)
