"""What a tree would lose by where it is grown: its bytes, what a killed run had done, the name of a vector that is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.compute import Engine, Shard, engine, tree_steps
from assets.compute import growing as growing_module
from assets.compute.growing import grown
from assets.compute.local import LocalEngine
from model.errors import BadInput, Corrupt
from model.files import read_npz, write_npz
from model.index_tree import IndexTree, TreeConfig, build_tree, check_tree
from model.neighbours import kept_in_subtree, nearest

N, IN_PARTS = 1500, TreeConfig(subtree_items=200, branching=4)
"""Eight sub-trees."""


def vectors(folder: Path, n: int = N, *, bad: int | None = None, seed: int = 0) -> Path:
    """`embeddings.npz` of n items in clumps; bad: the item whose vector is none."""
    rng = np.random.default_rng(seed)
    rows = 2 * rng.standard_normal((20, 16))[rng.integers(0, 20, n)] + rng.standard_normal((n, 16))
    if bad is not None:
        rows[bad, 3] = np.nan
    write_npz(folder / "embeddings.npz", {"embeddings": rows.astype(np.float32)})
    return folder / "embeddings.npz"


def tree_bytes(where: Engine, source: Path, config: TreeConfig, work: Path) -> bytes:
    target = work.parent / f"{work.name} tree.npz"
    grown(where, source, config, work=work, target=target)
    return target.read_bytes()


class Counting(LocalEngine):
    """Writes down the work that is asked for, and stops before the shard of a given number like a run that is killed."""

    def __init__(self, stop: int = -1) -> None:
        super().__init__(lambda line: None)
        self.asked, self._stop, self._done = list[tuple[str, int]](), stop, 0

    def each(self, make: Any, arguments: tuple[Any, ...], shards: Any, what: str) -> list[Shard]:
        self.asked.append((what, len(shards)))

        def counted(*given: Any) -> Any:
            work = make(*given)

            def one(shard: Shard) -> Shard:
                if self._done == self._stop:
                    raise KeyboardInterrupt
                self._done += 1
                return work(shard)

            return one

        return super().each(counted, arguments, shards, what)


@pytest.mark.parametrize("n", [2, 3, 200, 777])
def test_a_small_catalogue_is_one_task_and_the_tree_of_one_piece(tmp_path: Path, n: int) -> None:
    source, where, config = vectors(tmp_path, n), Counting(), TreeConfig(subtree_items=max(n, 2), seed=4)
    told = grown(where, source, config, work=tmp_path / "work", target=tmp_path / "tree.npz")
    rows = read_npz(source)["embeddings"]
    tree = build_tree(rows, config)
    tree.save(tmp_path / "expected.npz")
    assert (tmp_path / "tree.npz").read_bytes() == (tmp_path / "expected.npz").read_bytes()
    assert where.asked == [("index tree", 1)]
    assert not (tmp_path / "work").exists(), "nothing is copied"
    kept = kept_in_subtree(nearest(rows, min(10, n - 1))[0], tree.paths().T)
    assert told == {
        "depth": tree.depth,
        "nodes": tree.n_nodes,
        "items": n,
        "neighbours_kept_by_level": [round(float(share), 4) for share in kept],
    }


def test_one_item_is_a_tree(tmp_path: Path) -> None:
    told = grown(LocalEngine(), vectors(tmp_path, 1), TreeConfig(), work=tmp_path, target=tmp_path / "tree.npz")
    assert (told["depth"], told["nodes"], told["neighbours_kept_by_level"]) == (0, 1, [1.0])


def test_a_large_one_is_grown_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_module, "SHARD_ITEMS", 400)
    source, where = vectors(tmp_path), Counting()
    told = grown(where, source, IN_PARTS, work=tmp_path / "work", target=tmp_path / "tree.npz")
    assert where.asked == [
        ("top levels of the tree", 1),
        *[
            (what, n)
            for level in range(3)
            for what, n in ((f"projections of level {level}", 4), (f"halves of level {level}", 1))
        ],
        ("sub-trees", 8),
        ("index tree", 1),
    ]
    tree, whole = IndexTree.load(tmp_path / "tree.npz"), build_tree(read_npz(source)["embeddings"], IN_PARTS)
    report = check_tree(tree)
    assert report["passed"], report
    assert report["imbalance"] <= 1
    np.testing.assert_array_equal(tree.level_offsets, whole.level_offsets)
    assert (told["depth"], told["nodes"], told["items"]) == (whole.depth, whole.n_nodes, N)
    kept = kept_in_subtree(nearest(read_npz(source)["embeddings"], 10)[0], tree.paths().T)
    assert told["neighbours_kept_by_level"] == [round(float(share), 4) for share in kept]


def test_shards_of_any_size_give_the_same_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, found = vectors(tmp_path), set[bytes]()
    for size, rows in ((1 << 18, 1 << 14), (400, 7), (399, 400), (1499, 1)):
        monkeypatch.setattr(growing_module, "SHARD_ITEMS", size)
        monkeypatch.setattr(tree_steps, "_ROWS", rows)
        found.add(tree_bytes(LocalEngine(), source, IN_PARTS, tmp_path / f"of {size}"))
    assert len(found) == 1


@pytest.mark.parametrize("stop", [0, 1, 3, 5, 7, 15, 16, 20, 24])
def test_a_killed_run_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    monkeypatch.setattr(growing_module, "SHARD_ITEMS", 400)
    source, work = vectors(tmp_path), tmp_path / "work"
    expected = tree_bytes(LocalEngine(), source, IN_PARTS, tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        tree_bytes(Counting(stop), source, IN_PARTS, work)
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.npy")}
    assert tree_bytes(LocalEngine(), source, IN_PARTS, work) == expected
    after = {path: path.stat().st_mtime_ns for path in work.rglob("*.npy")}
    assert all(after[path] == then for path, then in before.items()), "what was there is not done again"
    assert not list(work.rglob("*.tmp"))


def test_parts_that_are_lost_are_made_again(tmp_path: Path) -> None:
    source, work = vectors(tmp_path), tmp_path / "work"
    expected = tree_bytes(LocalEngine(), source, IN_PARTS, work)
    for kind in ("grown-3", "along-1-0", "grown-*", "order-3", "order-[123]", "order-*"):
        for path in work.rglob(f"{kind}.npy"):
            path.unlink()
        assert tree_bytes(LocalEngine(), source, IN_PARTS, work) == expected, kind
    shutil.rmtree(work)
    assert tree_bytes(LocalEngine(), source, IN_PARTS, work) == expected


def test_parts_of_other_vectors_or_options_are_not_taken_for_these(tmp_path: Path) -> None:
    work = tmp_path / "work"
    first = tree_bytes(LocalEngine(), vectors(tmp_path), IN_PARTS, work)
    other = tree_bytes(LocalEngine(), vectors(tmp_path, seed=1), IN_PARTS, work)
    seeded = tree_bytes(LocalEngine(), vectors(tmp_path), TreeConfig(subtree_items=200, branching=4, seed=1), work)
    assert len({first, other, seeded}) == 3
    assert other == tree_bytes(LocalEngine(), vectors(tmp_path, seed=1), IN_PARTS, tmp_path / "of its own")


@pytest.mark.parametrize("subtree", [200, 4000])
def test_a_bad_vector_is_named_before_anything_is_grown(tmp_path: Path, subtree: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(tree_steps, "_ROWS", 100)
    source = vectors(tmp_path, bad=1234)
    with pytest.raises(BadInput, match="vector of item 1234 is not finite"):
        grown(LocalEngine(), source, TreeConfig(subtree_items=subtree), work=tmp_path / "w", target=tmp_path / "t.npz")
    assert not (tmp_path / "t.npz").exists()
    assert not list((tmp_path / "w").rglob("*.*"))


@pytest.mark.parametrize("subtree", [200, 4000])
@pytest.mark.parametrize("harm", ["cut", "changed", "other name"])
def test_a_torn_file_is_named(tmp_path: Path, harm: str, subtree: int) -> None:
    source = vectors(tmp_path)
    if harm == "other name":
        write_npz(source, {"vectors": read_npz(source)["embeddings"]})
    else:
        data = bytearray(source.read_bytes())
        data[5000] ^= 255
        source.write_bytes(data[:9000] if harm == "cut" else data)
    with pytest.raises(Corrupt, match=r"embeddings\.npz is .*run `miss materialize` again"):
        grown(LocalEngine(), source, TreeConfig(subtree_items=subtree), work=tmp_path / "w", target=tmp_path / "t.npz")


def test_vectors_column_by_column_or_in_another_type_are_the_same_ones(tmp_path: Path) -> None:
    source = vectors(tmp_path)
    expected, rows = tree_bytes(LocalEngine(), source, IN_PARTS, tmp_path / "w"), read_npz(source)["embeddings"]
    for number, other in enumerate((np.asfortranarray(rows), rows.astype(np.float64), rows.astype(">f4"))):
        write_npz(source, {"embeddings": other})
        assert tree_bytes(LocalEngine(), source, IN_PARTS, tmp_path / str(number)) == expected


def test_of_many_items_some_tell_how_many_neighbours_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = vectors(tmp_path), tmp_path / "tree.npz"
    whole = grown(LocalEngine(), source, IN_PARTS, work=tmp_path, target=target)
    assert "neighbours_among" not in whole
    monkeypatch.setattr(tree_steps, "MEASURED_ITEMS", 1000)
    some = grown(LocalEngine(), source, IN_PARTS, work=tmp_path, target=target)
    assert some["neighbours_among"] == 1000
    assert some == grown(LocalEngine(), source, IN_PARTS, work=tmp_path, target=target)
    np.testing.assert_allclose(some["neighbours_kept_by_level"], whole["neighbours_kept_by_level"], atol=0.1)


@pytest.mark.ray
@pytest.mark.parametrize("config", [TreeConfig(), IN_PARTS], ids=["one piece", "in parts"])
def test_on_a_cluster_it_is_the_same_tree(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: TreeConfig
) -> None:
    monkeypatch.setattr(growing_module, "SHARD_ITEMS", 400)
    source, on_ray = vectors(tmp_path), engine("ray", lambda line: None)
    by_ray = tree_bytes(on_ray, source, config, tmp_path / "ray")
    assert by_ray == tree_bytes(LocalEngine(), source, config, tmp_path / "one")
    assert on_ray.used()["workers"] >= 1


@pytest.mark.ray
def test_on_a_cluster_a_bad_vector_is_named_too(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="vector of item 1234 is not finite"):
        tree_bytes(engine("ray"), vectors(tmp_path, bad=1234), IN_PARTS, tmp_path / "ray")
