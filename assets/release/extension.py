"""The champion with new items: what is new, the bundle that knows it, and what shows that nothing else has changed.

- New is what the catalogue has and the champion's bundle does not. The champion's items keep their order and come first.
- All that is needed of the champion comes from MLflow: its bundle, and what training left beside it.
- Histories, per-user results and golden histories are the champion's. Its quality is not measured again, since the rule
  `old_items_as_before` shows that it is the same search: with new items set aside, users get the items they got.

Not covered: items that left the catalogue (the champion still knows them), changed texts of old ones (the next training).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.release.registration import HEAD, OPTIONS, PARAMETERS, keep_model, kept_model
from assets.release.shown import write_shown
from assets.stores.artifacts import RECIPE, Artifact
from assets.stores.registry import CHALLENGER, CHAMPION, TRAINED_BY, ModelVersionInfo
from assets.stores.resource import Stores
from model.configure import configure
from model.files import MANIFEST, read_json, read_npz, write_json, write_npz
from model.gate import Rule
from model.index_tree import IndexTree
from model.thumbnails import ThumbnailConfig

__all__ = ["EXTENDS", "Extension", "find", "make", "register", "rules"]

EXTENDS = "extends"
"""Tag of a version: the bundle digest of the champion it adds items to."""
HISTORIES, GOLDEN = 1000, 100
NEAREST, LOOKED_FOR = 20, 200
"""Users who are asked for each new item, one for each of its nearest old ones who had just seen that; and items looked for."""
MIN_FOUND = 0.5
"""Share of the new items that at least one of those users must be offered within the beam."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What can be added to a champion."""

    champion: ModelVersionInfo
    bundle: Path
    """The champion's bundle."""
    rows: tuple[int, ...]
    """Rows of the catalogue that are added."""
    ids: tuple[str, ...]
    """Their item ids."""
    waiting: int
    """New items for which the tree has no place before the next training."""


def find(stores: Stores, items: Artifact) -> Extension | None:
    """What the catalogue has and the champion does not; None where there is no champion, or nothing new."""
    import pyarrow.parquet as pq

    from model.extension import free_places

    champion = stores.registry.by_alias(CHAMPION)
    if champion is None:
        return None
    bundle = stores.bundle(champion)
    known = set(read_npz(bundle / "items.npz")["item_id"].tolist())
    ids = pq.read_table(items.path / "items.parquet", columns=["item_id"]).column("item_id").to_pylist()
    new = [row for row, item in enumerate(ids) if item not in known]
    if not new:
        return None
    rows = tuple(new[: free_places(IndexTree.load(bundle / "tree.npz"))])
    return Extension(
        champion=champion, bundle=bundle, rows=rows, ids=tuple(ids[row] for row in rows), waiting=len(new) - len(rows)
    )


def make(
    stores: Stores, extension: Extension, items: Artifact, text: Artifact, image: Artifact
) -> tuple[Artifact, Artifact, bool]:
    """(the larger model, the bundle, whether that was there already)."""
    inputs = {"champion": extension.champion.digest, "text": text, "image": image}
    config = {"ids": list(extension.ids)}
    thumbnails = configure(ThumbnailConfig, stores.settings.thumbnails, where="thumbnails")

    def model(folder: Path, work: Path) -> dict[str, Any]:
        from model.alignment import embed
        from model.extension import extend
        from model.training import TrainingConfig, load_parameters, save_parameters

        with tempfile.TemporaryDirectory(dir=work) as temporary:
            kept = kept_model(stores, extension.champion, Path(temporary))
            options, rows = read_json(kept / OPTIONS), list(extension.rows)
            tree = IndexTree.load(extension.bundle / "tree.npz")
            trained = load_parameters(tree, configure(TrainingConfig, options, where="training"), kept / PARAMETERS)
            texts, images = (read_npz(each.path / "embeddings.npz") for each in (text, image))
            content = [found[name][rows] for found in (texts, images) for name in ("vectors", "present")]
            vectors = embed(read_npz(kept / HEAD), *content)
            counts = read_npz(extension.bundle / "popularity.npz")["counts"]
            larger, grown = extend(trained, tree, vectors, counts)
            shutil.copyfile(kept / HEAD, folder / HEAD)
        save_parameters(larger, folder / PARAMETERS)
        grown.save(folder / "tree.npz")
        write_json(folder / OPTIONS, options)
        return {"items": grown.n_items, "nodes": grown.n_nodes}

    larger, _ = stores.artifacts.produce("extended_model", code_version="1", config=config, inputs=inputs, build=model)

    def bundle(folder: Path, work: Path) -> dict[str, Any]:
        told = _bundle(extension, items, larger, folder, thumbnails)
        _searchable(extension, text, image, folder)
        return told

    made, reused = stores.artifacts.produce(
        "new_items",
        code_version="2",
        config=config | {"thumbnails": asdict(thumbnails)},
        inputs={"model": larger, "items": items},
        build=bundle,
    )
    return larger, made, reused


