"""A bundle as small as can be: a real tree, an untrained scorer and its exported search; made once per test session."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from made_once import made_once

from model import search_files
from model.files import publish_dir, write_json, write_npz
from model.golden import write_golden
from model.onnx_search import OnnxSearch

if TYPE_CHECKING:
    from model.encoders import ImageEncoder

N_ITEMS, BEAM, N_USERS = 60, 20, 12
ITEM_IDS = np.array(sorted([*(f"item-{i:02d}" for i in range(N_ITEMS - 2)), "it's a café ☕", 'odd "one"']))
USER_IDS = np.array(sorted([*(f"user-{u:02d}" for u in range(N_USERS - 1)), "zoë o'neil"]))
CATEGORIES = [
    ", ".join(["odd" if i % 2 else "even", *(["third"] if i % 3 == 0 else []), *(["fifth"] if i % 5 == 0 else [])])
    for i in range(N_ITEMS)
]
RECALLS = ("recall@10", "recall@20", "recall@50", "recall@100", "recall@200")


def histories() -> list[np.ndarray]:
    """One history a user, from 0 to some 40 behaviors."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, N_ITEMS, 4 * user).astype(np.int32) for user in range(N_USERS)]


def evaluation(*, simulated: bool = True) -> dict[str, Any]:
    """What `evaluation.json` holds."""
    rows = [
        {"retriever": name, "users": N_USERS} | dict.fromkeys(RECALLS, value) | {"ndcg@10": value / 2, "seconds": 0.5}
        for name, value in (("MISS (tree, ONNX)", 0.3), ("popularity", 0.1))
    ]
    return {"dataset": "tiny", "simulated": simulated, "split": "test", "rows": rows}


def picture(item: int) -> bytes | None:
    """A small picture of an item, different from every other's; every seventh has none."""
    import io

    from PIL import Image, ImageDraw

    if item % 7 == 3:
        return None
    image = Image.new("RGB", (60, 90), (37 * item % 256, 91 * item % 256, 53 * item % 256))
    ImageDraw.Draw(image).ellipse((10, 10 + item % 30, 50, 50 + item % 30), fill=(255 - 37 * item % 256, 200, 90))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _exported(folder: Path) -> None:
    """Write tree.npz and retrieval.onnx; the export is what takes its time."""
    import torch

    from model.beam_search import BeamSearch
    from model.explanation import Explanation, export_explanation
    from model.index_tree import build_tree
    from model.lifelong import LifelongConfig
    from model.node_labels import NODES, write_labels
    from model.onnx_export import export_search
    from model.scorer import MISS, ScorerConfig
    from model.thumbnails import ThumbnailConfig, write_thumbnails

    tree = build_tree(np.random.default_rng(0).standard_normal((N_ITEMS, 8)).astype(np.float32))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MISS(
            tree, ScorerConfig(d=16, window=8, lifelong=LifelongConfig(kept=16, top_k=8, probes=4), dropout=0.0)
        )
        torch.nn.init.normal_(model.node_embedding, std=0.5)
    tree.save(folder / "tree.npz")
    search, graph = BeamSearch(model, tree, beam=BEAM), folder / "retrieval.onnx"
    export_search(search, graph)
    export_explanation(Explanation(search), folder / "explain.onnx", beside=graph)
    pictured = write_thumbnails(folder, [picture(i) for i in range(N_ITEMS)], np.arange(N_ITEMS), ThumbnailConfig())
    write_labels(folder / NODES, tree, CATEGORIES, pictured=pictured)


def _searchable(folder: Path) -> None:
    """Write what makes the bundle searchable: the real text encoder, an image encoder that a test writes itself."""
    from tiny_content import image_encoder, pictures, texts

    write_searchable(folder / "files", texts(), pictures(), image_encoder(folder / "encoder"))


def write_searchable(
    folder: Path, texts: Sequence[str | None], pictures: Sequence[bytes | None], image: ImageEncoder
) -> Path:
    """Write into `folder` what makes a bundle of `N_ITEMS` searchable by these texts and pictures."""
    from model.encoders import TextEncoder
    from model.search_space_training import nothing_learnt

    text = TextEncoder.default()
    has_text, has_image = np.array([bool(each) for each in texts]), np.array([bool(each) for each in pictures])
    T = np.zeros((N_ITEMS, text.dim), np.float32)
    I = np.zeros((N_ITEMS, image.dim), np.float32)  # noqa: E741
    T[has_text] = text.encode([each for each in texts if each])
    I[has_image] = image.encode([each for each in pictures if each])
    space = nothing_learnt(T, has_text, I, has_image)
    folder.mkdir()
    search_files.write(folder, space, space.items(T, has_text, I, has_image), text=text, image=image)
    return folder


def publish(
    target: Path,
    *,
    note: str = "",
    golden: bool = True,
    searchable: bool = True,
    titles: str = "Title of {}",
    search: Path | None = None,
) -> Path:
    """Publish the bundle at `target`; another `note`, another digest. titles: of an item's id.

    search: a folder of `write_searchable`; without it texts and pictures of the items are those of `tiny_content`.
    """

    def build(folder: Path) -> dict[str, Any]:
        for file in made_once("tiny-bundle", _exported).iterdir():
            shutil.copy(file, folder)
        users = histories()
        named = np.array([titles.format(item) for item in ITEM_IDS])
        categories = np.array(CATEGORIES)
        write_npz(folder / "items.npz", {"item_id": ITEM_IDS, "title": named, "categories": categories})
        items = np.concatenate(users)
        write_npz(folder / "popularity.npz", {"counts": np.bincount(items, minlength=N_ITEMS).astype(np.int64)})
        offsets = np.concatenate([[0], np.cumsum([len(h) for h in users])]).astype(np.int64)
        write_npz(folder / "histories.npz", {"user_id": USER_IDS, "offsets": offsets, "items": items})
        write_json(folder / "evaluation.json", evaluation())
        if searchable:
            search_files.copy(search or made_once("tiny-search", _searchable) / "files", folder)
        graph = OnnxSearch(folder / "retrieval.onnx", n_items=N_ITEMS, beam=BEAM, threads=1)
        if note:
            (folder / "note.txt").write_text(note)
        if golden:
            write_golden(folder, graph, users, k=5)
        model = {"beam": BEAM, "max_history": 1000, "n_items": N_ITEMS}
        return {
            "model": model,
            "dataset": "tiny",
            "simulated": True,
            "data_versions": {},
            "code_version": "1",
        }

    publish_dir(target, build)
    return target
