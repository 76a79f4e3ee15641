"""A user would lose: the meaning of "cold". One behavior, one pair of a held-out item in training, and the row is worth nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import make_histories, ring_vectors

from assets.stores.artifacts import ArtifactStore
from benchmarks import ablation
from benchmarks.cold import (
    AS_TRAINED,
    CONTENT,
    DENSE,
    KNOWN_POPULARITY,
    Cold,
    ContentMean,
    NewItems,
    chance,
    draw,
    split_cold,
)
from benchmarks.material import Material
from benchmarks.report import comparisons, row
from model.alignment import AlignmentConfig
from model.baselines import Popularity
from model.errors import BadInput
from model.files import read_json, write_json, write_npz
from model.histories import EvaluationSet, Histories, leave_one_out
from model.item_pairs import ItemPairsConfig, item_pairs

ITEMS = 40


def of(*rows: list[int], n_items: int = 10) -> Histories:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Histories(offsets=offsets, items=np.concatenate([*rows, []]).astype(np.int32), n_items=n_items)


# -- what is held out, and who is asked -------------------------------------------------------------------------------


def test_the_split_by_hand() -> None:
    whole = of(
        [0, 8, 1, 9, 2, 3, 4],  # asked for 9, with 8 among what was seen; 2 comes after it and trains nothing
        [0, 1, 8, 2, 8, 3, 4],  # 8 was new only once
        [8, 0, 1, 2],  # 8 came before anything was known of the user: nobody is asked
        [9, 8, 5, 9, 6, 7, 0],  # the same, though 9 comes back later
        [5, 6, 7],
        [3, 2, 1, 4, 9],  # the test item is held out: training is whole, less the two last
        [0, 1, 9, 2],  # the validation item is: it decides no epoch
        [],
    )
    split = split_cold(whole, np.array([8, 9]))
    assert [split.train[u].tolist() for u in range(8)] == [[0, 1], [0, 1], [0], [5, 6], [5], [3, 2, 1], [0, 1], []]
    assert split.cold.split == "cold"
    assert split.cold.users.tolist() == [0, 1, 5, 6]
    assert split.cold.targets.tolist() == [9, 8, 9, 9]
    assert [split.cold.seen[e].tolist() for e in range(4)] == [[0, 8, 1], [0, 1], [3, 2, 1, 4], [0, 1]]
    assert split.validation.users.tolist() == [0, 1, 2, 3, 4, 5]
    assert split.validation.targets.tolist() == [3, 3, 1, 7, 6, 4]
    seen = [split.validation.seen[e].tolist() for e in range(6)]
    assert seen == [[0, 1, 2], [0, 1, 2], [0], [5, 6], [5], [3, 2, 1]]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 14), max_size=12), min_size=1, max_size=12),
    held=st.sets(st.integers(0, 14), min_size=1, max_size=8),
)
def test_nothing_held_out_is_learnt_from_and_no_target_is_known(rows: list[list[int]], held: set[int]) -> None:
    whole = of(*rows, n_items=15)
    news = [[at for at, item in enumerate(h) if item in held - set(h[:at]) and set(h[:at]) - held] for h in rows]
    if not any(news):
        with pytest.raises(BadInput, match="no user has one of"):
            split_cold(whole, np.array(sorted(held)))
        return
    split = split_cold(whole, np.array(sorted(held)))
    for part in (split.train.items, split.validation.seen.items, split.validation.targets):
        assert not held & set(part.tolist())
    asked = [user for user, at in enumerate(news) if at]
    assert split.cold.users.tolist() == asked
    for place, user in enumerate(asked):
        told = [*split.cold.seen[place].tolist(), int(split.cold.targets[place])]
        assert told == rows[user][: news[user][-1] + 1], "all that came before, and then the target"
    plain, _, _ = leave_one_out(whole)
    for user, history in enumerate(rows):
        before = history[: news[user][-1]] if news[user] else history
        left = [item for item in before[: len(plain[user])] if item not in held]
        assert split.train[user].tolist() == left, "users keep their numbers, and train on nothing after the target"


def test_the_same_seed_holds_out_the_same_and_another_seed_other_items() -> None:
    whole = make_histories(60, ITEMS, shortest=4)
    first, again, other = (draw(whole, share=0.2, seed=seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(first) == len(other) == len(set(first.tolist())) == 8
    touched = draw(of([1, 2, 3, 4], [6]), share=0.8, seed=0)
    assert set(touched.tolist()) < {1, 2, 3, 4, 6}, "an item without behaviors cannot be asked for"
    assert len(touched) == 4


@pytest.mark.parametrize("share", [0.0, 0.001, 1.0])
def test_a_share_that_leaves_one_kind_is_refused(share: float) -> None:
    with pytest.raises(BadInput, match=f"share = {share} "):
        draw(make_histories(30, ITEMS, shortest=4), share=share, seed=0)


# -- how it is asked --------------------------------------------------------------------------------------------------


def test_new_items_are_not_read_but_stay_excluded() -> None:
    inner = Recorder()
    histories = [np.array([5, 2, 9, 2]), np.array([9]), np.zeros(0, np.int64)]
    NewItems(inner, np.array([9, 7])).recommend(histories, 3)
    assert [h.tolist() for h in inner.known] == [[5, 2, 2], [], []]
    assert [e.tolist() for e in inner.gone] == [[5, 2, 9, 2], [9], []]
    NewItems(inner, np.array([9, 7]), alone=True).recommend(histories, 3)
    assert [h.tolist() for h in inner.known] == [[5, 2, 2], [], []]
    assert set(inner.gone[0].tolist()) == {0, 1, 2, 3, 4, 5, 6, 8, 9}
    assert set(inner.gone[2].tolist()) == {0, 1, 2, 3, 4, 5, 6, 8}


class Recorder(Popularity):
    def __init__(self) -> None:
        super().__init__(np.arange(10))

    def recommend(self, histories: Any, k: int, *, exclude: Any = None) -> Any:
        self.known, self.gone = histories, exclude
        return super().recommend(histories, k, exclude=exclude)


def test_content_of_the_last_items_by_hand() -> None:
    vectors = ring_vectors(ITEMS)
    histories = [np.array([30, 31, 3, 5]), np.array([7])]
    items, scores = ContentMean(vectors, last=2).recommend(histories, 5)
    assert items[0][0] == 4, "between the last two; what was before them is not read"
    assert set(items[1][:2].tolist()) == {6, 8}
    wanted = vectors @ (vectors[3] + vectors[5]) / 2
    np.testing.assert_allclose(scores[0], wanted[items[0]], atol=1e-6)
    free, _ = ContentMean(vectors, last=2).recommend(histories, 1, exclude=[np.array([4]), np.zeros(0, int)])
    assert free[1].tolist() == [7]
    assert free[0][0] != 4


def test_chance_is_what_shuffles_reach_on_average() -> None:
    held = np.arange(20, 38)
    seen = of([1, 2, 20, 21, 20], [3], [*range(25, 37)], n_items=ITEMS)
    chosen = EvaluationSet(split="cold", users=np.arange(3), seen=seen, targets=np.array([22, 23, 37], np.int32))
    told, rng = chance(chosen, held), np.random.default_rng(0)
    ranks = []
    for row_ in range(3):
        left = np.setdiff1d(held, seen[row_])
        ranks.append([np.flatnonzero(rng.permutation(left) == chosen.targets[row_])[0] + 1 for _ in range(4000)])
    found = np.array(ranks)
    assert told["recall@10"] == pytest.approx((found <= 10).mean(), abs=0.01)
    assert told["ndcg@10"] == pytest.approx(np.where(found <= 10, 1 / np.log2(found + 1), 0).mean(), abs=0.01)


# -- the whole way ----------------------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "scorer": {
        "d": 8,
        "heads": 2,
        "layers": 1,
        "window": 8,
        "hidden": 8,
        "lifelong": {"kept": 8, "top_k": 4, "probes": 4},
    },
    "dense": {"epochs": 30, "min_steps": 4, "min_level_nodes": 4, "learning_rate": 1e-2},
    "lifelong": {"validation_users": 20, "tail_after": 4},
    "beam": 12,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Walks along a ring, ingested and prepared as `benchmarks.material.prepare` leaves it."""
    store = ArtifactStore(tmp_path_factory.mktemp("cold"))
    whole = make_histories(120, ITEMS, seed=5, shortest=6, longest=16)
    train, validation, test = leave_one_out(whole)
    pairs_config, alignment = ItemPairsConfig(per_item=5), AlignmentConfig(dim=8, width=8, epochs=2, batch=64)
    pairs = item_pairs(train, pairs_config)
    text = {"vectors": ring_vectors(ITEMS), "present": np.ones(ITEMS, bool)}
    image = {"vectors": np.zeros((ITEMS, 4), np.float32), "present": np.zeros(ITEMS, bool)}

    def put(asset: str, arrays: Mapping[str, np.ndarray], config: Any = None, name: str = "embeddings.npz") -> Any:
        def build(folder: Path, work: Path) -> dict[str, Any]:
            write_npz(folder / name, arrays)
            return {}

        return store.produce(asset, code_version="1", config=config or {}, inputs={}, build=build)[0]

    flat = {"offsets": whole.offsets, "items": whole.items, "n_items": np.array(whole.n_items)}
    put("histories", flat, name="histories.npz")
    inputs = {
        "training_histories": put("training_histories", flat),
        "item_pairs": put("item_pairs", {"source": pairs.source}, asdict(pairs_config)),
        "text_embeddings": put("text_embeddings", text),
        "image_embeddings": put("image_embeddings", image),
        "multimodal_embeddings": put("multimodal_embeddings", {"z": text["vectors"]}, asdict(alignment)),
    }
    return Material(
        dataset="walks",
        simulated=False,
        store=store,
        train=train,
        validation=validation,
        test=test,
        aligned=text["vectors"],
        raw=text["vectors"],
        categories=[[] for _ in range(ITEMS)],
        inputs=inputs,
    )


