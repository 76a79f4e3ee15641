"""Drift figures: a team would lose a shift that nobody noticed, or a retrain every morning for what chance alone does.

Synthetic logs have a known answer; the claim on real logs is in `test_drift_movielens.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.drift import MIN_USERS, Figure, Reference, Sessions, catalogue_figures, level_of, psi, sessions_of
from model.errors import BadInput

N = 200
CATEGORIES = ["red" if item % 2 else "blue" for item in range(N)]
POPULARITY = 1 / (1 + np.arange(N))


def logs(users: int, days: int, *, seed: int = 0, behaviors: int = 8, items: np.ndarray | None = None) -> Sessions:
    """Each day `users` users of their own with 1 to 2 * behaviors - 1 behaviors by popularity, among `items`."""
    rng, among = np.random.default_rng(seed), np.arange(N) if items is None else items
    lengths = rng.integers(1, 2 * behaviors, users * days)
    drawn = rng.choice(among, lengths.sum(), p=POPULARITY[among] / POPULARITY[among].sum())
    return Sessions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        items=drawn,
        before=rng.choice([0, 5, 30, 150], users * days),
        users=np.arange(users * days),
        days=np.repeat(np.arange(days), users),
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(logs(40, 30), categories=CATEGORIES)


def levels(reference: Reference, day: Sessions) -> dict[str, str]:
    return {figure.name: figure.level for figure in reference.figures(day)[0]}


# -- the index ---------------------------------------------------------------------------------------------------------

WEIGHTS = arrays(np.float64, 6, elements=st.floats(0, 1e6)).filter(lambda each: each.sum() > 1e-3)


def test_psi_by_hand() -> None:
    """(.25 - .5) ln(.25 / .5) + (.75 - .5) ln(.75 / .5) = .25 ln 3."""
    assert psi(np.array([50, 50]), np.array([1, 3]), floor=0.0) == pytest.approx(0.25 * np.log(3), rel=1e-12)
    # an empty bin is finite: shares 1.001 / 1.002 and .001 / 1.002
    p, q = np.array([0.501, 0.501]) / 1.002, np.array([1.001, 0.001]) / 1.002
    assert psi(np.array([1, 1]), np.array([7, 0])) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert psi(np.array([1, 1]), np.array([[5, 5], [1, 3]])).shape == (2,)


@given(WEIGHTS, WEIGHTS, st.floats(1e-2, 1e3), st.permutations(range(6)))
def test_psi_is_a_distance_of_shares(a: np.ndarray, b: np.ndarray, scale: float, order: list[int]) -> None:
    found = float(psi(a, b))
    assert 0 <= found < 20
    assert psi(a, a * scale) == pytest.approx(0, abs=1e-12)
    assert psi(b, a) == pytest.approx(found, abs=1e-9)
    assert psi(a * scale, b) == pytest.approx(found, rel=1e-6, abs=1e-9)
    assert psi(a[order], b[order]) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_psi_refuses_what_is_no_distribution(bad: list[float]) -> None:
    with pytest.raises(BadInput, match="two distributions"):
        psi(np.array([1, 1]), np.array(bad))


# -- what a figure says ------------------------------------------------------------------------------------------------


def test_a_figure_is_beyond_its_threshold_and_beyond_chance_or_it_is_ok() -> None:
    def level(value: float, noise: float, users: int | None = 100) -> str:
        return Figure(name="f", value=value, reference=0, noise=noise, users=users).level

    assert [level(v, 0.0) for v in (0.0, 0.0999, 0.1, 0.1999, 0.2, 5.0)] == ["ok", "ok", "warn", "warn", "act", "act"]
    assert level(0.3, 0.3) == "ok", "chance does that"
    assert level(0.31, 0.3) == "act"
    assert level(5.0, 0.0, MIN_USERS - 1) == "too few"
    assert level(5.0, 0.0, None) == "act", "a catalogue is no sample"
    figures = [Figure(name="f", value=v, reference=0, noise=0, users=n) for v, n in ((0, 99), (0.15, 99), (9, 3))]
    assert level_of(figures) == "warn"
    assert level_of([figures[0], figures[2]]) == "too few"
    assert level_of(figures[:1]) == "ok"


# -- logs --------------------------------------------------------------------------------------------------------------


def test_histories_are_cut_where_the_day_changes() -> None:
    offsets = np.array([0, 4, 4, 6])
    found = sessions_of(offsets, np.array([7, 8, 9, -1, 5, 6]), np.array([1, 1, 2, 3, 3, 3]))
    assert found.offsets.tolist() == [0, 2, 3, 4, 6]
    assert found.users.tolist() == [0, 0, 0, 2]
    assert found.before.tolist() == [0, 2, 3, 0]
    assert found.days.tolist() == [1, 2, 3, 3]
    day = found.where(found.days == 3)
    assert (day.offsets.tolist(), day.items.tolist()) == ([0, 1, 3], [-1, 5, 6])


def test_bins_are_the_champions_and_shares_are_counted_by_hand() -> None:
    """Ten items of equal popularity are ten bins; a category that the champion lacks is none of its bins."""
    training = Sessions(
        offsets=np.arange(0, 21, 2),
        items=np.tile(np.arange(10), 2),
        before=np.full(10, 10),
        users=np.arange(10),
        days=np.zeros(10, int),
    )
    reference = Reference(training, categories=["a, b", *["a"] * 8, None])
    day = Sessions(
        offsets=np.array([0, 3, 4]),
        items=np.array([0, 9, -1, 0]),
        before=np.array([9, 0]),
        users=np.arange(2),
        days=np.ones(2, int),
    )
    figures, compared = reference.figures(day)
    assert compared["popularity"].reference.tolist() == [0.1] * 10
    assert compared["popularity"].day.tolist() == [2 / 3, *[0] * 8, 1 / 3]
    assert compared["categories"].labels == ("a", "b", "other", "none")
    assert compared["categories"].reference.tolist() == pytest.approx([0.85, 0.05, 0, 0.1])
    assert compared["categories"].day.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    assert compared["history_lengths"].labels[:3] == ("0", "1-9", "10-19")
    # places 9, 10, 11 of the first user, 0 of the second; in training 10 and 11 of each
    assert compared["history_lengths"].day.tolist()[:3] == [0.25, 0.25, 0.5]
    assert compared["history_lengths"].reference.tolist()[:3] == [0, 0, 1]
    named = {figure.name: figure for figure in figures}
    assert named["unknown_items"].value == 0.25
    assert named["popularity"].value == pytest.approx(float(psi(np.ones(10), np.array([2, *[0] * 8, 1]))))
    assert {figure.level for figure in figures} == {"too few"}


def test_ordinary_days_do_not_act_where_the_bare_index_would(reference: Reference) -> None:
    """As many users as a small shop's day: the index passes .1 by chance, every second day; the figures stay ok."""
    naive, ours = [], []
    for seed in range(1, 41):
        figures, _ = reference.figures(logs(25, 1, seed=seed))
        naive.append(any(figure.value >= figure.warn for figure in figures))
        ours.append(level_of(figures) in ("warn", "act"))
    assert np.mean(naive) > 0.4
    assert np.mean(ours) <= 0.1


