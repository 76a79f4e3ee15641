"""What a benchmark trains on: a data set taken through the product's own graph up to histories, embeddings and tree.

- Ingest and assets are the product's: a benchmark never prepares data in a way of its own.
- State is a home of its own per data set, so that everything made is found again by its digests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.settings import Settings
from assets.stores.artifacts import Artifact, ArtifactStore
from model.errors import BadInput, NotReady
from model.files import read_npz
from model.histories import EvaluationSet, Histories

__all__ = ["SOURCES", "Material", "prepare"]

SOURCES = {
    "movielens-1m": "movielens-1m",
    "ml-latest-small": "ml-latest-small",
    "amazon-beauty": "amazon/Beauty.txt",
    "amazon-sports": "amazon/Sports_and_Outdoors.txt",
    "amazon-toys": "amazon/Toys_and_Games.txt",
    "demo": "",
}
"""Data set -> where it lies under the data folder; the demo is made from installed packages."""
RAW_DIMENSIONS = 64


@dataclass(frozen=True, kw_only=True)
class Material:
    """One data set, ready to train on."""

    dataset: str
    simulated: bool
    store: ArtifactStore
    train: Histories
    validation: EvaluationSet
    test: EvaluationSet
    aligned: NDArray[np.float32]
    """(N, c) aligned multi-modal embeddings."""
    raw: NDArray[np.float32]
    """(N, c') text and image vectors side by side, reduced by PCA: no item alignment."""
    categories: list[list[str]]
    """Categories of each item, as the catalogue orders them."""
    inputs: dict[str, Artifact]
    """The artifacts all this was read from, for digests."""


def prepare(dataset: str, *, data: Path, home: Path) -> Material:
    """Ingest a data set where its home does not hold it yet, make its upstream assets, and read them.

    Raises BadInput for a data set nobody knows or whose files are not there.
    """
    if dataset not in SOURCES:
        raise BadInput(f"{dataset!r} is no data set known here; choose from {', '.join(SOURCES)}")
    settings = Settings(home=home / dataset)
    _ingest(dataset, settings, data)
    from orchestration.run import materialize

    if not materialize(settings, select="+key:index_tree"):
        raise BadInput(f"the assets of {dataset} failed a check; run `miss materialize` on {settings.root} to see it")
    store = ArtifactStore(settings.artifacts)
    names = (
        "items",
        "training_histories",
        "text_embeddings",
        "image_embeddings",
        "multimodal_embeddings",
        "item_pairs",
    )
    made = {name: store.current(name) for name in names}
    folder = made["training_histories"].path
    return Material(
        dataset=dataset,
        simulated=bool(made["items"].meta["simulated"]),
        store=store,
        train=Histories.load(folder / "train.npz"),
        validation=EvaluationSet.load(folder / "validation.npz"),
        test=EvaluationSet.load(folder / "test.npz"),
        aligned=read_npz(made["multimodal_embeddings"].path / "embeddings.npz")["embeddings"],
        raw=_raw([made["text_embeddings"], made["image_embeddings"]]),
        categories=_categories(made["items"]),
        inputs=made,
    )


def _ingest(dataset: str, settings: Settings, data: Path) -> None:
    from assets.stores.warehouse import Warehouse

    warehouse = Warehouse(settings.warehouse)
    try:
        warehouse.catalogue()
    except NotReady:
        from assets.sources import detect
        from assets.sources.demo import DemoSource

        folder = data / SOURCES[dataset]
        if dataset != "demo" and not folder.exists():
            raise BadInput(f"{folder} is not there; give the folder of the data sets with --data") from None
        warehouse.ingest(DemoSource() if dataset == "demo" else detect(folder))


def _categories(items: Artifact) -> list[list[str]]:
    import pyarrow.parquet as pq

    column = pq.read_table(items.path / "items.parquet", columns=["categories"]).column("categories").to_pylist()
    return [[part.strip() for part in (text or "").split(",") if part.strip()] for text in column]


def _raw(embeddings: list[Artifact]) -> NDArray[np.float32]:
    """Unit vectors of each modality, centred where present and zero where missing, reduced by PCA; (N, c') of unit length."""
    parts: list[Any] = []
    for artifact in embeddings:
        arrays = read_npz(artifact.path / "embeddings.npz")
        vectors, present = arrays["vectors"].astype(np.float64), arrays["present"].astype(bool)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        if present.any():
            vectors -= vectors[present].mean(axis=0)
        parts.append(np.where(present[:, None], vectors, 0.0))
    together = np.concatenate(parts, axis=1)
    _, _, axes = np.linalg.svd(together.T @ together, hermitian=True)
    reduced = together @ axes[:RAW_DIMENSIONS].T
    reduced /= np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
    return reduced.astype(np.float32)
