"""The index tree over a file of vectors, grown where there is room: in one piece, or in parts that are joined.

- A catalogue of at most `TreeConfig.subtree_items` is one task: nothing is copied, and the tree is that of `build_tree`.
- Of a larger one, the process that plans knows the number of items and no more. A split is decided by one task, over a number an
  item; sub-trees are independent tasks; a last one joins them (`model.tree_shards`, `assets.compute.tree_steps`).

What it takes: the join holds the tree, with its vectors, as everything that uses a tree does; a split some 40 bytes an item.
Not covered: machines whose processors round sums differently, on which the last bits of a projection, and with them the side of an
item at a median, may differ.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from assets.compute import Engine, Shard
from assets.compute.tree_steps import NAME, GrowPart, GrowWhole, Join, Lay, Plan, Project, Split, Step
from model.files import digest_json, opened_npz
from model.index_tree import TreeConfig
from model.tree_shards import sample_size, top_levels

__all__ = ["SHARD_ITEMS", "grown"]

SHARD_ITEMS = 1 << 18
"""Items whose projections are one task."""


def grown(engine: Engine, vectors: Path, config: TreeConfig, *, work: Path, target: Path) -> dict[str, Any]:
    """Grow the tree over "embeddings" (N, d) of an .npz into the file `target`, and tell of it.

    work: folder of the parts of a large catalogue; what a killed run has left in it is made use of. The tree does not depend on
    the engine. Returns {"depth", "nodes", "items", "neighbours_kept_by_level"}, and "neighbours_among", the items of the sample
    whose neighbours were looked for, where these are not all.
    Raises BadInput for no items, or vectors that are not finite (naming the first such item); `Corrupt` where the file is torn.
    """
    with opened_npz(vectors, NAME) as (_, head):
        n = head.shape[0] if head.shape else 0
    if n <= config.subtree_items:
        return engine.each(GrowWhole, (str(vectors), asdict(config)), [{"tree": str(target)}], "index tree")[0]
    levels = top_levels(n, config.subtree_items)
    sample = sample_size(n, levels)
    own = digest_json({"vectors": head.crc, "config": asdict(config), "n": n, "sample": sample, "shard": SHARD_ITEMS})
    plan = Plan(
        vectors=str(vectors),
        folder=str(work / f"tree-{own[:16]}"),
        config=asdict(config),
        n_items=n,
        levels=levels,
        sample=sample,
    )

    def each(step: type[Step], shards: list[Shard], what: str) -> list[Shard]:
        return engine.each(step, (asdict(plan),), shards, what)

    each(Lay, [{"part": ["order", 0]}], "top levels of the tree")
    begins = range(0, n, SHARD_ITEMS)
    for level in range(levels):
        shards = [{"part": ["along", level, begin], "end": min(begin + SHARD_ITEMS, n)} for begin in begins]
        if not plan.part("order", level + 1).exists():
            each(Project, shards, f"projections of level {level}")
            each(Split, [{"part": ["order", level + 1], "parts": list(begins)}], f"halves of level {level}")
    each(GrowPart, [{"part": ["grown", cluster]} for cluster in range(1 << levels)], "sub-trees")
    return each(Join, [{"tree": str(target)}], "index tree")[0]
