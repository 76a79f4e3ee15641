"""Is the right item found by a sentence, a poster, a part of it, or both? MovieLens-1M, every item of the catalogue to choose
from.

- Ways to score: the encoders' own cosines with equal weights; the learnt space with equal weights; with learnt ones; and with
  learnt ones where training had no modality-aware hard negatives. All on the same queries, with 95 % bootstrap intervals over
  them.
- Of items that training has never seen. Every query has one right item, so mAP is the mean reciprocal rank.
- The same item again, altered posters and items that lack a modality; pairs of the catalogue that are the same poster; the
  time of a query; what HNSW and a tree over the very same vectors lose against scoring every item.

Run: python -m benchmarks.search. Some five minutes on two cores, most of it
encoding, which is kept under --home.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measured
from benchmarks.search_material import CHANGES, Asked, gather
from model.encoders import ImageEncoder, TextEncoder
from model.evaluation import bootstrap_ci, paired_bootstrap
from model.hnsw import HNSW
from model.index_tree import build_tree
from model.neighbours import near_duplicates
from model.search_space import SearchSpace, SearchSpaceConfig
from model.search_space_training import EQUAL, nothing_learnt, train

Floats = NDArray[np.float32]
Ranks = NDArray[np.int64]
LEARNT, EQUALLY, PLAIN, ENCODERS = "learnt", "equal weights", "without hard negatives", "encoders alone"
DUPLICATES = 0.8


def main() -> None:
    """Measure and write benchmarks/results/search.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = measured.ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=data, help="folder of the data sets")
    parser.add_argument(
        "--home", type=Path, default=measured.ROOT / ".miss-bench" / "search", help="where vectors are kept"
    )
    arguments = parser.parse_args()
    began = time.perf_counter()
    texts, images = TextEncoder.default(), ImageEncoder.default(arguments.home)
    config = SearchSpaceConfig()
    asked = gather(arguments.data / "movielens-1m", arguments.home, config, texts, images)
    encoded = time.perf_counter() - began
    spaces, seconds = learnt(asked, config)
    rows = [*quality(asked, spaces), *pool(asked, spaces), *same_again(asked, spaces)]
    rows += duplicates(asked)
    speed, targets = indexes(asked, spaces[LEARNT]), []
    speed += latency(asked, spaces[LEARNT], texts, images)
    found = {(row["task"], row.get("scored by")): row for row in rows if "task" in row}
    mixed = found["sentence and part of the poster", LEARNT]
    targets = [
        measured.at_least("mixed query: recall@10", mixed["recall@10"], 0.95),
        measured.at_least("mixed query: MRR over the better one alone", mixed["MRR over the better one alone"], 0.0),
        measured.at_least("learnt against equal weights, mixed, MRR", mixed["MRR over equal weights"], 0.0),
        measured.at_least("re-compressed poster: recall@1", found["poster, recompressed", LEARNT]["recall@1"], 0.9),
        measured.at_most(
            "text and picture, p99 ms", next(r["p99 ms"] for r in speed if r.get("query") == "both"), 100.0
        ),
    ]
    weights = [{"weights of": name, **space.weights} for name, space in spaces.items()]
    took = {"encoding s": encoded, "training s": seconds, "all s": time.perf_counter() - began}
    measured.write("search", [*rows, *speed, *weights, took], targets)


def learnt(asked: Asked, config: SearchSpaceConfig) -> tuple[dict[str, SearchSpace], float]:
    """The ways to score; training sees nothing of the items that are asked for."""
    from dataclasses import replace

    seen = np.ones(len(asked.text), bool)
    seen[asked.item] = False
    known = (asked.text, asked.text_present & seen, asked.image, asked.image_present & seen)
    began = time.perf_counter()
    space = train(*known, asked.train, config).space
    seconds = time.perf_counter() - began
    plain = train(*known, asked.train, replace(config, wrong_modality=False)).space
    equally = SearchSpace(space.state | {"weights": EQUAL})
    return {LEARNT: space, EQUALLY: equally, PLAIN: plain, ENCODERS: nothing_learnt(*known, config)}, seconds


def ranks(
    space: SearchSpace,
    asked: Asked,
    *,
    picture: str = "",
    text: bool = False,
    lacks: str = "",
    everywhere: bool = False,
) -> Ranks:
    """(Q,) where the right item comes, 1 the first, ties against it; `lacks`: a modality that the right items are
    stripped of, or all items where `everywhere`."""
    there = {"text": asked.text_present.copy(), "image": asked.image_present.copy()}
    if lacks:
        there[lacks][slice(None) if everywhere else asked.item] = False
    items = space.items(asked.text, there["text"], asked.image, there["image"])
    n = len(asked.item)
    pictures = asked.pictures[picture] if picture else np.zeros((n, asked.image.shape[1]), np.float32)
    queries = space.queries(asked.sentence, np.full(n, text), pictures, np.full(n, bool(picture)))
    scores = queries @ items.T
    right = scores[np.arange(n), asked.item]
    return np.asarray((scores >= right[:, None] - 1e-7).sum(axis=1))


