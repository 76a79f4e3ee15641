"""What a large catalogue would lose by being grown in parts: balance, neighbours, and the tree it would have been."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import BadInput
from model.halving import drawn_order, halve
from model.index_tree import IndexTree, TreeConfig, build_tree, check_tree, tree_from_order
from model.neighbours import kept_in_subtree, nearest
from model.tree_shards import (
    cluster_of,
    cluster_starts,
    projections,
    sample_size,
    subtree_order,
    top_directions,
    top_levels,
)


def vectors_of(n: int, seed: int, *, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def planted(n: int, seed: int, *, clumps: int, dim: int = 32) -> np.ndarray:
    """Clumps of items, in regions of clumps."""
    rng = np.random.default_rng(seed)
    regions = 1.5 * rng.standard_normal((max(clumps // 20, 1), dim), dtype=np.float32)
    centres = regions[rng.integers(0, len(regions), clumps)] + rng.standard_normal((clumps, dim), dtype=np.float32)
    return centres[rng.integers(0, clumps, n)] + 0.5 * rng.standard_normal((n, dim), dtype=np.float32)


def in_parts(vectors: np.ndarray, config: TreeConfig, *, sample: int | None = None) -> IndexTree:
    """The tree in parts, without files."""
    n = len(vectors)
    levels = top_levels(n, config.subtree_items)
    order = drawn_order(n, config.seed)
    rows = order[: sample or sample_size(n, levels)]
    starts = cluster_starts(n, 0)
    for directions in top_directions(vectors[rows], levels, config):
        along = projections(vectors, directions, cluster_of(order, starts))
        order, starts = halve(order, starts, along[order])
    parts = [order[begin:end] for begin, end in itertools.pairwise(starts)]
    grown = [part[subtree_order(vectors[part], levels, config)] for part in parts]
    return tree_from_order(np.concatenate(grown), vectors, config)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 150), st.sampled_from([2, 4, 8]), st.integers(0, 5), st.booleans())
def test_with_no_top_level_it_is_the_tree_of_one_piece(n: int, branching: int, seed: int, same: bool) -> None:
    vectors = np.repeat(vectors_of(1, seed), n, axis=0) if same else vectors_of(n, seed)
    config = TreeConfig(branching=branching, seed=seed)
    whole, parts = build_tree(vectors, config), in_parts(vectors, config)
    for name in IndexTree.__dataclass_fields__:
        found, expected = getattr(parts, name), getattr(whole, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize(("n", "branching"), [(1, 2), (2, 8), (777, 2), (777, 4), (777, 8), (20_000, 2)])
def test_with_no_top_level_the_files_have_the_same_bytes(n: int, branching: int, tmp_path: Path) -> None:
    vectors, config = vectors_of(n, 3), TreeConfig(branching=branching)
    build_tree(vectors, config).save(tmp_path / "whole.npz")
    in_parts(vectors, config).save(tmp_path / "parts.npz")
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "parts.npz").read_bytes()


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 300),
    st.integers(2, 40),
    st.sampled_from([2, 4, 8]),
    st.integers(0, 5),
    st.sampled_from(["any", "same", "pairs"]),
    st.booleans(),
)
def test_in_parts_the_tree_has_the_shape_of_one_piece(
    n: int, subtree: int, branching: int, seed: int, kind: str, small: bool
) -> None:
    vectors = {
        "any": vectors_of(n, seed),
        "same": np.repeat(vectors_of(1, seed), n, axis=0),
        "pairs": np.repeat(vectors_of(n, seed), 2, axis=0)[:n],
    }[kind]
    config = TreeConfig(branching=branching, subtree_items=subtree, seed=seed)
    sample = max(n // 3, 4 << top_levels(n, subtree)) if small else n
    whole, parts = build_tree(vectors, config), in_parts(vectors, config, sample=min(sample, n))
    report = check_tree(parts)
    assert report["passed"], report
    assert report["imbalance"] <= 1
    for name in ("level_offsets", "parent", "children"):  # shape follows from the number of items
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)


@given(st.integers(1, 10**10), st.integers(2, 1 << 21))
def test_as_few_levels_as_will_do(n: int, subtree: int) -> None:
    levels = top_levels(n, subtree)
    assert -(-n // 2**levels) <= subtree
    assert levels == 0 or -(-n // 2 ** (levels - 1)) > subtree
    assert n // 2**levels >= 1, "no cluster is empty"
    assert sample_size(n, levels) == n or sample_size(n, levels) >= 1024 * 2**levels


@given(st.integers(1, 5000), st.integers(0, 9))
def test_where_clusters_begin_follows_from_the_number_of_items(n: int, levels: int) -> None:
    sizes = [n]
    for _ in range(levels):
        sizes = [half for size in sizes for half in ((size + 1) // 2, size // 2) if half]
    np.testing.assert_array_equal(cluster_starts(n, levels), np.concatenate([[0], np.cumsum(sizes)]))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 2**31))
def test_halves_are_those_of_a_sort(sizes: list[int], kinds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    order = rng.permutation(sum(sizes))
    along = rng.integers(0, kinds, len(order)).astype(np.float32)  # many are equal
    found, halves = halve(order, starts, along)
    expected, counts = list[int](), list[int]()
    for begin, end in itertools.pairwise(starts.tolist()):
        ranked = sorted(range(begin, end), key=lambda place: (-along[place], place))
        left = ranked[: (end - begin + 1) // 2]
        for half in (sorted(left), sorted(set(ranked) - set(left))):
            expected += [order[place] for place in half]
            counts += [len(half)] if half else []
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.diff(halves), counts)


def test_a_projection_is_the_items_own_whatever_part_it_comes_in() -> None:
    vectors, directions = vectors_of(9000, 1, dim=64), vectors_of(4, 2, dim=64)
    cluster = np.random.default_rng(3).integers(0, 4, 9000).astype(np.int32)
    whole = projections(vectors, directions, cluster)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(whole, (unit * directions[cluster]).sum(axis=1), atol=1e-5)
    for part in (1, 7, 64, 1000, 8999):
        cuts = [slice(begin, begin + part) for begin in range(0, 9000, part)][:200]
        parts = [projections(vectors[cut], directions, cluster[cut]) for cut in cuts]
        np.testing.assert_array_equal(np.concatenate(parts), whole[: cuts[-1].stop])


def test_items_alike_are_not_put_together_by_their_numbers() -> None:
    """Numbers often follow the logs: among 64 items of one content, chance makes 1 of 63 pairs neighbours."""
    vectors = np.repeat(np.eye(8, dtype=np.float32), 64, axis=0)
    tree = in_parts(vectors, TreeConfig(subtree_items=20))
    items = np.sort(tree.leaf_item[tree.children[tree.nodes(tree.depth - 1)]], axis=1)
    assert (items // 64 == items[:, :1] // 64).all(), "content still decides"
    assert (items[:, 1] - items[:, 0] == 1).mean() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sample", "lost"), [("planted", None, 0.01), ("planted", 2048, 0.01), ("no structure", 2048, 0.02)]
)
def test_neighbours_stay_together_as_in_one_piece(kind: str, sample: int | None, lost: float) -> None:
    """20,000 items in 32 parts: at no level is a share `lost` that the tree of one piece keeps.

    Measured, the worst level (2026-11-30): planted, all items the sample: .0007; planted, 2048, which is 64 a part where 1,024 are
    the least otherwise: .0074; no structure, 2048: .0157, of the .18 that are kept there.
    """
    vectors = planted(20_000, 0, clumps=400) if kind == "planted" else vectors_of(20_000, 0, dim=32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    neighbours, _ = nearest(vectors, 10)
    config = TreeConfig(subtree_items=700)
    whole = kept_in_subtree(neighbours, build_tree(vectors, config).paths().T)
    parts = kept_in_subtree(neighbours, in_parts(vectors, config, sample=sample).paths().T)
    print(f"{kind}, sample {sample}: one piece {whole.round(4).tolist()}, in parts {parts.round(4).tolist()}")
    assert (parts >= whole - lost).all()


def test_a_vector_that_is_not_finite_is_named() -> None:
    vectors = vectors_of(10, 0)
    vectors[7, 2] = np.inf
    with pytest.raises(BadInput, match="item 107 is not finite"):
        projections(vectors, vectors_of(1, 1), np.zeros(10, dtype=np.int32), first=100)
    with pytest.raises(BadInput, match="subtree_items = 1"):
        TreeConfig(subtree_items=1)
