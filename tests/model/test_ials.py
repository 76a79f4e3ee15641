"""A user would lose: a fair floor. iALS keeps the contract, its paper's equations, and needs no particular machine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from retriever_contract import N_ITEMS, NOTHING, SavedRetrieverContract, histories, ring_train

from model.baselines import IALS, IALSConfig, ials
from model.errors import BadInput, Corrupt, NotReady
from model.histories import Histories
from model.ranking import flatten
from model.retriever import Retriever

SMALL = IALSConfig(factors=12, regularization=2.0, alpha=7.0, iterations=40)


def as_histories(rows: list[list[int]], n_items: int) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Histories(
        offsets=offsets, items=np.array([item for row in rows for item in row], dtype=np.int32), n_items=n_items
    )


def has(rows: Histories | list[np.ndarray], n_items: int) -> np.ndarray:
    """(U, N) float64, 1 where the user has the item."""
    matrix = np.zeros((len(rows), n_items))
    for user in range(len(rows)):
        matrix[user, rows[user]] = 1
    return matrix


def solved(preference: np.ndarray, other: np.ndarray, config: IALSConfig) -> np.ndarray:
    """Eq. 4 of Hu et al. 2008 for every row of `preference` (R, C), given the other side's factors (C, d)."""
    out = []
    for p in preference:
        confidence = 1 + config.alpha * p
        left = other.T @ (confidence[:, None] * other) + config.regularization * np.eye(other.shape[1])
        out.append(np.linalg.solve(left, other.T @ (confidence * p)))
    return np.array(out)


class TestIALSContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        return IALS.fit(ring_train(), SMALL)


def test_folded_in_users_solve_the_papers_equation() -> None:
    retriever = IALS.fit(ring_train(), SMALL)
    users = [*histories(), np.array([-1, 5, 5, N_ITEMS, 9])]
    found = retriever.user_factors(flatten(users, N_ITEMS), len(users))
    known = [user[(user >= 0) & (user < N_ITEMS)] for user in users]
    wanted = solved(has(known, N_ITEMS), retriever.item_factors.astype(np.float64), SMALL)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    items, scores = retriever.recommend(users[1:2], 1, exclude=[NOTHING])
    products = wanted[1] @ retriever.item_factors.T
    assert items[0, 0] == products.argmax()
    assert scores[0, 0] == pytest.approx(products.max(), abs=1e-4)


def test_items_and_users_solve_for_each_other() -> None:
    """Where alternating has come to rest both sides satisfy the paper's equation; nearly the same weights would not."""
    retriever = IALS.fit(ring_train(), replace(SMALL, iterations=200))
    preference, items = has(ring_train(), N_ITEMS), retriever.item_factors.astype(np.float64)

    def moved(config: IALSConfig) -> float:
        again = solved(preference.T, solved(preference, items, config), config)
        return float(np.linalg.norm(again - items) / np.linalg.norm(items))

    assert moved(SMALL) < 1e-5
    assert moved(replace(SMALL, alpha=6.0)) > 1e-3, "a confidence of alpha instead of 1 + alpha"
    assert moved(replace(SMALL, regularization=2.5)) > 1e-3


def test_the_withheld_diagonal_of_a_checkerboard_is_found() -> None:
    """User u has every item of their colour but item u: that one comes first."""
    size = 30
    board = as_histories([[i for i in range(size) if (i + u) % 2 == 0 and i != u] for u in range(size)], size)
    retriever = IALS.fit(board, IALSConfig(factors=2, regularization=0.1))  # two colours
    items, _ = retriever.recommend([board[user] for user in range(size)], 1)
    assert items[:, 0].tolist() == list(range(size))


def test_who_says_nothing_gets_what_is_popular() -> None:
    train = as_histories([[0, 1, 3], [1, 3], [3, 0], [2]], 6)
    items, _ = IALS.fit(train, SMALL).recommend([NOTHING, np.array([5]), np.array([-1, 6])], 6)
    assert items[0].tolist() == items[2].tolist() == [3, 0, 1, 2, 4, 5]
    assert items[1].tolist() == [3, 0, 1, 2, 4, -1]
    assert IALS.fit(as_histories([[]], 3), SMALL).recommend([NOTHING], 3)[0].tolist() == [[0, 1, 2]]


def test_threads_and_repetition_change_nothing_a_seed_does(tmp_path: Path) -> None:
    files = []
    for name, config in {
        "first": IALSConfig(factors=12),
        "again": IALSConfig(factors=12),
        "wide": IALSConfig(factors=12, threads=2),
        "other": IALSConfig(factors=12, seed=1),
    }.items():
        IALS.fit(ring_train(), config).save(tmp_path / name)
        files.append((tmp_path / name / ials.FILE).read_bytes())
    factors = [IALS.load(tmp_path / name).item_factors for name in ("first", "wide", "other")]
    assert files[0] == files[1]
    np.testing.assert_array_equal(factors[0], factors[1])
    assert not np.array_equal(factors[0], factors[2])


def test_the_first_fit_of_a_process_says_nothing() -> None:
    """implicit checks the threads of BLAS once and warns; a warning is an error here, and noise in a log."""
    import implicit.utils
    from threadpoolctl import threadpool_limits

    implicit.utils._checked_blas_config = False
    with threadpool_limits(2, "blas"):
        IALS.fit(ring_train(), SMALL)
    assert implicit.utils._checked_blas_config, "the check has run"


def test_what_cannot_be_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"alpha": 0.0}, {"regularization": np.nan}, {"regularization": np.inf}, {"factors": 0}):
        name, value = next(iter(options.items()))
        with pytest.raises(BadInput, match=f"{name} = {value}"):
            IALSConfig(**options)
    with pytest.raises(BadInput, match="no items"):
        IALS.fit(as_histories([[]], 0))
    IALS.fit(ring_train(), SMALL).save(tmp_path)
    whole = (tmp_path / ials.FILE).read_bytes()
    (tmp_path / ials.FILE).write_bytes(whole[:-40])
    with pytest.raises(Corrupt, match=ials.FILE):
        IALS.load(tmp_path)
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(NotReady, match=r"pip install 'miss-retrieval\[bench\]'"):
        IALS.fit(ring_train(), SMALL)