def told(found: Ranks) -> dict[str, Any]:
    """Recall and mAP with their intervals."""
    row: dict[str, Any] = {}
    for name, each in (("recall@1", found <= 1), ("recall@10", found <= 10), ("MRR", 1 / found)):
        ci = bootstrap_ci(each.astype(np.float64))
        row |= {name: ci["mean"], f"{name} 95 %": f"{ci['low95']:.3f} to {ci['high95']:.3f}"}
    return row


def quality(asked: Asked, spaces: dict[str, SearchSpace]) -> list[dict[str, Any]]:
    """Each task by each way to score."""
    tasks: list[tuple[str, dict[str, Any]]] = [
        ("sentence", {"text": True}),
        ("part of the poster", {"picture": "cropped"}),
        ("sentence and part of the poster", {"text": True, "picture": "cropped"}),
        ("sentence, no item has a text", {"text": True, "lacks": "text", "everywhere": True}),
        ("part of the poster, no item has a poster", {"picture": "cropped", "lacks": "image", "everywhere": True}),
        (
            "sentence and part of the poster, the item has only its poster",
            {"text": True, "picture": "cropped", "lacks": "text"},
        ),
        (
            "sentence and part of the poster, the item has only its text",
            {"text": True, "picture": "cropped", "lacks": "image"},
        ),
    ]
    rows, alone = [], {}
    for task, how in tasks:
        found = {name: ranks(space, asked, **how) for name, space in spaces.items()}
        alone[task] = 1 / found[LEARNT]
        for name, each in found.items():
            row = {"task": task, "scored by": name, "queries": len(each)} | told(each)
            if name == LEARNT:
                for other in (EQUALLY, PLAIN, ENCODERS):
                    gain = paired_bootstrap(1 / each, 1 / found[other])
                    row[f"MRR over {other}"] = gain["mean_difference"]
                    row[f"MRR over {other} 95 %"] = f"{gain['low95']:+.3f} to {gain['high95']:+.3f}"
                if task == "sentence and part of the poster":
                    better = max((alone[t] for t in ("sentence", "part of the poster")), key=lambda r: float(r.mean()))
                    row["MRR over the better one alone"] = paired_bootstrap(1 / each, better)["mean_difference"]
            rows.append(row)
        if task == "sentence":
            for name, which in (("holds a word of the title", asked.named), ("holds none", ~asked.named)):
                row = {"task": f"sentence that {name}", "scored by": LEARNT, "queries": int(which.sum())}
                rows.append(row | told(found[LEARNT][which]))
    return rows


def pool(asked: Asked, spaces: dict[str, SearchSpace]) -> list[dict[str, Any]]:
    """A sentence asks for a poster among the posters and texts of all items, in the joint space: what hard negatives are for."""
    rows = []
    for name in (LEARNT, PLAIN):
        space = spaces[name]
        edges = np.cumsum([0, *space.widths])
        items = space.items(asked.text, asked.text_present, asked.image, asked.image_present)
        posters, texts = items[:, edges[2] : edges[3]], items[:, edges[3] : edges[4]]
        n = len(asked.item)
        flat = SearchSpace(space.state | {"weights": EQUAL})
        nothing = np.zeros((n, asked.image.shape[1]), np.float32)
        query = flat.queries(asked.sentence, np.ones(n, bool), nothing, np.zeros(n, bool))[:, edges[2] : edges[3]]
        scores = query @ np.concatenate([posters, texts]).T
        right = scores[np.arange(n), asked.item]
        found = np.asarray((scores >= right[:, None] - 1e-7).sum(axis=1))
        best = np.argsort(-scores, axis=1)[:, :10]
        row = {"task": "sentence asks for a poster among posters and texts", "scored by": name, "queries": n}
        rows.append(row | told(found) | {"texts among the first ten": float((best >= len(posters)).mean())})
    return rows


def same_again(asked: Asked, spaces: dict[str, SearchSpace]) -> list[dict[str, Any]]:
    """The item again by its altered poster; the encoders' own cosines say how much of it is left in the picture."""
    return [
        {"task": f"poster, {change}", "scored by": name, "queries": len(asked.item)}
        | told(ranks(spaces[name], asked, picture=change))
        for change in CHANGES
        for name in (LEARNT, ENCODERS)
    ]


