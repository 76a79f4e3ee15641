"""Shards, a catalogue and a bundle for the tests of engines: small, and the same wherever they are worked on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tiny_bundle import N_ITEMS
from tiny_content import image_encoder, pictures, texts

from assets.compute import Engine
from assets.compute.encoding import Contents, encoded, encoder_of
from model.configure import configure
from model.files import read_npz
from model.histories import Histories, TemporalConfig, split
from model.index_tree import build_tree
from model.training import TrainingConfig, new_model, save_parameters


def catalogue(folder: Path, *, torn: int | None = None) -> Path:
    """`items.parquet` of the tiny items with their pictures beside it; torn: the row whose picture is none."""
    rows: dict[str, list[str | None]] = {name: [] for name in ("title", "description", "categories", "image")}
    for row, (text, picture) in enumerate(zip(texts(), pictures(), strict=True)):
        file = folder / f"{row}.png"
        if picture is not None:
            file.write_bytes(b"torn" if row == torn else picture)
        rows["title"].append(f"Item {row}")
        rows["description"].append(text)
        rows["categories"].append("some" if row % 2 else None)
        rows["image"].append(None if picture is None else str(file))
    pq.write_table(pa.table(rows), folder / "items.parquet", row_group_size=17)
    return folder / "items.parquet"


def contents(folder: Path, kind: str, *, torn: int | None = None) -> Contents:
    """What is encoded: texts by the installed encoder, pictures by the tests' own."""
    encoder = None
    if kind == "image":
        image_encoder(folder / "encoder")
        encoder = str(folder / "encoder")
    items = str(catalogue(folder, torn=torn))
    return Contents(items=items, kind=kind, encoder=encoder, cache=str(folder / "cache"))


def vectors_of(
    engine: Engine, asked: Contents, work: Path, *, on_bad: Literal["fail", "skip"] = "fail"
) -> tuple[NDArray[np.float32], NDArray[np.bool_], dict[str, int]]:
    """Vectors, who has one, and the counts that were told."""
    work.mkdir(exist_ok=True)
    dim, target = encoder_of(asked.kind, asked.encoder, asked.cache).dim, work / "embeddings.npz"
    told = encoded(engine, asked, dim, work=work, target=target, on_bad=on_bad)
    found = read_npz(target)
    return found["vectors"], found["present"], told


OPTIONS = {
    "scorer": {"d": 16, "heads": 2, "layers": 1, "window": 8, "lifelong": {"kept": 8, "top_k": 8, "probes": 4}},
    "beam": 12,
}


def trained(folder: Path) -> tuple[Path, Path]:
    """Folders of a model over the tiny items, not trained, and of histories with a test set of some 40 users."""
    rng = np.random.default_rng(0)
    tree = build_tree(rng.standard_normal((N_ITEMS, 8)).astype(np.float32))
    model, histories = folder / "model", folder / "histories"
    model.mkdir()
    histories.mkdir()
    tree.save(model / "tree.npz")
    save_parameters(new_model(tree, configure(TrainingConfig, OPTIONS, where="training")), model / "parameters.npz")
    lengths = rng.integers(3, 40, 41)
    items = rng.integers(0, N_ITEMS, lengths.sum()).astype(np.int32)
    known = Histories(offsets=np.concatenate([[0], np.cumsum(lengths)]), items=items, n_items=N_ITEMS)
    train, _, test, _ = split("leave-one-out", known, np.zeros(len(items), np.int32), TemporalConfig())
    train.save(histories / "train.npz")
    test.save(histories / "test.npz")
    return model, histories