def _bundle(
    extension: Extension, items: Artifact, larger: Artifact, folder: Path, thumbnails: ThumbnailConfig
) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from model.beam_search import BeamSearch
    from model.explanation import Explanation, export_explanation
    from model.golden import write_golden
    from model.onnx_export import check_parity, export_search
    from model.onnx_search import OnnxSearch
    from model.training import TrainingConfig, load_parameters

    old, graph = extension.bundle, folder / "retrieval.onnx"
    config = configure(TrainingConfig, read_json(larger.path / OPTIONS), where="training")
    tree = IndexTree.load(larger.path / "tree.npz")
    told = read_json(old / MANIFEST)["meta"]
    tables = told["model"].get("tables", "float32")
    search = BeamSearch(load_parameters(tree, config, larger.path / PARAMETERS), tree, beam=config.beam, tables=tables)
    export_search(search, graph)
    export_explanation(Explanation(search), folder / "explain.onnx", beside=graph)
    tree.save(folder / "tree.npz")
    table = pq.read_table(items.path / "items.parquet", columns=["item_id", "title", "categories"])
    texts = {}
    for name, known in read_npz(old / "items.npz").items():
        added = [text or "" for text in table.column(name).take(list(extension.rows)).to_pylist()]
        texts[name] = np.concatenate([known, np.array(added, dtype=np.str_)])
    write_npz(folder / "items.npz", texts)
    counts = read_npz(old / "popularity.npz")["counts"]
    write_npz(folder / "popularity.npz", {"counts": np.append(counts, np.zeros(len(extension.rows), counts.dtype))})
    write_shown(folder, items.path / "items.parquet", thumbnails)
    for name in ("histories.npz", "evaluation.json"):
        shutil.copyfile(old / name, folder / name)
    shutil.copytree(old / "per_user", folder / "per_user")
    histories = _histories(old)
    added, askers = _askers(old, tree)
    each = len(askers) // len(added)
    near = [np.append(askers[row * each], item) for row, item in enumerate(added)]
    parity = check_parity(search, graph, [*histories, *near])
    write_json(folder / "parity.json", parity)
    onnx = OnnxSearch(graph, n_items=tree.n_items, beam=config.beam)
    half = near[: GOLDEN // 2]  # requests that name new items are among them
    write_golden(folder, onnx, [*half, *histories[: GOLDEN - len(half)]])
    sizes = {"beam": onnx.beam, "n_items": tree.n_items, "depth": tree.depth, "nodes": tree.n_nodes, "tables": tables}
    return told | {"model": sizes, EXTENDS: extension.champion.digest}


def _searchable(extension: Extension, text: Artifact, image: Artifact, folder: Path) -> None:
    """The champion's files of search with the new items' vectors, where it has any."""
    from model import search_files

    if not (extension.bundle / search_files.ARRAYS).exists():
        return
    rows = list(extension.rows)
    content = [
        read_npz(each.path / "embeddings.npz")[name][rows] for each in (text, image) for name in ("vectors", "present")
    ]
    encoders = {name: str(each.meta[RECIPE]["config"]["encoder"]) for name, each in (("text", text), ("image", image))}
    search_files.extend(extension.bundle, folder, *content, encoders=encoders)


def rules(stores: Stores, extension: Extension, made: Artifact) -> list[Rule]:
    """What the gate asks of an extension beside the rest; fails where the champion is another one by now."""
    from model.onnx_search import OnnxSearch

    old, new = (
        OnnxSearch(folder / "retrieval.onnx", n_items=int(meta["n_items"]), beam=int(meta["beam"]))
        for folder, meta in (
            (each, read_json(each / MANIFEST)["meta"]["model"]) for each in (extension.bundle, made.path)
        )
    )
    histories, added = _histories(extension.bundle), np.arange(old.n_items, new.n_items)
    k = min(old.beam, 100)
    before, _ = old.recommend(histories, k)
    after, _ = new.recommend(histories, k, exclude=[np.append(each, added) for each in histories])
    same = float((np.sort(before, axis=1) == np.sort(after, axis=1)).all(axis=1).mean())
    looked_for, askers = _askers(extension.bundle, IndexTree.load(made.path / "tree.npz"))
    offered, _ = new.recommend(askers, new.beam)
    hits = (offered.reshape(len(looked_for), -1) == looked_for[:, None]).any(axis=1)
    found = float(hits.mean())
    now = stores.registry.by_alias(CHAMPION)
    still = float(now is not None and now.digest == extension.champion.digest)

    def at_least(name: str, value: float, bound: float, note: str) -> Rule:
        return Rule(name=name, value=value, bound=bound, baseline=None, passed=value >= bound, note=note)

    return [
        at_least("extends_the_champion", still, 1.0, f"version {extension.champion.version} is the champion"),
        at_least(
            "old_items_as_before",
            same,
            0.999,
            f"of {len(histories)} histories, the same {k} items without the new ones",
        ),
        at_least(
            "new_items_found",
            found,
            MIN_FOUND,
            f"of {len(hits)}, by one of {NEAREST} who had just seen an item like it",
        ),
    ]


def register(stores: Stores, extension: Extension, larger: Artifact, made: Artifact, *, dagster_run_id: str) -> str:
    """Register the bundle once; returns the version. It is `challenger` unless a trained one waits."""
    registry = stores.registry
    waits, known = registry.by_alias(CHALLENGER), registry.find(made.data_version)
    challenges = waits is None or EXTENDS in waits.tags
    if known is not None:
        return registry.register(made.path, run_id=known.run_id, challenges=challenges)
    champion = extension.champion
    tags = {"dagster/run_id": dagster_run_id, "bundle_digest": made.data_version}
    earlier = registry.find_run("bundle_digest", made.data_version)
    with registry.run(f"{len(extension.ids)} items more {made.data_version[:8]}", tags=tags, run_id=earlier) as run:
        if earlier is None:
            run.log_params(registry.parameters(champion.version))
        keep_model(
            run,
            made.data_version,
            parameters=larger.path / PARAMETERS,
            head=larger.path / HEAD,
            options=read_json(larger.path / OPTIONS),
        )
        lineage = {name: value for name, value in champion.tags.items() if name.startswith("data_version/")}
        own = {"dagster/run_id": dagster_run_id, EXTENDS: champion.digest, "new_items": str(len(extension.ids))}
        trained = {TRAINED_BY: champion.tags[TRAINED_BY]} if TRAINED_BY in champion.tags else {}
        return registry.register(made.path, run_id=run.run_id, tags=lineage | own | trained, challenges=challenges)


def _histories(bundle: Path) -> list[NDArray[np.int64]]:
    """A thousand of the bundle's histories, the same ones each time."""
    stored = read_npz(bundle / "histories.npz")
    offsets, items = stored["offsets"], stored["items"].astype(np.int64)
    chosen = np.random.default_rng(0).permutation(len(offsets) - 1)[:HISTORIES]
    return [items[offsets[user] : offsets[user + 1]] for user in chosen]


def _askers(bundle: Path, tree: IndexTree) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """New items (at most `LOOKED_FOR`, evenly taken), and for each `NEAREST` histories in turn, cut off at a similar item."""
    from model.cold_start import content_neighbours

    stored = read_npz(bundle / "histories.npz")
    offsets, items = stored["offsets"], stored["items"].astype(np.int64)
    n_old = len(read_npz(bundle / "popularity.npz")["counts"])
    last = np.full(n_old, -1)
    np.maximum.at(last, items, np.arange(len(items)))  # where each item was met last
    warm = np.append((last >= 0).astype(np.int64), np.zeros(tree.n_items - n_old, np.int64))
    near, _ = content_neighbours(tree.z[tree.item_leaf], warm, NEAREST)
    new = tree.n_items - n_old
    chosen = np.unique(np.linspace(0, new - 1, min(new, LOOKED_FOR)).astype(np.int64))
    ends = last[near[-new:][chosen].ravel()]
    users = np.searchsorted(offsets, ends, side="right") - 1
    histories = [items[offsets[user] : end + 1] for user, end in zip(users, ends, strict=True)]
    return n_old + chosen, histories
