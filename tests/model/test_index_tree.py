"""A user would lose: items that no search can reach, or neighbours torn apart for nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import BadInput
from model.files import digest_file
from model.index_tree import IndexTree, TreeConfig, build_tree, check_tree, insert_items


def _vectors(n: int, seed: int = 0, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.sampled_from([2, 4, 8]), st.integers(0, 5), st.booleans())
def test_every_item_has_one_leaf_and_clusters_are_balanced(n: int, branching: int, seed: int, same: bool) -> None:
    vectors = np.repeat(_vectors(1, seed), n, axis=0) if same else _vectors(n, seed)
    tree = build_tree(vectors, TreeConfig(branching=branching))
    report = check_tree(tree)
    assert report["passed"], report
    assert report["imbalance"] <= 1
    assert tree.depth == int(np.ceil(round(np.log(n) / np.log(branching), 9)))
    assert sorted(tree.leaf_item[tree.leaf_item >= 0]) == list(range(n))
    assert np.array_equal(tree.paths()[:, -1], tree.item_leaf)


def test_node_vectors_are_the_means_of_their_items() -> None:
    vectors = _vectors(37)
    tree = build_tree(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = tree.paths()
    for node in range(tree.n_nodes):
        mean = unit[(paths == node).any(axis=1)].sum(axis=0)
        np.testing.assert_allclose(tree.z[node], mean / np.linalg.norm(mean), atol=1e-5)


def test_planted_clusters_stay_whole() -> None:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((16, 32)) * 3
    group = np.repeat(np.arange(16), 8)
    rng.shuffle(group)
    tree = build_tree((centres[group] + 0.1 * rng.standard_normal((128, 32))).astype(np.float32))
    nodes = tree.paths()[:, 4]  # 16 nodes of 8 items
    whole = [len(set(nodes[group == g])) == 1 for g in range(16)]
    assert np.mean(whole) >= 0.75, "a tree over well-separated groups should not cut through them"


def test_same_vectors_same_bytes_whatever_the_thread_count(tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np; from pathlib import Path; from model.index_tree import build_tree;"
        "build_tree(np.random.default_rng(0).standard_normal((3000, 64)).astype('float32')).save(Path(sys.argv[1]))"
    )
    digests = set()
    for threads in ("1", "2"):
        path = tmp_path / f"{threads}.npz"
        subprocess.run(
            [sys.executable, "-c", program, path],
            check=True,
            env={"OMP_NUM_THREADS": threads, "PATH": ""},
            cwd=Path.cwd(),
        )
        digests.add(digest_file(path))
    assert len(digests) == 1
    assert check_tree(IndexTree.load(path))["passed"]


def test_new_items_are_attached_near_their_like_and_move_nobody() -> None:
    vectors = _vectors(100, dim=16)
    tree = build_tree(vectors)
    grown = insert_items(tree, vectors[:5] + 0.01)
    assert check_tree(grown)["passed"]
    assert np.array_equal(grown.item_leaf[:100], tree.item_leaf)
    assert np.array_equal(grown.parent[: tree.n_nodes], tree.parent)
    assert np.array_equal(grown.z[: tree.n_nodes], tree.z)
    assert grown.n_items == 105
    # the first of them found a free leaf as near to its twin as any free place was
    free = tree.nodes(tree.depth - 1)
    free = free[(tree.children[free] < 0).any(axis=1)]
    place = grown.parent[grown.item_leaf[100]]
    unit = (vectors[0] + 0.01) / np.linalg.norm(vectors[0] + 0.01)
    assert place == free[np.argmax(tree.z[free] @ unit)]


def test_a_full_tree_says_so() -> None:
    with pytest.raises(BadInput, match="0 free leaves; rebuild"):
        insert_items(build_tree(_vectors(64)), _vectors(1))


def test_bad_vectors_are_named() -> None:
    vectors = _vectors(10)
    vectors[7, 2] = np.nan
    with pytest.raises(BadInput, match="item 7"):
        build_tree(vectors)
    with pytest.raises(BadInput, match="at least one item"):
        build_tree(np.zeros((0, 4), np.float32))
    with pytest.raises(BadInput, match="branching = 3"):
        TreeConfig(branching=3)


@pytest.mark.parametrize("harm", ["leaf", "parent", "vector"])
def test_check_finds_harm(harm: str) -> None:
    tree = build_tree(_vectors(20))
    if harm == "leaf":
        item_leaf = tree.item_leaf.copy()
        item_leaf[3] = item_leaf[4]
        tree = replace(tree, item_leaf=item_leaf)
    elif harm == "parent":
        parent = tree.parent.copy()
        parent[-1] = 0
        tree = replace(tree, parent=parent)
    else:
        z = tree.z.copy()
        z[5] = np.nan
        tree = replace(tree, z=z)
    assert not check_tree(tree)["passed"]


def test_items_alike_are_not_put_together_by_their_numbers() -> None:
    """Numbers often follow the logs; among 64 items of one content, chance puts each next to its neighbour in 1 of 63 pairs."""
    vectors = np.repeat(np.eye(8, dtype=np.float32), 64, axis=0)
    tree = build_tree(vectors)
    pairs = tree.children[tree.nodes(tree.depth - 1)]
    items = np.sort(tree.leaf_item[pairs], axis=1)
    assert (items // 64 == items[:, :1] // 64).all(), "content still decides"
    assert (items[:, 1] - items[:, 0] == 1).mean() < 0.1
    np.testing.assert_array_equal(build_tree(vectors).leaf_item, tree.leaf_item)
