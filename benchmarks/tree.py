"""Growing the tree, and putting new items into it, against the way that published TDM code grows its own.

- The peer splits one node after another: scikit-learn's KMeans(n_clusters=2), then the half nearest the first centre goes left;
  subtrees are divided among as many processes as there are cores, after the first levels. Same vectors, same sizes of halves.
- Quality is told by two figures that do not know who grew the tree: the mean distance of leaves to the centre of their node on a
  level, and the share of an item's ten nearest that lie under the same node there.
- Ours by default seeks longer than the peer and keeps more neighbours together. `quick` is ours with one power step and two rounds:
  still no worse than the peer by either figure, which is asserted, so the speed of both is compared there, at equal quality.
- The peer takes a minute at 100,000 items and is not run on a million.

Every size runs in a process of its own, for its peak memory.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measured import apart, at_least, at_most, peak_mib, write

SIZES, PEER_SIZES, NEW, DIM = (20_000, 100_000, 1_000_000), (20_000, 100_000), 1000, 64
SAMPLE, LEVELS_UP = 2000, (4, 7)
"""Items whose neighbours are looked up, and how many levels above the leaves quality is told at."""


def clustered(n: int, *, seed: int = 0) -> NDArray[np.float32]:
    """(n, DIM) unit vectors around centres around centres, as embeddings of a catalogue lie."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((64, DIM), dtype=np.float32)
    fine = coarse[rng.integers(0, 64, max(n // 50, 64))]
    fine = fine + 0.7 * rng.standard_normal(fine.shape, dtype=np.float32)
    vectors = fine[rng.integers(0, len(fine), n)]
    vectors += 0.5 * rng.standard_normal(vectors.shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def quality(vectors: NDArray[np.float32], path: NDArray[np.integer], depth: int) -> dict[str, float]:
    """path: (n,) place of each item among the leaves, left to right, of a tree whose halves are as equal as can be."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    chosen = np.random.default_rng(1).permutation(len(vectors))[:SAMPLE]
    near = index.search(vectors[chosen], 11)[1][:, 1:]
    told = {}
    for up in LEVELS_UP:
        node = nodes_of(len(vectors), depth - up)[path]
        sums = np.zeros((int(node.max()) + 1, vectors.shape[1]))
        np.add.at(sums, node, vectors)
        centres = sums / np.bincount(node)[:, None]
        told[f"distance, {up} up"] = float(np.linalg.norm(vectors - centres[node], axis=1).mean())
        told[f"neighbours, {up} up"] = float((node[near] == node[chosen][:, None]).mean())
    return told


def nodes_of(n: int, levels: int) -> NDArray[np.int64]:
    """(n,) node of each place after so many halvings of 0..n-1."""
    starts = np.array([0, n])
    for _ in range(max(levels, 0)):
        counts = np.diff(starts)
        sizes = np.stack([(counts + 1) // 2, counts // 2], axis=1).ravel()
        starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
    return np.searchsorted(starts, np.arange(n), side="right") - 1


def ours(n: int, **options: int) -> dict[str, Any]:
    """Grow, and insert into what has room; seconds, memory, quality. options: of `TreeConfig`."""
    from model.extension import free_places
    from model.index_tree import TreeConfig, build_tree, check_tree, insert_items

    vectors = clustered(n)
    build_tree(vectors[:1000], TreeConfig())  # imports are no part of it
    before = peak_mib()
    started = time.perf_counter()
    tree = build_tree(vectors, TreeConfig(**options))
    seconds, peak = time.perf_counter() - started, peak_mib()
    row: dict[str, Any] = {
        "tree": "MISS, quick" if options else "MISS",
        "items": n,
        "seconds": seconds,
        "peak MiB": peak,
        "of it vectors": before,
    }
    new = clustered(min(NEW, free_places(tree)), seed=9)
    started = time.perf_counter()
    larger = insert_items(tree, new)
    row |= {"inserted": len(new), "insertion seconds": time.perf_counter() - started}
    assert check_tree(larger)["passed"]
    path = tree.item_leaf - tree.level_offsets[-2]
    return row | quality(vectors, path, tree.depth)


def _grow(vectors: NDArray[np.float32], items: NDArray[np.int64], levels: int) -> list[NDArray[np.int64]]:
    """The peer's recursion: items in the order of the leaves after so many levels, a list entry a node."""
    from sklearn.cluster import KMeans

    if levels == 0 or len(items) == 1:
        return [items]
    part = vectors[items]
    if len(items) > 2:
        found = KMeans(n_clusters=2, random_state=0).fit(part)
        gap = ((part - found.cluster_centers_[0]) ** 2).sum(1) - ((part - found.cluster_centers_[1]) ** 2).sum(1)
        items = items[np.argsort(gap, kind="stable")]
    half = (len(items) + 1) // 2
    return _grow(vectors, items[:half], levels - 1) + _grow(vectors, items[half:], levels - 1)


def _subtree(job: tuple[NDArray[np.float32], int]) -> NDArray[np.int64]:
    from threadpoolctl import threadpool_limits

    vectors, levels = job
    with threadpool_limits(1):
        return np.concatenate(_grow(vectors, np.arange(len(vectors)), levels))


def peer(n: int) -> dict[str, Any]:
    """The recursion over `clustered`, a process a core."""
    vectors, depth = clustered(n), math.ceil(math.log2(n))
    cores = os.cpu_count() or 1
    first = max(1, math.ceil(math.log2(cores)))
    started = time.perf_counter()
    nodes = _grow(vectors, np.arange(n), first)
    with ProcessPoolExecutor(cores) as pool:
        orders = list(pool.map(_subtree, [(vectors[items], depth - first) for items in nodes]))
    seconds = time.perf_counter() - started
    order = np.concatenate([items[order] for items, order in zip(nodes, orders, strict=True)])
    path = np.empty(n, dtype=np.int64)
    path[order] = np.arange(n)
    row = {"tree": "KMeans, node by node", "items": n, "seconds": seconds, "peak MiB": peak_mib()}
    return row | quality(vectors, path, depth)


SIDES = {"MISS": ours, "quick": functools.partial(ours, power_steps=1, max_rounds=2), "peer": peer}


def main() -> None:
    """Every size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        who, n = chosen.one.split(":")
        print(json.dumps(SIDES[who](int(n))))
        return
    rows = []
    for who, n in [*(("MISS", n) for n in SIZES), *((who, n) for who in ("quick", "peer") for n in PEER_SIZES)]:
        print(f"{who}, {n:,} items", file=sys.stderr)
        rows.append(apart("tree", "--one", f"{who}:{n}"))
    of = {(row["tree"], row["items"]): row for row in rows}
    for row in rows:
        if (peers := of.get(("KMeans, node by node", row["items"]))) is not None and row is not peers:
            row["times the peer's speed"] = peers["seconds"] / row["seconds"]
    quick, large = of["MISS, quick", 100_000], of["MISS", 1_000_000]
    against = of["KMeans, node by node", 100_000]
    kept = min(quick[f"neighbours, {up} up"] / against[f"neighbours, {up} up"] for up in LEVELS_UP)
    far = max(quick[f"distance, {up} up"] / against[f"distance, {up} up"] for up in LEVELS_UP)
    write(
        "tree",
        rows,
        [
            at_least("times faster than the peer at equal quality, 100,000 items", quick["times the peer's speed"], 50),
            at_least("neighbours kept there against the peer's, the worse of two levels", kept, 1.0),
            at_most("distance there against the peer's, the worse of two levels", far, 1.0),
            at_most("seconds, 1,000,000 items", large["seconds"], 30),
            at_most("peak MiB, 1,000,000 items", large["peak MiB"], 2048),
            at_most("seconds to insert 1,000 items into 1,000,000", large["insertion seconds"], 1),
        ],
    )


if __name__ == "__main__":
    main()