def duplicates(asked: Asked) -> list[dict[str, Any]]:
    """Pairs of items whose posters are much alike to the encoder: the same one, a series, a re-release."""
    present = np.flatnonzero(asked.image_present)
    vectors = asked.image[present] / np.linalg.norm(asked.image[present], axis=1, keepdims=True)
    first, second, alike = near_duplicates(vectors, DUPLICATES)
    pairs = zip(present[first].tolist(), present[second].tolist(), alike.tolist(), strict=True)
    rows = [{"near-duplicates": f"{asked.title[a]} / {asked.title[b]}", "cosine": s} for a, b, s in pairs]
    return [{"near-duplicates": f"{len(rows)} pairs of posters at a cosine of {DUPLICATES} or more"}, *rows[:25]]


def indexes(asked: Asked, space: SearchSpace) -> list[dict[str, Any]]:
    """What an index over the items' vectors loses of the ten best, and how long it takes to build and to ask."""
    items = space.items(asked.text, asked.text_present, asked.image, asked.image_present)
    n, rows = len(asked.item), []
    began = time.perf_counter()
    graph = HNSW(items, ef_search=128)
    built = time.perf_counter() - began
    began = time.perf_counter()
    tree = build_tree(items)
    grown = time.perf_counter() - began
    for kind, text, picture in (("sentence", True, False), ("part of the poster", False, True), ("both", True, True)):
        queries = space.queries(asked.sentence, np.full(n, text), asked.pictures["cropped"], np.full(n, picture))
        exact, by_all = _timed(lambda q: np.argsort(-(items @ q), kind="stable")[:10], queries)
        by_graph = _timed(lambda q: graph.search(q[None], 10, [np.zeros(0, np.int64)])[0][0], queries)
        row: dict[str, Any] = {"index asked by": kind, "every item ms": by_all}
        row |= {"HNSW ms": by_graph[1], "HNSW finds of ten": _share(by_graph[0], exact), "HNSW built s": built}
        for beam in (100, 400):
            walked = _timed(lambda q, beam=beam: _walk(tree, items, q, beam), queries)
            row |= {f"tree, beam {beam}, ms": walked[1], f"tree, beam {beam}, finds of ten": _share(walked[0], exact)}
        rows.append(row | {"tree built s": grown})
    return rows


def _walk(tree: Any, items: Floats, query: Floats, beam: int) -> NDArray[np.int64]:
    """Ten items down the tree: the beam's children, the best of them, and so on."""
    nodes = tree.nodes(min(int(np.log2(2 * beam)), tree.depth))
    level = int(tree.level[nodes[0]])
    while level < tree.depth:
        scores = tree.z[nodes] @ query
        kept = nodes[np.argsort(-scores)[:beam]]
        nodes = tree.children[kept].ravel()
        nodes = nodes[nodes >= 0]
        level += 1
    found = tree.leaf_item[nodes]
    return np.asarray(found[np.argsort(-(items[found] @ query))[:10]])


def _timed(ask: Any, queries: Floats) -> tuple[list[NDArray[np.int64]], float]:
    """Answers, and the median ms of one."""
    found, times = [], []
    for query in queries[:300]:
        began = time.perf_counter()
        found.append(ask(query))
        times.append(time.perf_counter() - began)
    return found, float(np.median(times) * 1000)


def _share(found: list[NDArray[np.int64]], exact: list[NDArray[np.int64]]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact, strict=True)]))


def latency(asked: Asked, space: SearchSpace, texts: TextEncoder, images: ImageEncoder) -> list[dict[str, Any]]:
    """From words and a JPEG to ten items, one query at a time."""
    items = space.items(asked.text, asked.text_present, asked.image, asked.image_present)
    rows = []
    for kind in ("text", "image", "both"):
        times = []
        for number in range(200):
            sentence, poster = (each[number % len(each)] for each in (asked.sentences, asked.posters))
            began = time.perf_counter()
            t = texts.encode([sentence]) if kind != "image" else np.zeros((1, texts.dim), np.float32)
            i = images.encode([poster]) if kind != "text" else np.zeros((1, images.dim), np.float32)
            query = space.queries(t, np.array([kind != "image"]), i, np.array([kind != "text"]))
            np.argsort(-(items @ query[0]))[:10]
            times.append((time.perf_counter() - began) * 1000)
        p50, p99 = np.percentile(times, [50, 99])
        rows.append({"query": kind, "p50 ms": float(p50), "p99 ms": float(p99)})
    return rows


if __name__ == "__main__":
    main()
