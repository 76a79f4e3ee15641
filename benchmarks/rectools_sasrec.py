"""RecTools' SASRec (Lightning): the kept library that training is timed against.

- It asks for older numpy and pandas than ours, so it lives in a folder of its own, made on demand: pandas from there, numpy
  and torch ours. A process that has that folder on its path is for the peer alone.
- Sizes are those of our scorer; the learning rate (1e-3, Adam) is its own.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.dense_training import pad_left
from model.errors import BadInput
from model.histories import Histories
from model.ranking import flatten, top_k
from model.retriever import Retriever, check_k
from model.scorer import ScorerConfig

__all__ = ["PACKAGES", "SASRecOfPeer", "fit", "installed"]

PACKAGES = (
    "RecTools==0.19.0",
    "pytorch-lightning==2.5.2",
    "lightning-utilities==0.15.3",
    "torchmetrics==1.9.0",
    "typeguard==4.6.0",
    "pandas==2.3.3",
)
"""What the peer needs beside our own packages; its other dependencies are among ours."""
Asked = Callable[[Retriever, float], bool]
"""Told (the model as it stands, epochs so far); True ends the training."""


def installed(folder: Path) -> Path:
    """The folder of the peer, made where it is not there. Raises BadInput where its packages cannot be had."""
    if not folder.exists():
        print(f"installing {PACKAGES[0]} into {folder}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{work}/new", *PACKAGES]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip() or "pip says nothing").splitlines()[-1]
                raise BadInput(f"{PACKAGES[0]} cannot be installed, and there is no peer without it: {last}")
            os.replace(f"{work}/new", folder)
    return folder


class SASRecOfPeer(Retriever):
    """The peer's network behind our contract: every item scored, one that was never trained last."""

    name = "RecTools SASRec"

    def __init__(self, network: Any, items: NDArray[np.int64], *, n_items: int, window: int) -> None:
        """items: (rows of its table,) our item of each, -1 for its padding."""
        self.network, self.n_items, self.window = network, n_items, window
        self.rows = torch.from_numpy(np.flatnonzero(items >= 0))
        self.columns = torch.from_numpy(items[items >= 0])
        self.row_of = torch.zeros(n_items + 1, dtype=torch.int64)  # row 0 is padding: the last entry, and unknown items
        self.row_of[self.columns] = self.rows

    @torch.no_grad()
    def recommend(
        self, histories: Sequence[NDArray[np.integer]], k: int, *, exclude: Sequence[NDArray[np.integer]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Retriever.recommend`."""
        check_k(k, self.n_items)
        self.network.eval()
        table = self.network.item_model.get_all_embeddings()
        read = self.row_of[pad_left(histories, self.window)]
        h = torch.cat([self.network.encode_sessions({"x": part}, table)[:, -1] for part in read.split(256)])
        scores = torch.full((len(histories), self.n_items), -1e9)
        scores[:, self.columns] = h @ table[self.rows].T
        self.network.train()
        return top_k(scores.numpy(), k, flatten(histories if exclude is None else exclude, self.n_items))


def fit(
    train: Histories,
    scorer: ScorerConfig,
    *,
    batch: int,
    epochs: int,
    every: float = 1.0,
    asked: Asked | None = None,
) -> tuple[int, list[float]]:
    """Train with softmax over the catalogue; (targets of an epoch, seconds of each epoch, without what was `asked`).

    every: epochs between two times that `asked` is. Raises ImportError where the folder of `installed` is not on the path.
    """
    warnings.simplefilter("ignore")  # the library's, about progress bars, workers and loggers
    import pandas as pd
    from pytorch_lightning import Callback, Trainer
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    targets: list[int] = []
    seconds: list[float] = []

    class Clock(Callback):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, module: Any) -> None:
            ids = model.data_preparator.item_id_map.external_ids
            items = np.array([-1 if isinstance(each, str) else each for each in ids], dtype=np.int64)
            self.retriever = SASRecOfPeer(module.torch_model, items, n_items=train.n_items, window=scorer.window)
            self.due = every

        def on_train_epoch_start(self, *_: Any) -> None:
            targets.append(0)
            self.started = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, data: Any, index: int) -> None:
            targets[-1] += int((data["y"] != 0).sum())
            done = trainer.current_epoch + (index + 1) / trainer.num_training_batches
            if asked is not None and done >= self.due:
                stopped = time.perf_counter()
                trainer.should_stop = asked(self.retriever, done)
                self.due += every
                self.started += time.perf_counter() - stopped

        def on_train_epoch_end(self, *_: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    def trainer() -> Any:
        quiet = {f"enable_{part}": False for part in ("progress_bar", "model_summary", "checkpointing")}
        return Trainer(max_epochs=epochs, logger=False, accelerator="cpu", devices=1, callbacks=[Clock()], **quiet)

    torch.manual_seed(0)
    users = np.repeat(np.arange(len(train)), train.lengths)
    when = pd.to_datetime(np.arange(len(users)), unit="s")
    columns = {Columns.User: users, Columns.Item: train.items, Columns.Weight: 1.0, Columns.Datetime: when}
    model = SASRecModel(
        n_factors=scorer.d,
        n_blocks=scorer.layers,
        n_heads=scorer.heads,
        session_max_len=scorer.window,
        dropout_rate=scorer.dropout,
        batch_size=batch,
        loss="softmax",
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(pd.DataFrame(columns)))
    return max(targets), seconds
