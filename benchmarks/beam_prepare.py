"""What a search is measured with, made once: graphs, indices, users, and the best items of some of them by scoring every item.

- Every item is scored with histories read as by the search that is compared with it: where a search starts, and so which nodes look
  at a history, depends on its beam and its tree. For the tree and the beam that the peers share this is a row of its own, in
  ONNX Runtime; for others it is done here, in torch, and by fewer users.
- Graphs are exported on one thread: an export is Python, and two run side by side.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.beam_floor import operations
from benchmarks.beam_peers import export_peers, vectors, write_indices
from model.files import read_json, read_npz, write_json, write_npz
from model.histories import Histories

if TYPE_CHECKING:
    from model.beam_search import BeamSearch

__all__ = ["Users", "graph", "prepare", "progress"]

LENGTHS = (100, 1000, 10_000)
BRANCHINGS = (2, 4, 8)
"""The first is everywhere, the others are compared with it."""
TABLES: dict[str, dict[str, Any]] = {name: {"tables": name} for name in ("float32", "float16", "int8")}
CODED = "float32, behaviors by codes"
TABLES[CODED] = {"codes": True}
"""How tables and behaviors are stored -> options of `BeamSearch`; the first is the one that all else is measured with."""
BEAM, LENGTH, K, BATCH, THREADS = 200, 1000, 100, 64, 2
REFERENCES = {3416: 20, 100_000: 8, 1_000_000: 3}
"""Users that every item is scored for; twice as many with `LENGTH` behaviors and `BEAM`."""
BY_TORCH = 100_000
"""Items up to which that is done for other beams and branchings too, from 10,000 on with `LENGTH` behaviors alone."""
TRAINED = "movielens-1m, trained"


def progress(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def graph(folder: Path, beam: int, tables: str) -> Path:
    """Where the search of a beam is."""
    return folder / f"{beam}-{tables}" / "search.onnx"


def prepare(
    folder: Path, *, data: str, items: int, branching: int, beams: Sequence[int], tables: Sequence[str], home: str
) -> dict[str, Any]:
    """Make the model and export all graphs of it; {} where there is no such model. tables: kept so for the beam `BEAM`."""
    import torch

    from benchmarks import beam_models
    from model.beam_search import BeamSearch
    from model.onnx_export import export_search

    torch.set_num_threads(1)
    started = time.perf_counter()
    made = (
        beam_models.movielens(Path(home), count=BATCH)
        if data == TRAINED
        else beam_models.synthetic(items, branching=branching, length=LENGTHS[-1], count=BATCH)
    )
    if made is None:
        return {}
    model, tree, histories = made
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    told = Histories(offsets=offsets, items=np.concatenate(histories).astype(np.int32), n_items=tree.n_items)
    told.save(folder / "users.npz")
    lengths = list(LENGTHS) if branching == BRANCHINGS[0] else [LENGTH]
    lengths = [int(np.median(told.lengths))] if data == TRAINED else lengths
    scored = {str(beam): _scored(tree.level_offsets, tree.branching, beam) for beam in beams}
    about = {"data": data, "items": tree.n_items, "branching": branching, "nodes": tree.n_nodes, "scored": scored}
    about |= {"tables": {str(beam): list(tables) if beam == BEAM else [next(iter(TABLES))] for beam in beams}}
    about |= {"lengths": lengths, "row": model.config.d + tree.z.shape[1]}
    write_json(folder / "about.json", about)
    users, work = Users(folder), {}
    for beam in beams:
        for label in about["tables"][str(beam)]:
            first = label == next(iter(TABLES))
            search = BeamSearch(model, tree, beam=beam, **TABLES[label])
            graph(folder, beam, label).parent.mkdir()
            export_search(search, graph(folder, beam, label))
            if first:
                work[str(beam)] = [operations(search, histories, length) for length in lengths]
            if first and not users.shared(beam):
                _references(search, users)
            progress(f"  {data}, {items:,}, beam {beam}, {label}: exported, {time.perf_counter() - started:.0f} s")
    if users.shared(BEAM):
        search = BeamSearch(model, tree, beam=BEAM)
        export_peers(search, folder)
        write_indices(vectors(search), folder, threads=THREADS)
        progress(f"  {data}, {items:,}: peers, {time.perf_counter() - started:.0f} s")
    write_json(folder / "about.json", about | {"operations": work})
    return about


def _references(search: BeamSearch, users: Users) -> None:
    """Write the best items of some users by scoring every item in torch."""
    import torch

    from model.exhaustive import score_in_slices

    leaves = search.model.item_leaf[None]
    for length in users.lengths:
        best = []
        for history in users.references(length, search.beam):
            read = torch.from_numpy(history[None])
            with torch.no_grad():
                scores = score_in_slices(search, search.read(read), leaves)
            scores[:, read[0]] = -torch.inf
            best.append(torch.topk(scores[0], min(K, users.n_items)).indices.numpy())
        if best:
            write_npz(users.reference(length, search.beam), {"items": np.stack(best)})


def _scored(offsets: NDArray[np.int64], branching: int, beam: int) -> int:
    """Nodes that a search of this beam scores: the first level that is wide enough, then the children of what is kept."""
    widths = np.diff(offsets)
    start = int(np.argmax(np.append(widths[:-1] >= 2 * beam, True)))
    total = kept = int(widths[start])
    for _ in widths[start + 1 :]:
        kept = min(beam, kept) * branching
        total += kept
    return total


class Users:
    """Who is asked for, with histories of a length."""

    def __init__(self, folder: Path) -> None:
        self.about = read_json(folder / "about.json")
        self.n_items: int = self.about["items"]
        self.lengths: list[int] = self.about["lengths"]
        self._users, self._folder = Histories.load(folder / "users.npz"), folder

    def histories(self, length: int) -> list[NDArray[np.int64]]:
        """The newest of each; all of a trained model's users' own."""
        newest = None if self.about["data"] == TRAINED else -length
        return [self._users[user][newest:].astype(np.int64) for user in range(len(self._users))]

    def shared(self, beam: int) -> bool:
        """Whether the peers read users as a search of this beam does, through this tree."""
        return beam == BEAM and self.about["branching"] == BRANCHINGS[0]

    def references(self, length: int, beam: int) -> list[NDArray[np.int64]]:
        """Histories of those whom every item is scored for."""
        if self.about["data"] == TRAINED:
            return self.histories(length)
        count = REFERENCES.get(self.n_items, max(REFERENCES.values()))
        if self.shared(beam):
            count *= 1 + (length == LENGTH)
        elif self.n_items > BY_TORCH or (self.n_items > 10_000 and length != LENGTH):
            count = 0
        return self.histories(length)[:count]

    def reference(self, length: int, beam: int) -> Path:
        """Where their best items are."""
        return self._folder / f"best-{beam}-{length}.npz"

    def recall(self, length: int, beam: int, found: dict[int, NDArray[np.int64]]) -> float | None:
        """Share of the best items that is among those found (K,) for the same users; None where none of them was asked."""
        path = self.reference(length, beam)
        return recall(read_npz(path)["items"], found) if path.is_file() else None


def recall(best: NDArray[np.int64], found: dict[int, NDArray[np.int64]]) -> float | None:
    """Share of best (R, K) among the answers to the same users; None where none of them was asked."""
    shares = [np.isin(best[user], found[user]).mean() for user in range(len(best)) if user in found]
    return float(np.mean(shares)) if shares else None
