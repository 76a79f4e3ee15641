"""What Great Expectations finds in a bundle: a service would answer with items nobody has, or never with some that are there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import N_ITEMS, publish

from assets.release.bundle_contract import check_bundle, contract_rules
from model.files import read_npz, write_npz


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("bundle") / "sound")


def test_a_sound_bundle_keeps_every_rule(sound: Path) -> None:
    summary = check_bundle(sound)
    assert summary["success"], summary
    assert summary["rows"]["catalogue"] == summary["rows"]["leaves"] == N_ITEMS
    rules = contract_rules(sound)
    assert [rule.name for rule in rules] == [
        "contract_search",
        "contract_catalogue",
        "contract_users",
        "contract_logs",
        "contract_tree",
        "contract_leaves",
    ]
    assert all(rule.passed and rule.value == 0 for rule in rules)


def _change(name: str, array: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def spoil(bundle: Path) -> None:
        arrays = read_npz(bundle / name)
        write_npz(bundle / name, arrays | {array: change(arrays[array].copy())})

    return spoil


def _put(at: int | tuple[int, int], value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[at] = value
        return array

    return change


@pytest.mark.parametrize(
    ("spoil", "rule", "told"),
    [
        (
            _change("items.npz", "item_id", lambda a: np.where(np.arange(len(a)) == 1, a[0], a)),
            "contract_catalogue",
            "unique",
        ),
        (_change("items.npz", "item_id", _put(3, "")), "contract_catalogue", "1 to 256 characters"),
        (
            _change("histories.npz", "user_id", lambda a: np.where(np.arange(len(a)) == 1, a[0], a)),
            "contract_users",
            "unique",
        ),
        (_change("histories.npz", "items", _put(5, N_ITEMS)), "contract_logs", "in the catalogue"),
        (_change("tree.npz", "z", lambda z: z * 2), "contract_tree", "unit length"),
        (_change("search.npz", "items", lambda v: v[:-1]), "contract_search", "every item"),
        (_change("search.npz", "items", lambda v: v * 3), "contract_search", "unit length"),
        (_change("search.npz", "items", _put((2, 0), np.nan)), "contract_search", "unit length"),
    ],
)
def test_a_bundle_that_is_not_sound_fails_the_rule_of_its_table(
    sound: Path, tmp_path: Path, spoil: Callable[[Path], None], rule: str, told: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(sound, bundle)
    spoil(bundle)
    failed = [each for each in contract_rules(bundle) if not each.passed]
    assert [each.name for each in failed] == [rule]
    assert told in failed[0].note
