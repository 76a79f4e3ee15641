"""A user would lose: an index that forgets items, answers by its company, or is slower than scoring everything."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import BadInput
from model.hnsw import HNSW


def popular(items: int, dim: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Item vectors (items, dim + 1) in 40 groups, of different lengths and with a bias, and 100 queries near groups."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, dim))
    vectors = centres[rng.integers(0, 40, items)] + 0.5 * rng.standard_normal((items, dim))
    vectors *= rng.lognormal(0, 0.3, (items, 1))
    queries = centres[rng.integers(0, 40, 100)] + 0.5 * rng.standard_normal((100, dim))
    bias = rng.normal(0, 1, (items, 1))
    both = np.concatenate([vectors, bias], axis=1), np.concatenate([queries, np.ones((100, 1))], axis=1)
    return both[0].astype(np.float32), both[1].astype(np.float32)


def brute_force(
    vectors: np.ndarray, queries: np.ndarray, k: int, exclude: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: every product, sorted; ties to the lower item."""
    scores = (queries[:, None, :].astype(np.float64) * vectors).sum(-1)
    for row, gone in enumerate(exclude):
        scores[row, [item for item in gone if 0 <= item < len(vectors)]] = -np.inf
    items = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, items, axis=1)
    return np.where(np.isneginf(best), -1, items), best


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_small_catalogue_is_answered_exactly(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    k = data.draw(st.integers(1, n))
    # whole numbers: equal products are equal in every arithmetic, so that ties are tested too
    vectors = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-2, 3, (n, 3)).astype(np.float32)
    queries = np.array(data.draw(st.lists(st.tuples(*[st.integers(-2, 2)] * 3), max_size=4)), np.float32).reshape(-1, 3)
    exclude = [np.array(data.draw(st.lists(st.integers(-2, n + 2))), np.int64) for _ in queries]
    items, scores = HNSW(vectors).search(queries, k, exclude)
    wanted, best = brute_force(vectors, queries, k, exclude)
    np.testing.assert_array_equal(items, wanted)
    np.testing.assert_allclose(scores, best, atol=1e-5)
    assert (items.dtype, scores.dtype) == (np.int64, np.float32)


@pytest.fixture(scope="module")
def graph() -> tuple[HNSW, np.ndarray, np.ndarray]:
    vectors, queries = popular(3000)
    return HNSW(vectors, ef_search=128), vectors, queries


def test_the_graph_finds_nearly_all_and_only_what_is_left(graph: tuple[HNSW, np.ndarray, np.ndarray]) -> None:
    index, vectors, queries = graph
    everything = brute_force(vectors, queries, 200, [np.zeros(0, np.int64)] * 100)[0]
    exclude = [np.concatenate([best[::2], [-1, 3000, best[0]]]) for best in everything]  # every other one, sloppily
    items, scores = index.search(queries, 50, exclude)
    wanted = brute_force(vectors, queries, 50, exclude)[0]
    assert np.mean([len(np.intersect1d(a, b)) / 50 for a, b in zip(items, wanted, strict=True)]) > 0.98
    assert (items >= 0).all()
    assert (np.diff(scores) <= 0).all()
    for row, gone in enumerate(exclude):
        assert not np.isin(items[row], gone).any()
        assert len(set(items[row].tolist())) == 50
    np.testing.assert_allclose(scores, np.einsum("bnd,bd->bn", vectors[items], queries), rtol=1e-5, atol=1e-5)


def test_an_answer_does_not_depend_on_its_company(graph: tuple[HNSW, np.ndarray, np.ndarray]) -> None:
    index, _, queries = graph
    exclude = [np.arange(row * 29) for row in range(100)]  # from nothing to nearly everything
    items, scores = index.search(queries, 20, exclude)
    for row in range(0, 100, 7):
        alone, score = index.search(queries[row : row + 1], 20, exclude[row : row + 1])
        assert alone[0].tolist() == items[row].tolist()
        np.testing.assert_array_equal(score[0], scores[row])


def test_what_the_graph_cannot_reach_is_found_all_the_same() -> None:
    """Nearly as many asked for as there are, of copies of one vector that the graph links badly."""
    vectors = np.repeat(popular(6)[0], 100, axis=0)
    index = HNSW(vectors, links=2, ef_construction=2, ef_search=4)
    items, _ = index.search(popular(6)[1], 250, [np.arange(5)] * 100)
    assert all(len(set(row)) == 250 for row in items.tolist())
    assert items.min() >= 5
    items, scores = index.search(popular(6)[1], 600, [np.arange(5)] * 100)
    assert (np.sort(items, axis=1)[:, 5:] == np.arange(5, 600)).all()
    assert (items[:, -5:] == -1).all()
    assert np.isneginf(scores[:, -5:]).all()


def test_same_vectors_same_graph_and_the_threads_of_the_process_are_left_alone() -> None:
    vectors, queries = popular(1500)
    before = faiss.omp_get_max_threads()
    bytes_, answers = set(), []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        index = HNSW(vectors, ef_search=64)
        answers.append(index.search(queries, 30, [np.arange(9)] * 100))
        assert faiss.omp_get_max_threads() == threads
        bytes_.add(faiss.serialize_index(index._index).tobytes())
    faiss.omp_set_num_threads(before)
    assert len(bytes_) == 1
    for a, b in zip(*answers, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nonsense_is_refused() -> None:
    vectors, queries = popular(20)
    index, nothing = HNSW(vectors), [np.zeros(0, np.int64)] * 100
    for k in (0, 21):
        with pytest.raises(BadInput, match=f"k = {k} is out of range"):
            index.search(queries, k, nothing)
    with pytest.raises(BadInput, match=r"shape \(100, 16\)"):
        index.search(queries[:, :16], 1, nothing)
    with pytest.raises(BadInput, match="3 exclusions"):
        index.search(queries, 1, nothing[:3])
    broken = vectors.copy()
    broken[4, 2] = np.nan
    with pytest.raises(BadInput, match="row 4 of the vectors"):
        HNSW(broken)
    with pytest.raises(BadInput, match="at least one vector"):
        HNSW(vectors[:0])
    with pytest.raises(BadInput, match="links = 1"):
        HNSW(vectors, links=1)
