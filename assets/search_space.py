"""The space that text and picture queries share with the items, trained on the catalogue alone."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.embeddings import GROUP, columns, image_encoder, text_encoder
from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized
from assets.stores.resource import Stores
from model.configure import configure
from model.files import read_npz


@dg.asset(group_name=GROUP, code_version="1", kinds={"pytorch", "onnx"})
def search_space(
    context: dg.AssetExecutionContext,
    stores: Stores,
    items: Artifact,
    text_embeddings: Artifact,
    image_embeddings: Artifact,
) -> dg.MaterializeResult[Artifact]:
    """Heads and weights learnt from sentences and altered pictures; the items' vectors, and the encoders for queries."""
    from model import search_files
    from model.query_examples import made_queries
    from model.search_space import SearchSpaceConfig
    from model.search_space_training import train

    config = configure(SearchSpaceConfig, stores.settings.search_space, where="search_space")

    def build(folder: Path, work: Path) -> dict[str, Any]:
        texts, images = text_encoder(stores), image_encoder(stores)
        text, image = (read_npz(each.path / "embeddings.npz") for each in (text_embeddings, image_embeddings))
        known = [text["vectors"], text["present"], image["vectors"], image["present"]]
        examples = made_queries(
            *columns(items, "title", "description", "categories", "image"),
            text_encoder=texts,
            image_encoder=images,
            cache=stores.encoder_cache,
            config=config,
        )
        learnt = train(*known, examples, config, log=context.log.info)
        search_files.write(folder, learnt.space, learnt.space.items(*known), text=texts, image=images)
        encoders = {"text_encoder": texts.name, "image_encoder": images.name}
        return {"rows": len(text["vectors"]), "values": learnt.space.dim, "training": learnt.metrics} | encoders

    inputs = {"items": items, "text": text_embeddings, "image": image_embeddings}
    artifact, reused = stores.artifacts.produce(
        "search_space", code_version="1", config=asdict(config), inputs=inputs, build=build
    )
    return materialized(artifact, reused=reused)
