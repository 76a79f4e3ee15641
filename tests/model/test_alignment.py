"""Aligned embeddings bring together what people take together, also where content is missing or no one has come yet."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from model.alignment import AlignmentConfig, align, cooccurrence_share, embed
from model.alignment_training import Head
from model.errors import BadInput
from model.files import read_npz, write_npz
from model.item_pairs import ItemPairs

CONFIG = AlignmentConfig(dim=16, width=32, epochs=25, batch=128, text_components=32, image_components=32)
GROUPS, EACH = 12, 12
N = GROUPS * EACH


def pairs_of(edges: list[tuple[int, int]], n_items: int) -> ItemPairs:
    edges = sorted(edges)
    source, target = (np.array([edge[side] for edge in edges], np.int32) for side in (0, 1))
    return ItemPairs(source=source, target=target, weight=np.ones(len(edges), np.float32), n_items=n_items)


@dataclass
class Planted:
    """Groups that behavior shows and content shows only in four weak coordinates under strong, unrelated ones."""

    text: np.ndarray
    image: np.ndarray
    group: np.ndarray
    pairs: ItemPairs
    has: np.ndarray

    def arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.text, self.has, self.image, self.has


@pytest.fixture(scope="module")
def planted() -> Planted:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(GROUPS), EACH)

    def content(width: int) -> np.ndarray:
        noise = rng.normal(size=(N, width))
        noise[:, :4] = rng.normal(size=(GROUPS, 4))[group] + 0.1 * rng.normal(size=(N, 4))
        return noise.astype(np.float32)

    edges = [(i, j) for i, j in itertools.permutations(range(N), 2) if group[i] == group[j]]
    return Planted(text=content(24), image=content(40), group=group, pairs=pairs_of(edges, N), has=np.ones(N, bool))


def test_planted_groups_are_found(planted: Planted) -> None:
    result = align(*planted.arguments(), planted.pairs, CONFIG, progress=False)
    assert result.embeddings.shape == (N, 16)
    assert result.embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(result.embeddings, axis=1), 1, atol=1e-5)
    assert result.metrics["method"] == "infonce"
    assert result.metrics["share_after"] > 0.75  # of 11 group members 10 can be among 10 nearest: at most .91
    assert result.metrics["share_before"] < 0.4
    assert result.metrics["loss"][-1] < result.metrics["loss"][0]


def test_a_new_item_lands_in_its_group_by_content_alone(planted: Planted) -> None:
    result = align(*planted.arguments(), planted.pairs, replace(CONFIG, cold_items=0.1), progress=False)
    assert result.metrics["share_cold_after"] > 2 * result.metrics["share_cold_before"]
    assert result.metrics["share_cold_after"] > 5 * result.metrics["share_uniform"]


def test_the_machine_and_its_settings_do_not_show_in_the_bytes() -> None:
    """A run by a schedule that sets OMP_NUM_THREADS makes what a run by hand made, and trains nothing again."""
    rng = np.random.default_rng(0)
    text, image = (rng.standard_normal((1500, width)).astype(np.float32) for width in (384, 640))
    there = np.ones(len(text), bool)
    pairs = pairs_of([(i, (i + 1) % len(text)) for i in range(len(text))], len(text))
    made = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            made.append(align(text, there, image, there, pairs, replace(CONFIG, epochs=1), progress=False))
    assert made[0].embeddings.tobytes() == made[1].embeddings.tobytes()
    assert {name: array.tobytes() for name, array in made[0].state.items()} == {
        name: array.tobytes() for name, array in made[1].state.items()
    }


def test_same_seed_same_bytes_and_torch_is_left_as_it_was(planted: Planted) -> None:
    config = replace(CONFIG, epochs=3, hard_negatives=4)
    threads, draw = torch.get_num_threads(), torch.random.get_rng_state()
    first, again = (align(*planted.arguments(), planted.pairs, config, progress=False) for _ in range(2))
    assert first.embeddings.tobytes() == again.embeddings.tobytes()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), draw)
    other = align(*planted.arguments(), planted.pairs, replace(config, seed=1), progress=False)
    assert not np.allclose(first.embeddings, other.embeddings)


def test_saved_state_embeds_as_training_did_one_by_one_and_as_torch(planted: Planted, tmp_path: Path) -> None:
    has_text, has_image = planted.has.copy(), planted.has.copy()
    has_text[:20], has_image[15:40] = False, False
    arguments = (planted.text, has_text, planted.image, has_image)
    result = align(*arguments, planted.pairs, replace(CONFIG, epochs=3), progress=False)
    write_npz(tmp_path / "state.npz", result.state)
    state = read_npz(tmp_path / "state.npz")
    whole = embed(state, *arguments)
    bare = ~has_text & ~has_image
    np.testing.assert_array_equal(whole[~bare], result.embeddings[~bare])
    single = np.concatenate([embed(state, *(part[i : i + 1] for part in arguments)) for i in range(0, N, 7)])
    np.testing.assert_allclose(single, whole[::7], atol=1e-5)

    from model.features import features

    T, V = features(state, "text", planted.text, has_text), features(state, "image", planted.image, has_image)
    head = Head(T.shape[1], V.shape[1], CONFIG).eval()
    head.load_state_dict({name: torch.from_numpy(state[name]) for name in head.state_dict()})
    with torch.no_grad():
        by_torch = head(*(torch.from_numpy(part) for part in (T, has_text, V, has_image))).numpy()
    np.testing.assert_allclose(by_torch, whole, atol=1e-5)


def test_one_modality_is_enough_and_absent_rows_are_never_read(planted: Planted) -> None:
    has_text, has_image = planted.has.copy(), planted.has.copy()
    has_text[::3], has_image[1::3] = False, False
    poisoned_text = np.where(has_text[:, None], planted.text, np.nan).astype(np.float32)
    poisoned_image = np.where(has_image[:, None], planted.image, np.inf).astype(np.float32)
    result = align(poisoned_text, has_text, poisoned_image, has_image, planted.pairs, CONFIG, progress=False)
    assert np.isfinite(result.embeddings).all()
    assert result.metrics["share_after"] > 0.6


def test_an_item_without_content_stands_among_its_partners(planted: Planted) -> None:
    has = planted.has.copy()
    has[[5, 77]] = False
    result = align(planted.text, has, planted.image, has, planted.pairs, CONFIG, progress=False)
    assert result.metrics["from_partners"] == 2
    assert result.metrics["without_content"] == 2
    for item in (5, 77):
        near = np.argsort(-(result.embeddings @ result.embeddings[item]))[1:6]
        assert (planted.group[near] == planted.group[item]).mean() >= 0.8


def test_a_catalogue_without_one_modality_aligns_by_the_other(planted: Planted) -> None:
    none = np.zeros(N, bool)
    arguments = (planted.text, planted.has, np.zeros((N, 40), np.float32), none)
    result = align(*arguments, planted.pairs, CONFIG, progress=False)
    assert result.metrics["share_after"] > 0.6


@pytest.mark.parametrize("size", [1, 2, 3, 30])
@pytest.mark.parametrize("content", [True, False])
def test_tiny_catalogues_and_no_pairs_fall_back_to_content_and_say_so(size: int, content: bool) -> None:
    rng = np.random.default_rng(3)
    text, image = rng.normal(size=(size, 12)).astype(np.float32), rng.normal(size=(size, 9)).astype(np.float32)
    has = np.full(size, content)
    result = align(text, has, image, has, pairs_of([], size), CONFIG, progress=False)
    assert result.metrics["method"] == "content_pca"
    assert result.metrics["reason"] in ("no item-to-item pairs", "fewer than three items")
    np.testing.assert_allclose(np.linalg.norm(result.embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(embed(result.state, text, has, image, has), result.embeddings)
    if content and size == 30:
        assert np.linalg.matrix_rank(result.embeddings) > 5


@pytest.mark.parametrize("size", [2, 3, 5])
def test_one_pair_is_enough_to_train(size: int) -> None:
    rng = np.random.default_rng(4)
    text = rng.normal(size=(size, 12)).astype(np.float32)
    has = np.ones(size, bool)
    result = align(text, has, text, has, pairs_of([(0, 1), (1, 0)], size), CONFIG, progress=False)
    assert np.isfinite(result.embeddings).all()
    assert result.metrics["method"] == ("content_pca" if size < 3 else "infonce")


def test_bad_vectors_and_options_are_refused(planted: Planted) -> None:
    broken = planted.text.copy()
    broken[3, 3] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        align(broken, planted.has, planted.image, planted.has, planted.pairs, CONFIG, progress=False)
    with pytest.raises(BadInput, match="do not fit"):
        align(planted.text[1:], planted.has, planted.image, planted.has, planted.pairs, CONFIG, progress=False)
    state = align(*planted.arguments(), pairs_of([], N), CONFIG, progress=False).state
    with pytest.raises(BadInput, match="the head was made for 24"):
        embed(state, planted.image, planted.has, planted.image, planted.has)
    for bad in ({"dim": 0}, {"temperature": 0.0}, {"modality_dropout": 0.9}, {"batch": 1}):
        with pytest.raises(BadInput):
            replace(CONFIG, **bad)  # type: ignore[arg-type]


def test_share_equals_brute_force() -> None:
    from scipy import sparse

    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    mass = np.triu(rng.poisson(0.3, size=(40, 40)), 1).astype(np.float32)
    mass += mass.T
    mass[7], mass[:, 7] = 0, 0  # an item without any mass is not averaged over
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    shares = [mass[i, np.argsort(-scores[i])[:10]].sum() / mass[i].sum() for i in range(40) if mass[i].sum()]
    assert cooccurrence_share(vectors, sparse.csr_matrix(mass)) == pytest.approx(np.mean(shares), abs=1e-6)
    assert cooccurrence_share(vectors, sparse.csr_matrix((40, 40))) == 0
