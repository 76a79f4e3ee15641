"""What Great Expectations holds a bundle's own bytes to: its catalogue, its logs and its tree, as a service would read them.

The warehouse is held to `assets.stores.contract` before anything is made of it; this is about what came out, for one digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from assets.expectations import filled, hold, rule
from model import search_files
from model.files import read_npz
from model.gate import Rule
from model.index_tree import IndexTree
from model.search_space import SearchSpace

__all__ = ["check_bundle", "contract_rules"]


def check_bundle(bundle: Path) -> dict[str, Any]:
    """Hold `items.npz`, `histories.npz` and `tree.npz` to their rules; a summary as `assets.expectations.hold` returns it.

    Raises FileNotFoundError where one of them is missing, which a published bundle never lacks.
    """
    import pandas as pd

    items, logs = read_npz(bundle / "items.npz"), read_npz(bundle / "histories.npz")
    tree = IndexTree.load(bundle / "tree.npz")
    n = len(items["item_id"])
    owner = np.repeat(np.arange(len(logs["user_id"])), np.diff(logs["offsets"]))
    catalogue = pd.DataFrame({"item_id": items["item_id"].tolist(), "title": items["title"].tolist()})
    users = pd.DataFrame({"user_id": logs["user_id"].tolist()})
    behaviors = pd.DataFrame({"user": owner, "item": logs["items"]})
    leaf = tree.leaf_item >= 0
    above = np.where(tree.parent >= 0, tree.level[np.maximum(tree.parent, 0)], -1)
    nodes = pd.DataFrame(
        {
            "node": np.arange(tree.n_nodes),
            "length": np.linalg.norm(tree.z, axis=1),
            "below_parent": tree.level == above + 1,
            "leaf_on_last_level": ~leaf | (tree.level == tree.depth),
        }
    )
    leaves = pd.DataFrame({"item": tree.leaf_item[leaf]})
    known = {"min_value": 0, "max_value": n - 1}
    yes = {"value_set": [True]}
    return hold(
        _search(bundle, n)
        | {
            "catalogue": (
                [catalogue],
                [
                    *filled("item_id"),
                    rule("ColumnValuesToBeUnique", "item_id is unique", column="item_id"),
                    rule("ColumnValuesToNotBeNull", "title is not null", column="title"),
                ],
            ),
            "users": (
                [users],
                [*filled("user_id"), rule("ColumnValuesToBeUnique", "user_id is unique", column="user_id")],
            ),
            "logs": (
                [behaviors],
                [rule("ColumnValuesToBeBetween", "item is in the catalogue", column="item", **known)],
            ),
            "tree": (
                [nodes],
                [
                    rule(
                        "ColumnValuesToBeBetween",
                        "a node's vector is of unit length",
                        column="length",
                        min_value=0.999,
                        max_value=1.001,
                    ),
                    rule(
                        "ColumnValuesToBeInSet", "a node lies one level below its parent", column="below_parent", **yes
                    ),
                    rule("ColumnValuesToBeInSet", "a leaf lies on the last level", column="leaf_on_last_level", **yes),
                ],
            ),
            "leaves": (
                [leaves],
                [
                    rule("ColumnValuesToBeBetween", "a leaf's item is in the catalogue", column="item", **known),
                    rule("ColumnValuesToBeUnique", "an item has one leaf", column="item"),
                    rule("TableRowCountToEqual", "every item has a leaf", value=n),
                ],
            ),
        }
    )


def _search(bundle: Path, n: int) -> dict[str, Any]:
    """Rules of what is searched by text and picture; none for a bundle of before there was search."""
    import pandas as pd

    if not (bundle / search_files.ARRAYS).exists():
        return {}
    arrays = read_npz(bundle / search_files.ARRAYS)
    items = arrays.pop("items").astype(np.float32)
    widths = SearchSpace(arrays).widths
    blocks = np.split(items, np.cumsum(widths), axis=1)[: len(widths)]
    lengths = np.stack([np.linalg.norm(block, axis=1) for block in blocks])
    # one for a modality that is there, zero for one that is not
    odd = np.minimum(np.abs(lengths), np.abs(lengths - 1)).max(axis=0)
    frame = pd.DataFrame({"off_unit": np.where(np.isfinite(odd), odd, 9.0)})
    return {
        "search": (
            [frame],
            [
                rule(
                    "ColumnValuesToBeBetween",
                    "an item's vectors are of unit length, or absent",
                    column="off_unit",
                    min_value=0.0,
                    max_value=0.01,
                ),
                rule("TableRowCountToEqual", "every item can be searched", value=n),
            ],
        )
    }


def contract_rules(bundle: Path) -> list[Rule]:
    """One rule of the gate for each table: how many of its expectations do not hold, 0 being the bound."""
    summary = check_bundle(bundle)
    rules = []
    for table, rows in summary["rows"].items():
        own = [each for each in summary["expectations"] if each["table"] == table]
        broken = [each for each in own if not each["success"]]
        told = "; ".join(
            f"{each['name']}: {each['failed']:,} rows do not, such as {each['examples']}" for each in broken
        )
        note = told or f"{len(own)} expectations on {rows:,} rows"
        rules.append(
            Rule(
                name=f"contract_{table}",
                value=float(len(broken)),
                bound=0.0,
                baseline=None,
                passed=not broken,
                note=note,
            )
        )
    return rules
