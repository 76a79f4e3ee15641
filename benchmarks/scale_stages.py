"""Stages of the graph that run on either engine, with data to run them on: what `benchmarks.scale` times.

- A stage is made ready in files, in a process of its own, and run by the function that its asset calls, by names of those files:
  whatever else the process that plans comes to hold, the stage has put there.
- Shards are cut for the sizes of the benchmark, half of the small size each: two of them there, some twenty at ten times as much.
- Models are small and untrained, where they are not what is timed.

Histories come out of the warehouse on one machine, and out of day files on a cluster, which are written within the time: a first
run, where every later one adds a day.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from assets.compute import Engine
from model.files import digest_json, publish_dir, read_json, replacing, write_json, write_npz
from model.histories import EvaluationSet, Histories

__all__ = ["STAGES", "Stage", "made", "run"]

ITEMS, BEAM, K, DAYS, START = 2000, 50, 20, 10, 1_700_000_000
MAX_HISTORY = 64
"""Newest behaviors that the exported search reads, however many a user has."""
OPTIONS: dict[str, Any] = {
    "scorer": {"d": 32, "heads": 2, "layers": 1, "window": 32, "lifelong": {"kept": 16, "top_k": 8, "probes": 4}},
    "dense": {"epochs": 1, "min_steps": 1},
    "lifelong": {"epochs": 1, "validation_users": 200},
    "beam": BEAM,
}
"""Of `TrainingConfig`: an epoch of each stage, steps of as many users whatever the size."""
VALIDATED = 200
"""Users that an epoch is judged by, whatever the size."""
WORDS = (
    "night",
    "harbour",
    "clock",
    "garden",
    "winter",
    "letter",
    "engine",
    "island",
    "violin",
    "border",
    "market",
    "comet",
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of them."""

    unit: str
    """What is counted."""
    size: int
    """Units at 1x."""
    prepare: Callable[[Path, int, int], None]
    """(folder, units, behaviors a user): write the files; the last is for stages whose units are users."""
    run: Callable[[Engine, Path, Path, int], int]
    """(engine, folder of the files, an empty folder, units a shard) -> units done."""
    length: int = 60
    """Behaviors a user, some."""


def made(name: str, folder: Path, size: int, length: int) -> None:
    """The files of a stage; nothing where they are there."""
    told = folder / "made.json"
    if told.exists() and read_json(told) == [name, size, length]:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    STAGES[name].prepare(folder, size, length)
    write_json(told, [name, size, length])


def run(name: str, engine: Engine, folder: Path, work: Path, *, shard: int) -> tuple[int, float]:
    """(units, seconds) of a stage over its files. work: a folder, which is emptied before and after."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    begun = time.perf_counter()
    units = STAGES[name].run(engine, folder, work, shard)
    seconds = time.perf_counter() - begun
    shutil.rmtree(work)
    return units, seconds


@contextlib.contextmanager
def held(module: ModuleType, name: str, value: int) -> Iterator[None]:
    """Within, a module's constant is another: those that cut shards are read by the process that plans, and nowhere else."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


# -- data ------------------------------------------------------------------------------------------------------------------


