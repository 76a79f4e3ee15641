"""Text and image embeddings by content hash, and the aligned multi-modal embeddings made of both."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from assets.compute import engine
from assets.compute.encoding import Contents, encoded, encoder_of
from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized
from assets.stores.resource import Stores
from model.configure import configure
from model.files import read_npz, write_npz

GROUP = "embeddings"


def _encode(
    context: dg.AssetExecutionContext, stores: Stores, asset: str, items: Artifact, encoder: Any, contents: Contents
) -> dg.MaterializeResult[Artifact]:
    """Encode the catalogue's contents where `MISS_COMPUTE` says; only what the cache does not hold is run."""
    settings = stores.settings

    def build(folder: Path, work: Path) -> dict[str, Any]:
        where = engine(settings.compute, context.log.info)
        target = folder / "embeddings.npz"
        told = encoded(where, contents, encoder.dim, work=work, target=target, on_bad=settings.bad_images)
        return {"encoder": encoder.name, "dimensions": encoder.dim, "used": where.used()} | told

    config = {"encoder": encoder.digest, "on_bad": settings.bad_images}
    artifact, reused = stores.artifacts.produce(
        asset, code_version="1", config=config, inputs={"items": items}, build=build
    )
    return materialized(artifact, reused=reused)


def _contents(stores: Stores, items: Artifact, kind: str, folder: Path | None) -> Contents:
    cache = str(stores.encoder_cache)
    given = None if folder is None else str(folder)
    return Contents(items=str(items.path / "items.parquet"), kind=kind, encoder=given, cache=cache)


def text_encoder(stores: Stores) -> Any:
    """The text encoder that is set."""
    given = stores.settings.text_encoder
    return encoder_of("text", None if given is None else str(given), str(stores.encoder_cache))


def image_encoder(stores: Stores) -> Any:
    """The image encoder that is set."""
    given = stores.settings.image_encoder
    return encoder_of("image", None if given is None else str(given), str(stores.encoder_cache))


def columns(items: Artifact, *names: str) -> list[list[str | None]]:
    """Columns of the catalogue, in its order."""
    import pyarrow.parquet as pq

    table = pq.read_table(items.path / "items.parquet", columns=list(names))
    return [table.column(name).to_pylist() for name in names]


@dg.asset(group_name=GROUP, code_version="1", kinds={"onnx"})
def text_embeddings(
    context: dg.AssetExecutionContext, stores: Stores, items: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Title, categories and description through the text encoder."""
    contents = _contents(stores, items, "text", stores.settings.text_encoder)
    return _encode(context, stores, "text_embeddings", items, text_encoder(stores), contents)


@dg.asset(group_name=GROUP, code_version="1", kinds={"onnx"})
def image_embeddings(
    context: dg.AssetExecutionContext, stores: Stores, items: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Pictures through the image encoder."""
    contents = _contents(stores, items, "image", stores.settings.image_encoder)
    return _encode(context, stores, "image_embeddings", items, image_encoder(stores), contents)


@dg.asset(group_name=GROUP, code_version="1", kinds={"pytorch", "faiss"})
def multimodal_embeddings(
    context: dg.AssetExecutionContext,
    stores: Stores,
    text_embeddings: Artifact,
    image_embeddings: Artifact,
    item_pairs: Artifact,
) -> dg.MaterializeResult[Artifact]:
    """Item alignment (after QARM): one unit vector an item, trained on the pairs that go together."""
    from model.alignment import AlignmentConfig, align
    from model.item_pairs import ItemPairs
    from model.neighbours import near_duplicates

    config = configure(AlignmentConfig, stores.settings.alignment, where="alignment")

    def build(folder: Path, work: Path) -> dict[str, Any]:
        text, image = (read_npz(a.path / "embeddings.npz") for a in (text_embeddings, image_embeddings))
        pairs = ItemPairs(**read_npz(item_pairs.path / "pairs.npz"), n_items=len(text["vectors"]))
        aligned = align(text["vectors"], text["present"], image["vectors"], image["present"], pairs, config)
        write_npz(folder / "embeddings.npz", {"embeddings": aligned.embeddings.astype(np.float32)})
        write_npz(folder / "head.npz", aligned.state)
        twins, _, _ = near_duplicates(aligned.embeddings, 0.995)
        return {"rows": len(aligned.embeddings), "near_duplicates": len(twins), "alignment": aligned.metrics}

    inputs = {"text": text_embeddings, "image": image_embeddings, "pairs": item_pairs}
    artifact, reused = stores.artifacts.produce(
        "multimodal_embeddings", code_version="1", config=asdict(config), inputs=inputs, build=build
    )
    return materialized(artifact, reused=reused)