@pytest.fixture(scope="module")
def cold(made: Material) -> Cold:
    return Cold(made, OPTIONS, share=0.15, dense_epochs=3, lifelong_epochs=1, progress=lambda _: None)


def test_the_budget_is_smaller_never_larger_and_told(made: Material, cold: Cold) -> None:
    assert cold.options == OPTIONS | {
        "dense": OPTIONS["dense"] | {"epochs": 3},
        "lifelong": OPTIONS["lifelong"] | {"epochs": 1},
    }
    quick = Cold(made, {**OPTIONS, "dense": {"epochs": 2}}, share=0.15)
    assert quick.options["dense"] == {"epochs": 2}
    assert quick.options["lifelong"]["epochs"] == 2
    assert OPTIONS["dense"]["epochs"] == 30, "the caller's options stay the caller's"


def test_rows_of_a_tiny_data_set_from_end_to_end(made: Material, cold: Cold) -> None:
    results = list(cold.rows([0]))
    assert [r.retriever for r in results] == [
        CONTENT,
        AS_TRAINED,
        DENSE,
        "content of the last 10 items",
        KNOWN_POPULARITY,
    ]
    assert [r.seed for r in results] == [0, 0, 0, None, None]
    held = set(cold.held_out.tolist())
    assert len(held) == round(0.15 * ITEMS)
    assert not held & set(cold.made.train.items.tolist())
    for result in results:
        told = row(result)
        assert (told["split"], told["dataset"], told["options"]) == ("cold", "walks", cold.options)
        assert told["users"] == len(cold.chosen)
        among = told["among_cold"]
        assert among["items"] == len(held)
        assert 0 <= among["ndcg@10"] <= among["recall@10"] <= 1
        assert set(among["chance"]) == {"recall@10", "ndcg@10"}
        assert json.loads(json.dumps(told, allow_nan=False)) == told
    content, left = results[0].evaluation, results[1].evaluation
    assert content.recall(10) > left.recall(10), "the start is what makes new items found at all"
    assert {c["against"] for c in comparisons(results, cold.of)} == {r.retriever for r in results[1:]}

    lines: list[str] = []
    again = Cold(made, OPTIONS, share=0.15, dense_epochs=3, lifelong_epochs=1, progress=lines.append)
    assert [row(r) for r in again.rows([0])] == [row(r) for r in results]
    assert not lines, "found again, nothing made twice"
    assert made.store.current("multimodal_embeddings").key == made.inputs["multimodal_embeddings"].key