def histories(users: int, length: int, *, seed: int = 0) -> Histories:
    """Of so many users, from half of `length` to one and a half, over the catalogue's first half: whatever there is of them,
    something is left to recommend."""
    rng = np.random.default_rng([seed, users])
    lengths = rng.integers(max(length // 2, 1), length + length // 2 + 1, users)
    items = (ITEMS / 2 * rng.random(int(lengths.sum())) ** 2.5).astype(np.int32)
    return Histories(offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), items=items, n_items=ITEMS)


def asked(split: str, users: int, length: int) -> EvaluationSet:
    """So many users, each with a target that they have not had."""
    targets = np.random.default_rng(users).integers(ITEMS // 2, ITEMS, users).astype(np.int32)
    seen = histories(users, length, seed=1)
    return EvaluationSet(split=split, users=np.arange(users), seen=seen, targets=targets)


def small_tree() -> Any:
    """`IndexTree` of the catalogue; wide, since each level takes its time to export."""
    from model.index_tree import TreeConfig, build_tree

    vectors = np.random.default_rng(0).standard_normal((ITEMS, 16), dtype=np.float32)
    return build_tree(vectors, TreeConfig(branching=8))


def small_model(tree: Any) -> Any:
    """An untrained `MISS`."""
    from model.configure import configure
    from model.training import TrainingConfig, new_model

    return new_model(tree, configure(TrainingConfig, OPTIONS, where="training"))


def part_of(folder: Path, name: str) -> Path:
    """A new folder in another."""
    (folder / name).mkdir()
    return folder / name


# -- embeddings ------------------------------------------------------------------------------------------------------------


def prepare_texts(folder: Path, size: int, length: int) -> None:
    """`items.parquet`, no two texts alike."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    words = np.array(WORDS)[rng.integers(0, len(WORDS), (size, 8))]
    rows: dict[str, list[str | None]] = {
        "title": [f"Story {row}" for row in range(size)],
        "description": [" ".join(row) for row in words.tolist()],
        "categories": [None] * size,
    }
    table = pa.table(rows, schema=pa.schema([(name, pa.string()) for name in rows]))
    pq.write_table(table, folder / "items.parquet", row_group_size=max(size // 10, 1))


def run_texts(engine: Engine, folder: Path, work: Path, shard: int) -> int:
    """The installed text encoder, with nothing in its cache."""
    from assets.compute import encoding

    cache = str(work / "cache")
    contents = encoding.Contents(items=str(folder / "items.parquet"), kind="text", encoder=None, cache=cache)
    dim = encoding.encoder_of("text", None, cache).dim  # loaded by the process that plans, as by the asset
    with held(encoding, "SHARD_ITEMS", shard):
        told = encoding.encoded(engine, contents, dim, work=work, target=work / "embeddings.npz", on_bad="fail")
    return told["encoded"]


# -- histories -------------------------------------------------------------------------------------------------------------


def prepare_warehouse(folder: Path, size: int, length: int) -> None:
    """`warehouse.duckdb` with a log of ten days, a user for every hundred behaviors, and `items.parquet`."""
    import duckdb

    from assets.sources import detect
    from assets.stores.warehouse import Warehouse

    users, items, shop = max(size // 100, 10), max(size // 200, 10), part_of(folder, "shop")
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT 'i' || i AS item_id, 'Item ' || i AS title FROM range({items}) AS r(i)) "
            f"TO '{shop}/items.parquet'"
        )
        connection.execute(
            f"COPY (SELECT 'u' || (hash(i * 3 + 1) % {users}) AS user_id, 'i' || (hash(i * 7 + 2) % {items}) AS item_id, "
            f"'view' AS event, {START} + CAST(floor(i * ({DAYS * 86_400} / {size})) AS BIGINT) AS timestamp "
            f"FROM range({size}) AS r(i)) TO '{shop}/behaviors.parquet'"
        )
    warehouse = Warehouse(folder / "warehouse.duckdb")
    warehouse.ingest(detect(shop))
    warehouse.items_frame().to_parquet(folder / "items.parquet", index=False)


def run_histories(engine: Engine, folder: Path, work: Path, shard: int) -> int:
    """Everybody's, in files."""
    from assets.compute.gathering import gathered
    from assets.stores import day_files
    from assets.stores.warehouse import Warehouse

    days, target = day_files.DayFiles(work / "days"), part_of(work, "target")
    # buckets are a power of two and two at least: sixteen of these hold ten times what two hold
    with held(day_files, "BUCKET_ROWS", -(-shard * 5 // 4)), held(day_files, "EXPORT_ROWS", shard):
        told = gathered(
            engine, Warehouse(folder / "warehouse.duckdb"), days, folder / "items.parquet", work=work, target=target
        )
    return cast(int, told["rows"])


# -- index tree ------------------------------------------------------------------------------------------------------------


def prepare_vectors(folder: Path, size: int, length: int) -> None:
    """`embeddings.npz`: clusters of clusters, 64 dimensions."""
    from benchmarks.tree import clustered

    write_npz(folder / "embeddings.npz", {"embeddings": clustered(size)})


def run_tree(engine: Engine, folder: Path, work: Path, shard: int) -> int:
    """A tree in parts: two sub-trees, or sixteen of ten times as many items."""
    from assets.compute import growing
    from model.index_tree import TreeConfig

    config = TreeConfig(subtree_items=max(-(-shard * 5 // 4), 2))
    with held(growing, "SHARD_ITEMS", shard):
        told = growing.grown(
            engine, folder / "embeddings.npz", config, work=part_of(work, "parts"), target=work / "tree.npz"
        )
    return cast(int, told["items"])


# -- training --------------------------------------------------------------------------------------------------------------


def prepare_training(folder: Path, size: int, length: int) -> None:
    """`tree.npz`, `train.npz` and `validation.npz`."""
    small_tree().save(folder / "tree.npz")
    histories(size, length).save(folder / "train.npz")
    asked("validation", min(VALIDATED, size), length).save(folder / "validation.npz")


def run_training(engine: Engine, folder: Path, work: Path, shard: int) -> int:
    """An epoch of each stage; units are users, not shards of any size."""
    from assets.compute.training import Fit, trained

    trained(
        engine,
        Fit(
            tree=str(folder / "tree.npz"),
            histories=str(folder),
            options=OPTIONS,
            target=str(part_of(work, "model")),
            work=str(part_of(work, "checkpoints")),
        ),
    )
    return cast(int, read_json(folder / "made.json")[1])


# -- evaluation ------------------------------------------------------------------------------------------------------------


def prepare_evaluation(folder: Path, size: int, length: int) -> None:
    """Folders `model` and `histories`."""
    from model.training import save_parameters

    tree, model, known = small_tree(), part_of(folder, "model"), part_of(folder, "histories")
    tree.save(model / "tree.npz")
    save_parameters(small_model(tree), model / "parameters.npz")
    histories(size, length).save(known / "train.npz")
    asked("test", size, length).save(known / "test.npz")


def run_evaluation(engine: Engine, folder: Path, work: Path, shard: int) -> int:
    """Ranks of everybody's target; a shard is a batch, cut alike on either engine, so that both ask in the same company."""
    from assets.compute import evaluating

    with held(evaluating, "SHARD_USERS", shard):
        found = evaluating.evaluated(
            engine, folder / "model", OPTIONS, folder / "histories", work=work, per_user=work / "per_user.parquet"
        )
    return len(found)


# -- retrieval -------------------------------------------------------------------------------------------------------------


def exported(folder: Path) -> Path:
    """The search as a graph, in a file of `folder`; made once for all sizes, since it takes longer than all else."""
    from model.beam_search import BeamSearch
    from model.onnx_export import export_search

    graph = folder / f"retrieval-{digest_json([ITEMS, OPTIONS])[:16]}.onnx"
    if not graph.exists():
        tree = small_tree()
        with replacing(graph) as file, tempfile.TemporaryDirectory() as work:
            export_search(BeamSearch(small_model(tree), tree, beam=BEAM), Path(work) / "retrieval.onnx")
            file.write((Path(work) / "retrieval.onnx").read_bytes())
    return graph


def prepare_bundle(folder: Path, size: int, length: int) -> None:
    """`bundle`, with what a retrieval for everybody reads of one."""
    known, graph = histories(size, length), exported(folder.parent)

    def build(target: Path) -> dict[str, Any]:
        shutil.copy(graph, target / "retrieval.onnx")
        write_npz(target / "items.npz", {"item_id": named("item", ITEMS)})
        users = {"user_id": named("user", size), "offsets": known.offsets, "items": known.items}
        write_npz(target / "histories.npz", users)
        return {"model": {"beam": BEAM, "max_history": MAX_HISTORY, "n_items": ITEMS}}

    publish_dir(folder / "bundle", build)


def named(what: str, count: int) -> NDArray[np.str_]:
    """Ids in their order."""
    return np.array([f"{what}-{number:07d}" for number in range(count)])


def run_retrieval(engine: Engine, folder: Path, work: Path, shard: int) -> int:
    """The best items of every user of the bundle, one thread a search."""
    from assets.compute import recommending

    with held(recommending, "SHARD_USERS", shard):
        told = recommending.recommend_all(engine, folder / "bundle", work / "all", k=K, version="1", threads=1)
    return cast(int, told["users"])


STAGES = {
    "embeddings": Stage(unit="texts", size=100, prepare=prepare_texts, run=run_texts),
    "histories": Stage(unit="behaviors", size=200_000, prepare=prepare_warehouse, run=run_histories),
    "tree": Stage(unit="items", size=40_000, prepare=prepare_vectors, run=run_tree),
    "training": Stage(unit="users", size=300, prepare=prepare_training, run=run_training),
    "evaluation": Stage(unit="users", size=500, prepare=prepare_evaluation, run=run_evaluation),
    "retrieval": Stage(unit="users", size=1000, prepare=prepare_bundle, run=run_retrieval),
}
"""In the order of the graph."""
