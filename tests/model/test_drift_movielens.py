"""Drift on real days: how often an ordinary one asks for a retrain, and whether a planted shift is found on its day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from model.baselines import ItemKNN, ItemKNNConfig
from model.drift import Figure, Reference, level_of, sessions_of
from model.drift_live import answers, coverage_figure, hits_by_kind, questions, recall_figure
from model.evaluation import evaluate
from model.histories import Histories, leave_one_out


@pytest.fixture(scope="module")
def movielens(shared_data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str | None]]:
    """(offsets of users, items, days, categories of items) of MovieLens-1M."""
    import pandas as pd

    folder = shared_data / "movielens-1m"
    catalogue = pd.read_parquet(folder / "items.parquet", columns=["item_id", "categories"])
    frame = pd.read_parquet(folder / "behaviors.parquet").sort_values(["user_id", "position", "timestamp"])
    items = catalogue.index.to_series(index=catalogue["item_id"]).loc[frame["item_id"]].to_numpy()
    offsets = np.concatenate([[0], np.cumsum(frame.groupby("user_id").size())]).astype(np.int64)
    return offsets, items, frame["timestamp"].to_numpy() // 86_400, catalogue["categories"].tolist()


def level_in(figures: list[Figure], name: str) -> str:
    return next(figure.level for figure in figures if figure.name == name)


def month(number: int) -> tuple[int, int]:
    """First day of a month of 2000, and of the next, in days since 1970."""
    first, end = ((date(2000, m, 1) - date(1970, 1, 1)).days for m in (number, number + 1))
    return first, end


@pytest.mark.real
def test_days_of_movielens(movielens: tuple) -> None:
    """153 days from June to October 2000 against all days before their month: at most 1 in 15 acts, 1 in 10 warns or acts (the
    bare index would act on 1 in 4), and every planted shift acts on its own day."""
    offsets, items, days, categories = movielens
    sessions = sessions_of(offsets, items, days)
    horror = np.flatnonzero(["Horror" in (each or "") for each in categories])
    rng = np.random.default_rng(0)
    naive, found, planted = [], [], {"categories": [], "popularity": [], "unknown_items": []}
    for first, end in map(month, range(6, 11)):
        training = sessions.where(sessions.days < first)
        reference = Reference(training, categories=categories)
        counts = np.bincount(training.items, minlength=len(categories))
        order = np.argsort(-counts)
        tail = order[np.cumsum(counts[order]) > 0.9 * counts.sum()]
        for number in range(first, end):
            day = sessions.where(sessions.days == number)
            figures, _ = reference.figures(day)
            naive.append(max(figure.value for figure in figures))
            found.append(level_of(figures))
            size = len(day.items)
            shifted = {
                "categories": rng.choice(horror, size, p=counts[horror] / counts[horror].sum()),
                "popularity": rng.choice(tail, size),
                "unknown_items": np.where(rng.random(size) < 0.25, -1, day.items),
            }
            for name, moved in shifted.items():
                planted[name].append(level_in(reference.figures(replace(day, items=moved))[0], name))
    assert len(found) == 153
    acts, warns = found.count("act") / 153, found.count("warn") / 153
    print(f"the bare index acts {np.mean(np.array(naive) >= 0.2):.3f}; acts {acts:.3f}, warns {warns:.3f}")
    assert np.mean(np.array(naive) >= 0.2) > 0.25
    assert acts <= 1 / 15
    assert acts + warns <= 0.1
    assert all(level == "act" for each_day in planted.values() for level in each_day)


@pytest.mark.real
def test_answers_on_days_of_movielens(movielens: tuple) -> None:
    """July 2000 with item-kNN as champion: held against the plain evaluation, every second day would act; held against the same
    questions and chance, at most 1 in 6 does, and answers that are the same for everybody act on every day."""
    offsets, items, days, categories = movielens
    first, end = month(7)
    before, n_items = days < first, len(categories)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    known = np.bincount(owner[before], minlength=len(offsets) - 1)
    ends = np.concatenate([[0], np.cumsum(known)]).astype(np.int64)
    trained = Histories(offsets=ends, items=items[before].astype(np.int32), n_items=n_items)
    train, _, test = leave_one_out(trained)
    champion = ItemKNN.fit(train, ItemKNNConfig(window=40, backward=0.5, decay=0.6))
    evaluation = evaluate(champion, test)
    last = ends[test.users + 1] - 1
    reference = hits_by_kind(evaluation.hits(50), days[before][last] != days[before][last - 1])
    some = np.flatnonzero(known)[::3]
    pool = answers(champion, [trained[u].astype(np.int64) for u in some], 50)
    sessions = sessions_of(offsets, items, days)
    popular = np.argsort(-trained.counts())[:50]
    naive, found, broken = [], [], []
    for number in range(first, end):
        asked = questions(sessions.where(sessions.days == number), offsets, items, known=known)
        given = answers(champion, asked.seen, 50)
        hits = (given == asked.targets[:, None]).any(axis=1)
        naive.append(1 - hits.mean() / evaluation.recall(50))
        for target, each in ((found, given), (broken, np.broadcast_to(popular, given.shape))):
            figures = [
                recall_figure(each, asked, reference, k=50),
                coverage_figure(each, pool, n_items=n_items, k=50),
            ]
            target.append(level_of(figures))
    print(
        f"against the plain evaluation {np.mean(np.array(naive) >= 0.2):.3f} act; {found.count('act')} of {len(found)}"
    )
    assert np.mean(np.array(naive) >= 0.2) > 0.4
    assert found.count("act") <= len(found) / 6
    assert broken.count("act") == len(broken)
