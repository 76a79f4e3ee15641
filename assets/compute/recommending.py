"""Everybody's best items from one bundle, shard by shard: histories in, Parquet parts out.

    part-00000-5f1c09ab12cd34ef.parquet   user_id, rank (1 the best), item_id, score; the users in the bundle's order
    manifest.json                         {"version", "digest", "k", "users", "rows", "parts": [...]} with each part's digest

- A part is whole or absent, and its name follows from the bundle and what was asked of it: what a killed run has written is not
  done again. The manifest comes last; without it the parts are not everybody's.
- What a user has had is not returned. Who has had nothing has no rows.

Not covered: users whom the bundle does not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from assets.compute import Engine, Shard
from model.errors import BadInput
from model.files import MANIFEST, digest_file, digest_json, npz_length, read_json, read_npz, replacing, write_json
from model.histories import Histories
from model.onnx_search import OnnxSearch

__all__ = ["SHARD_USERS", "RecommendShard", "recommend_all"]

SHARD_USERS = 4096


class RecommendShard:
    """Work on a shard {"begin", "end", "part"}: users by their place in the bundle, and the file that takes their items."""

    def __init__(self, bundle: str, k: int, threads: int) -> None:
        """threads: of a search; 0 is one a core. Raises BadInput for k beyond what a search finds."""
        folder = Path(bundle)
        told = read_json(folder / MANIFEST)["meta"]["model"]
        stored = read_npz(folder / "histories.npz")
        self._item_id, self._user_id = read_npz(folder / "items.npz")["item_id"], stored["user_id"]
        n = len(self._item_id)
        self._histories = Histories(offsets=stored["offsets"], items=stored["items"], n_items=n)
        self._newest, self._k = int(told.get("max_history") or 0), k
        self._search = OnnxSearch(folder / "retrieval.onnx", n_items=n, beam=int(told["beam"]), threads=threads)
        self._search.check_k(k)

    def __call__(self, shard: Shard) -> Shard:
        """Search for all of them; answers with the part's rows and digest."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        part = Path(shard["part"])
        if not part.exists():
            known = [self._histories[user].astype(np.int64) for user in range(shard["begin"], shard["end"])]
            users = [row for row, history in enumerate(known) if len(history)]
            histories = [known[row] for row in users]
            items, scores = self._search.recommend(
                [history[-self._newest :] for history in histories], self._k, exclude=histories
            )
            found = items >= 0
            names = self._user_id[shard["begin"] : shard["end"]][users]
            table = pa.table(
                {
                    "user_id": np.repeat(names, found.sum(1)),
                    "rank": (np.nonzero(found)[1] + 1).astype(np.int32),
                    "item_id": self._item_id[items[found]],
                    "score": scores[found],
                }
            )
            with replacing(part) as file:
                pq.write_table(table, file)
        rows = pq.read_metadata(part).num_rows
        return {"file": part.name, "users": shard["end"] - shard["begin"], "rows": rows, "sha256": digest_file(part)}


def recommend_all(
    engine: Engine, bundle: Path, target: Path, *, k: int, version: str, threads: int = 0
) -> dict[str, Any]:
    """The k best items of every user of a bundle, in `target`; returns the manifest.

    Raises BadInput for k beyond what a search finds, and where `target` holds another answer already.
    """
    digest = read_json(bundle / MANIFEST)["digest"]
    if not (bundle / "histories.npz").exists():
        raise BadInput(f"{bundle} holds no histories, so nobody to recommend to; run `miss materialize` again")
    own = digest_json({"bundle": digest, "k": k, "shard": SHARD_USERS})[:16]
    if any(part for part in target.glob("part-*.parquet") if own not in part.name):
        raise BadInput(f"{target} holds what another version, or another k, recommends; name an empty folder")
    users = npz_length(bundle / "histories.npz", "user_id")
    target.mkdir(parents=True, exist_ok=True)
    shards = [
        {
            "begin": at,
            "end": min(at + SHARD_USERS, users),
            "part": str(target / f"part-{at // SHARD_USERS:05d}-{own}.parquet"),
        }
        for at in range(0, users, SHARD_USERS)
    ]
    parts = engine.each(RecommendShard, (str(bundle), k, threads), shards, "users", loads=True)
    rows = sum(part["rows"] for part in parts)
    manifest = {"version": version, "digest": digest, "k": k, "users": users, "rows": rows, "parts": parts}
    write_json(target / MANIFEST, manifest)
    return manifest
