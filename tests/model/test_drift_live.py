"""The champion's answers on a day: a team would lose a model that has become worse and nobody sees it in the logs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.drift import sessions_of
from model.drift_live import Questions, answers, coverage_figure, hits_by_kind, questions, recall_figure
from model.errors import BadInput
from model.retriever import Retriever

N = 200


class Fixed(Retriever):
    """Says the same to everybody, without what a user has seen."""

    name, n_items = "fixed", N

    def recommend(self, histories, k, *, exclude=None):
        rows = [np.setdiff1d(np.arange(N), history)[:k] for history in histories]
        return np.array(rows), np.zeros((len(histories), k), np.float32)


def test_a_user_is_asked_for_the_last_item_of_the_day() -> None:
    offsets, items = np.array([0, 4, 7, 9, 12, 16]), np.array([1, 2, 3, 4, 1, -1, 5, 8, 9, 3, 4, 3, 5, 6, 7, 8])
    days = np.array([0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1])
    sessions = sessions_of(offsets, items, days)
    asked = questions(sessions.where(sessions.days == 1), offsets, items, known=np.array([3, 2, 0, 2, 4]))
    # user 2 has one behavior before, user 3 has seen the item, and the champion was trained on all of user 4
    assert [each.tolist() for each in asked.seen] == [[1, 2, 3], [1]]
    assert asked.targets.tolist() == [4, 5]
    assert asked.begins.tolist() == [False, True]
    assert answers(Fixed(), asked.seen, 2).tolist() == [[0, 4], [0, 2]]


def asked_of(begins: int, continues: int) -> tuple:
    users = begins + continues
    kinds = np.arange(users) < begins
    return Questions(seen=[np.zeros(0, np.int64)] * users, targets=np.full(users, 7), begins=kinds)


def found_for(hits: np.ndarray) -> np.ndarray:
    return np.where(hits, 7, 3)[:, None]


def test_recall_is_held_against_the_same_mix_of_questions() -> None:
    """A day of beginnings alone, answered as well as beginnings ever were, has lost nothing."""
    reference = hits_by_kind(
        np.repeat([1.0, 0.0, 1.0, 0.0], [100, 300, 600, 400]), np.repeat([True, False], [400, 1000])
    )
    assert reference == {False: (0.6, 1000), True: (0.25, 400)}
    asked = asked_of(80, 20)
    hits = np.zeros(100, bool)
    hits[:20], hits[80:92] = True, True
    same = recall_figure(found_for(hits), asked, reference, k=1)
    assert same.value == pytest.approx(0)
    assert same.level == "ok"
    assert "recall@1 0.320" in same.note
    hits[:20] = False
    lost = recall_figure(found_for(hits), asked, reference, k=1)
    assert lost.value == pytest.approx(1 - 12 / 32)
    assert lost.level == "act"
    assert recall_figure(found_for(np.ones(100, bool)), asked, reference, k=1).level == "ok", "a gain is no loss"


def test_a_loss_within_chance_does_not_act() -> None:
    """Half of 40 users were to be found; 15 of them, a quarter less, is what chance does."""
    figure = recall_figure(found_for(np.arange(40) < 15), asked_of(0, 40), {False: (0.5, 5000)}, k=1)
    assert figure.value == pytest.approx(0.25)
    assert figure.level == "ok"
    assert 0.25 < figure.noise < 0.5
    many = recall_figure(found_for(np.arange(400) < 150), asked_of(0, 400), {False: (0.5, 5000)}, k=1)
    assert many.level == "act"
    unsure = recall_figure(found_for(np.arange(400) < 150), asked_of(0, 400), {False: (0.5, 20)}, k=1)
    assert unsure.level == "ok", "an evaluation of twenty users knows little"


def test_an_item_the_champion_does_not_know_is_missed_not_found_at_none() -> None:
    asked = replace(asked_of(0, 30), targets=np.full(30, -1))
    figure = recall_figure(np.full((30, 3), -1), asked, {False: (0.5, 500)}, k=3)
    assert figure.value == 1
    with pytest.raises(BadInput, match="tell no loss"):
        recall_figure(np.full((30, 3), -1), asked, {False: (0.0, 500)}, k=3)


def test_coverage_is_held_against_as_many_users() -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(0, N, (200, 5))
    same = coverage_figure(rng.integers(0, N, (60, 5)), pool, n_items=N, k=5)
    assert same.level == "ok"
    assert same.users == 60
    narrow = coverage_figure(rng.integers(0, 40, (60, 5)), pool, n_items=N, k=5)
    assert narrow.level == "act"
    assert coverage_figure(pool, pool[:60], n_items=N, k=5).users == 30
    with pytest.raises(BadInput, match="cannot be told"):
        coverage_figure(pool, pool[:1], n_items=N, k=5)
