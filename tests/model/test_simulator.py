"""The simulator: what a demo would lose if its made-up users were not learnable, not repeatable or not plausible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import BadInput
from model.simulator import Simulated, SimulatorConfig, simulate

CONFIG = SimulatorConfig(users=300, seed=7, max_events=400)
GROUPS = np.repeat(np.arange(40), 20)


@pytest.fixture(scope="module")
def logs() -> Simulated:
    return simulate(CONFIG, GROUPS)


def _same_user(logs: Simulated) -> np.ndarray:
    return np.diff(logs.users) == 0


def test_same_seed_same_logs_and_another_seed_others(logs: Simulated) -> None:
    again = simulate(CONFIG, GROUPS)
    other = simulate(SimulatorConfig(users=300, seed=8, max_events=400), GROUPS)
    assert np.array_equal(logs.items, again.items)
    assert np.array_equal(logs.timestamps, again.timestamps)
    assert not np.array_equal(logs.items[:100], other.items[:100])


def test_time_moves_forward_and_stays_in_the_past(logs: Simulated) -> None:
    assert (np.diff(logs.timestamps)[_same_user(logs)] > 0).all()
    assert logs.timestamps.max() < 1_735_689_600  # 2025-01-01: never in the future of the data contract
    assert logs.timestamps.min() > 1_600_000_000


def test_no_item_repeats_within_a_user(logs: Simulated) -> None:
    assert len(np.unique(logs.users.astype(np.int64) * len(GROUPS) + logs.items)) == len(logs.items)


def test_lengths_are_short_and_long(logs: Simulated) -> None:
    lengths = np.bincount(logs.users, minlength=CONFIG.users)
    assert lengths.min() >= 1
    assert lengths.max() == 400
    assert 80 <= np.median(lengths) <= 125
    assert np.array_equal(logs.positions, np.concatenate([np.arange(n) for n in lengths]))


def test_most_events_are_in_the_active_interest(logs: Simulated) -> None:
    assert 0.7 <= np.mean(GROUPS[logs.items] == logs.interests) <= 0.88


def test_a_sequence_model_has_more_to_find_than_popularity(logs: Simulated) -> None:
    """Top 10 by counted transitions from the last two items against the 10 most popular, on users kept apart."""
    train, scores = logs.users < 200, np.zeros((0, len(GROUPS)))
    asked = (logs.users >= 200) & (logs.positions >= 2)
    for lag in (1, 2):
        follows = np.zeros((len(GROUPS), len(GROUPS)))
        pairs = train[lag:] & (logs.users[lag:] == logs.users[:-lag])
        np.add.at(follows, (logs.items[:-lag][pairs], logs.items[lag:][pairs]), 1)
        found = follows[logs.items[np.flatnonzero(asked) - lag]]
        scores = scores + found if len(scores) else found
    ranked = np.argsort(-scores, axis=1)[:, :10]
    popular = np.argsort(-np.bincount(logs.items[train], minlength=len(GROUPS)))[:10]
    by_sequence = np.mean((ranked == logs.items[asked][:, None]).any(axis=1))
    by_popularity = np.mean(np.isin(logs.items[asked], popular))
    assert by_sequence > 0.15
    assert by_sequence > 4 * by_popularity


def test_interests_return_after_hundreds_of_events() -> None:
    config = SimulatorConfig(users=60, seed=1, median_events=900.0, sigma_events=0.1)
    logs = simulate(config, np.repeat(np.arange(60), 40))
    returns = entries = 0
    for user in range(config.users):
        last: dict[int, int] = {}
        for step, group in enumerate(logs.interests[logs.users == user]):
            if step >= 100 and step - last.get(group, -1000) > 30:  # it was not active: it begins, or begins again
                entries += 1
                returns += group in last and step - last[group] >= config.return_gap
            last[group] = step
    assert returns / entries > 0.15


def test_popularity_is_uneven(logs: Simulated) -> None:
    counts = np.sort(np.bincount(logs.items, minlength=len(GROUPS)))[::-1]
    assert counts[:80].sum() > 1.7 * 0.1 * counts.sum()


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    users=st.integers(1, 6),
    seed=st.integers(0, 1000),
    interests=st.integers(1, 8),
)
def test_small_catalogues_are_used_up_without_repeats(sizes: list[int], users: int, seed: int, interests: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    config = SimulatorConfig(users=users, seed=seed, interests=interests, median_events=20.0)
    logs = simulate(config, groups)
    assert set(logs.users) == set(range(users))
    assert len(np.unique(logs.users.astype(np.int64) * len(groups) + logs.items)) == len(logs.items)
    assert logs.items.min() >= 0
    assert logs.items.max() < len(groups)


@pytest.mark.parametrize("groups", [np.zeros(0, np.int64), np.array([-1, 0]), np.zeros((2, 2), np.int64)])
def test_a_catalogue_without_groups_is_refused(groups: np.ndarray) -> None:
    with pytest.raises(BadInput, match="group number per item"):
        simulate(CONFIG, groups)


def test_no_users_are_refused() -> None:
    with pytest.raises(BadInput, match="1 or more"):
        simulate(SimulatorConfig(users=0), GROUPS)
