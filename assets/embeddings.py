"""Text and image embeddings by content hash, and the aligned multi-modal embeddings made of both."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized
from assets.stores.resource import Stores
from model.configure import configure
from model.files import read_npz, write_npz

GROUP = "embeddings"


def _encode(
    stores: Stores, asset: str, items: Artifact, encoder: Any, contents: list[Any]
) -> dg.MaterializeResult[Artifact]:
    """Encode the catalogue's contents, None for a missing one; only what the cache does not hold is run."""
    from model.encoders import encode_catalogue

    settings = stores.settings

    def build(folder: Path, work: Path) -> dict[str, Any]:
        vectors, present, stats = encode_catalogue(encoder, contents, stores.encoder_cache, on_bad=settings.bad_images)
        write_npz(folder / "embeddings.npz", {"vectors": vectors, "present": present})
        told = {
            "encoded": stats.encoded,
            "reused_vectors": stats.reused,
            "missing": stats.missing,
            "unusable": len(stats.bad),
        }
        return {"encoder": encoder.name, "dimensions": encoder.dim, "rows": len(vectors)} | told

    config = {"encoder": encoder.digest, "on_bad": settings.bad_images}
    artifact, reused = stores.artifacts.produce(
        asset, code_version="1", config=config, inputs={"items": items}, build=build
    )
    return materialized(artifact, reused=reused)


def text_encoder(stores: Stores) -> Any:
    """The text encoder that is set."""
    from model.encoders import TextEncoder

    given = stores.settings.text_encoder
    return TextEncoder.default() if given is None else TextEncoder.from_directory(given)


def image_encoder(stores: Stores) -> Any:
    """The image encoder that is set."""
    from model.encoders import ImageEncoder

    given = stores.settings.image_encoder
    return ImageEncoder.default(stores.encoder_cache) if given is None else ImageEncoder.from_directory(given)


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
    from model.encoders import item_text

    texts = [item_text(*row) for row in zip(*columns(items, "title", "description", "categories"), strict=True)]
    return _encode(stores, "text_embeddings", items, text_encoder(stores), texts)


@dg.asset(group_name=GROUP, code_version="1", kinds={"onnx"})
def image_embeddings(
    context: dg.AssetExecutionContext, stores: Stores, items: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Pictures through the image encoder."""
    (images,) = columns(items, "image")
    contents = [Path(image) if image else None for image in images]
    return _encode(stores, "image_embeddings", items, image_encoder(stores), contents)


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
