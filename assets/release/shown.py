"""What a bundle holds only to be looked at: small pictures of its items, and names for the nodes of its tree.

Not covered: reasons (`explain.onnx`), which need the model and are exported beside the search.
"""

from __future__ import annotations

from pathlib import Path

from model.files import read_npz
from model.index_tree import IndexTree
from model.node_labels import NODES, write_labels
from model.thumbnails import ThumbnailConfig, write_thumbnails

__all__ = ["write_shown"]


def write_shown(folder: Path, catalogue: Path, config: ThumbnailConfig) -> None:
    """Write them into a bundle that has its items, tree and popularity; pictures come from the catalogue's parquet, by item id."""
    import pyarrow.parquet as pq

    table = pq.read_table(catalogue, columns=["item_id", "image"])
    images = dict(zip(table.column("item_id").to_pylist(), table.column("image").to_pylist(), strict=True))
    items, counts = read_npz(folder / "items.npz"), read_npz(folder / "popularity.npz")["counts"]
    pictured = write_thumbnails(folder, [images.get(item) for item in items["item_id"].tolist()], counts, config)
    tree = IndexTree.load(folder / "tree.npz")
    write_labels(folder / NODES, tree, items["categories"].tolist(), counts=counts, pictured=pictured)