def test_items_that_lead_by_luck_are_no_shift() -> None:
    """All items are equal, and some lead in a small log: the next days are as far as chance has it, and no further."""
    equal = [
        logs(40, days, seed=seed, items=np.arange(N)) for days, seed in ((14, 0), *((1, s) for s in range(1, 101)))
    ]
    rng = np.random.default_rng(0)
    equal = [replace(each, items=rng.integers(0, N, len(each.items))) for each in equal]
    reference = Reference(equal[0], categories=CATEGORIES)
    found = [reference.figures(each)[0][0] for each in equal[1:]]
    assert found[0].name == "popularity"
    assert np.mean([figure.value for figure in found]) < 1.15 * found[0].reference
    assert np.mean([figure.value > figure.noise for figure in found]) <= 0.1


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        (np.arange(1, N, 2), "categories"),
        (np.arange(100, N), "popularity"),
    ],
)
def test_a_planted_shift_of_items_is_named(reference: Reference, planted: np.ndarray, named: str) -> None:
    for seed in range(5):
        found = levels(reference, logs(30, 1, seed=seed, items=planted))
        assert found[named] == "act"
        assert found["unknown_items"] == found["history_lengths"] == "ok"


def test_planted_lengths_and_unknown_items_are_named(reference: Reference) -> None:
    day = logs(60, 1, seed=9)
    assert levels(reference, replace(day, before=np.full(60, 600)))["history_lengths"] == "act"
    for share, level in ((0.05, "ok"), (0.15, "warn"), (0.25, "act")):
        items = day.items.copy()
        items[: round(share * len(items))] = -1
        found = levels(reference, replace(day, items=items))
        assert found["unknown_items"] == level
        assert found["popularity"] == "ok", "what the champion does not know has no bin"
    gone = levels(reference, replace(day, items=np.full(len(day.items), -1)))
    assert (gone["unknown_items"], "popularity" in gone) == ("act", False)


def test_a_day_of_few_users_says_nothing(reference: Reference) -> None:
    for users, told in ((MIN_USERS - 1, {"too few"}), (MIN_USERS, {"act", "ok"})):
        day = logs(users, 1, seed=3)
        found = levels(reference, replace(day, items=np.full(len(day.items), -1)))
        assert set(found.values()) <= told
    assert reference.figures(logs(MIN_USERS, 1).where(np.zeros(MIN_USERS, bool)))[0] == []


def test_the_same_day_gives_the_same_figures(reference: Reference) -> None:
    again = Reference(logs(40, 30), categories=CATEGORIES)
    assert again.figures(logs(25, 1, seed=5))[0] == reference.figures(logs(25, 1, seed=5))[0]


def test_a_champion_without_training_is_refused() -> None:
    with pytest.raises(BadInput, match="no reference"):
        Reference(logs(1, 1).where(np.zeros(1, bool)), categories=CATEGORIES)


# -- the catalogue -----------------------------------------------------------------------------------------------------


def test_a_catalogue_is_compared_by_hand() -> None:
    ids = np.array(["a", "b", "c", "d"])
    figures, compared = catalogue_figures(
        ids,
        ["x", "x", "y", None],
        np.array([*ids, "e"]),
        ["x", "z", "y", None, "x, y"],
        content={"with_image": (1.0, 0.6)},
    )
    named = {figure.name: figure for figure in figures}
    assert named["catalogue_unknown_items"].value == pytest.approx(0.2)
    assert named["catalogue_with_image"].value == pytest.approx(0.4)
    assert compared["catalogue_categories"].labels == ("x", "y", "other", "none")
    assert compared["catalogue_categories"].day.tolist() == pytest.approx([0.3, 0.3, 0.2, 0.2])
    assert named["catalogue_categories"].value == pytest.approx(
        float(psi(np.array([2, 1, 0, 1]), np.array([1.5, 1.5, 1, 1])))
    )
    assert level_of(figures) == "act"
    with pytest.raises(BadInput, match="cannot be compared"):
        catalogue_figures(ids, ["x"] * 4, ids[:0], [])
