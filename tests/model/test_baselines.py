"""A user would lose: a floor under the model that can be trusted. Each baseline keeps the contract and its formula."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from planted import ring_vectors
from retriever_contract import N_ITEMS, NOTHING, RetrieverContract, SavedRetrieverContract, histories, ring_train
from test_scorer import make_model

from model.baselines import EASE, EASEConfig, ItemKNN, ItemKNNConfig, Popularity, _dense, ease, item_knn
from model.errors import BadInput, Corrupt
from model.evaluation import evaluate
from model.histories import Histories, leave_one_out
from model.index_tree import build_tree
from model.retriever import Retriever
from model.tree_retriever import TreeRetriever


def as_histories(rows: list[list[int]], n_items: int) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Histories(
        offsets=offsets, items=np.array([item for row in rows for item in row], dtype=np.int32), n_items=n_items
    )


def walks(items: int = 30, length: int = 5) -> Histories:
    """One user per item who walks on from it: pairs at distance d stand together in length - d histories."""
    return as_histories([[(start + step) % items for step in range(length)] for start in range(items)], items)


@pytest.fixture(scope="module")
def tree_retriever() -> TreeRetriever:
    tree = build_tree(ring_vectors(N_ITEMS))
    return TreeRetriever(make_model(tree), tree, beam=N_ITEMS)


class TestPopularityContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        return Popularity.fit(ring_train())


class TestItemKNNContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        return ItemKNN.fit(ring_train())


class TestWindowedItemKNNContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        return ItemKNN.fit(ring_train(), ItemKNNConfig(window=3, neighbours=5))


class TestEASEContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        return EASE.fit(ring_train(), EASEConfig(regularization=10.0))


class TestTreeContract(RetrieverContract):
    @pytest.fixture
    def retriever(self, tree_retriever: TreeRetriever) -> Retriever:
        return tree_retriever


def test_popularity_counts_and_ties_go_to_the_lower_index() -> None:
    retriever = Popularity.fit(as_histories([[4, 1, 2, 1], [0, 2, 1], [0, 4, 2]], 6))
    items, scores = retriever.recommend([NOTHING, np.array([1, 4])], 6)
    assert items.tolist() == [[1, 2, 0, 4, 3, 5], [2, 0, 3, 5, -1, -1]]
    assert scores[0].tolist() == [3, 3, 2, 2, 0, 0]
    for k in range(1, 6):
        assert retriever.recommend([NOTHING], k)[0][0].tolist() == items[0][:k].tolist()


@pytest.mark.parametrize("block", [7, 1024])
def test_ease_is_the_closed_form(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dense, "BLOCK_ROWS", block)
    monkeypatch.setattr(ease, "BLOCK_ROWS", block)
    train, n = ring_train(), N_ITEMS
    x = np.zeros((len(train), n))
    for user in range(len(train)):
        x[user, train[user]] = 1
    inverse = np.linalg.inv(x.T @ x + 20 * np.eye(n))
    wanted = -inverse / np.diag(inverse)[None, :]
    wanted[np.diag_indices(n)] = 0
    retriever = EASE.fit(train, EASEConfig(regularization=20.0))
    np.testing.assert_allclose(retriever.weights, wanted, atol=1e-5)
    history = np.array([3, 4, 8, 3])
    items, scores = retriever.recommend([history], 1, exclude=[history])
    total = wanted[[3, 4, 8]].sum(axis=0)
    total[history] = -np.inf
    assert items[0, 0] == total.argmax()
    assert scores[0, 0] == pytest.approx(total.max(), abs=1e-5)


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_item_knn_is_its_formula(block: int, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dense, "BLOCK_ROWS", block)
    train, n = ring_train(), N_ITEMS
    x = np.zeros((len(train), n))
    for user in range(len(train)):
        x[user, train[user]] = 1
    together, had = x.T @ x, x.sum(axis=0)
    similar = together / (np.sqrt(np.outer(had, had)) + 4)
    np.fill_diagonal(similar, 0)
    retriever = ItemKNN.fit(train, ItemKNNConfig(shrink=4, decay=decay))
    items, scores = retriever.recommend([np.array([9, 2, 30, 2])], n)
    wanted = similar[2] + decay * similar[30] + decay**3 * similar[9]  # an item counts where it stood last
    for item, score in zip(items[0], scores[0], strict=True):
        if item >= 0 and wanted[item] > 0:
            assert score == pytest.approx(wanted[item], rel=1e-5)
        elif item >= 0:
            assert score < 0, "no neighbour in the history: in the order of popularity, behind all others"


@pytest.mark.parametrize("window", [None, 2])
def test_item_knn_walks_on_along_the_ring(window: int | None) -> None:
    retriever = ItemKNN.fit(walks(), ItemKNNConfig(window=window))
    users = [np.array([start, start + 1, start + 2]) % 30 for start in range(30)]
    assert retriever.recommend(users, 1)[0][:, 0].tolist() == [(start + 3) % 30 for start in range(30)]


def test_item_knn_keeps_the_nearest_of_many_neighbours() -> None:
    retriever = ItemKNN.fit(walks(), ItemKNNConfig(neighbours=2))
    items, scores = retriever.recommend([np.array([10])], 3)
    assert set(items[0][:2].tolist()) == {9, 11}
    assert (scores[0] > 0).tolist() == [True, True, False]


@pytest.mark.parametrize("make", [ItemKNN.fit, EASE.fit])
def test_who_says_nothing_gets_what_is_popular(make: type) -> None:
    train = as_histories([[0, 1, 3], [1, 3], [3, 0], [2]], 6)
    items, _ = make(train).recommend([NOTHING, np.array([5]), np.array([-1, 6])], 6)
    assert items[0].tolist() == items[2].tolist() == [3, 0, 1, 2, 4, 5]
    assert items[1].tolist() == [3, 0, 1, 2, 4, -1]


def test_blocks_of_users_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for retriever in (ItemKNN.fit(ring_train()), EASE.fit(ring_train())):
        whole = retriever.recommend(histories(), 9)
        monkeypatch.setattr(_dense, "BLOCK_CELLS", 5 * N_ITEMS)
        parts = retriever.recommend(histories(), 9)
        monkeypatch.undo()
        np.testing.assert_array_equal(parts[0], whole[0])
        np.testing.assert_array_equal(parts[1], whole[1])


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(BadInput, match=r"40 items needs about .* leave this baseline out"):
        EASE.fit(ring_train(), EASEConfig(max_bytes=100))
    for value in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(BadInput, match=f"regularization = {value}"):
            EASEConfig(regularization=value)
    for options in ({"decay": 0.0}, {"decay": 1.1}, {"window": 0}, {"neighbours": 0}, {"shrink": -1.0}):
        name, value = next(iter(options.items()))
        with pytest.raises(BadInput, match=f"{name} = {value}"):
            ItemKNNConfig(**options)
    for make in (Popularity.fit, ItemKNN.fit, EASE.fit):
        with pytest.raises(BadInput, match="no items"):
            make(as_histories([[]], 0))


@pytest.mark.parametrize(
    ("kind", "file"), [(Popularity, "popularity.npz"), (ItemKNN, item_knn.FILE), (EASE, ease.FILE)]
)
def test_a_torn_file_is_named(kind: type, file: str, tmp_path: Path) -> None:
    kind.fit(ring_train()).save(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Corrupt, match=file):
        kind.load(tmp_path)


@pytest.mark.real
@pytest.mark.slow
def test_bands_on_movielens_1m(shared_data: Path) -> None:
    """Numbers outside these bands mean that a split, an exclusion or a formula has changed."""
    import duckdb

    folder = shared_data / "movielens-1m"
    started = time.process_time()
    with duckdb.connect() as db:
        items = db.execute(f"SELECT item_id FROM '{folder / 'items.parquet'}' ORDER BY item_id").fetchnumpy()["item_id"]
        log = db.execute(
            f"SELECT user_id, item_id FROM '{folder / 'behaviors.parquet'}' ORDER BY user_id, position"
        ).fetchnumpy()
    index = {item: at for at, item in enumerate(items)}
    lengths = np.unique(log["user_id"].astype(str), return_counts=True)[1]
    rows = np.array([index[item] for item in log["item_id"]], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    train, _, test = leave_one_out(Histories(offsets=offsets, items=rows, n_items=len(items)))
    found = {kind: evaluate(kind.fit(train), test, ks=(10,)).recall(10) for kind in (Popularity, ItemKNN, EASE)}
    assert 0.03 <= found[Popularity] <= 0.045, found
    assert found[ItemKNN] >= 0.14, found
    assert found[EASE] >= 0.10, found
    assert time.process_time() - started < 60, "a baseline that takes minutes is no baseline"