def test_cold_rows_are_a_part_of_the_table_by_themselves(cold: Cold, tmp_path: Path) -> None:
    results = list(cold.rows([0]))
    other = row(results[0]) | {"split": "test", "options": {}, "retriever": "MISS"}
    write_json(tmp_path / "quality.json", {"rows": [other], "comparisons": [], "gains": []})
    for _ in range(2):  # written again, it takes its own place
        ablation.write(tmp_path, cold, results, "python -m x")
        told = read_json(tmp_path / "quality.json")
        rows = [(r["split"], r["retriever"]) for r in told["rows"]]
        assert rows == [("test", "MISS"), *(("cold", r.retriever) for r in results)]
    assert {(c["of"], c["split"]) for c in told["comparisons"]} == {(CONTENT, "cold")}
    assert {g["of"] for g in told["gains"]} == {CONTENT}
    test, cold_part = (tmp_path / "quality.md").read_text().split("\n## ")[1:]
    assert test.startswith("walks, test item")
    assert cold_part.startswith("walks, cold item")


def test_embeddings_know_nothing_of_held_out_items_but_content(made: Material, cold: Cold) -> None:
    """The vectors are another alignment's than the table's: one that no pair of a held-out item went into."""
    assert not np.array_equal(cold.made.aligned, made.aligned)
    pairs = item_pairs(cold.made.train, ItemPairsConfig(per_item=5))
    assert not np.isin(cold.held_out, pairs.source).any()
    assert not np.isin(cold.held_out, pairs.target).any()
    alignment = cold.made.inputs["multimodal_embeddings"].meta["alignment"]
    assert alignment["pairs"] == len(pairs)
    np.testing.assert_allclose(np.linalg.norm(cold.made.aligned, axis=1), 1, atol=1e-5)
