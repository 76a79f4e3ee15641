"""A user would lose: numbers that mean what they say. Ranks against a brute-force oracle, intervals against known shifts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import make_histories

from model.baselines import Popularity
from model.errors import BadInput, Corrupt
from model.evaluation import (
    Evaluation,
    bootstrap_ci,
    evaluate,
    evaluation_report,
    format_table,
    length_slices,
    level_hits,
    level_recall,
    paired_bootstrap,
    popularity_slices,
    slice_rows,
)
from model.histories import EvaluationSet, Histories, leave_one_out
from model.ranking import flatten, top_k
from model.retriever import Retriever


class Table(Retriever):
    """Scores read from a table; its row is chosen by the history, so that the batch plays no part."""

    name = "table"

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.n_items = table.astype(np.float32), table.shape[1]

    def row(self, history: np.ndarray) -> np.ndarray:
        return self.table[int((np.arange(1, len(history) + 1) * (history + 1)).sum()) % len(self.table)]

    def recommend(self, histories: Sequence, k: int, *, exclude: Sequence | None = None) -> tuple:
        scores = np.stack([self.row(history) for history in histories])
        return top_k(scores, k, flatten(histories if exclude is None else exclude, self.n_items))


def some_set(rng: np.random.Generator, users: int, items: int) -> EvaluationSet:
    orders = [rng.permutation(items)[: int(rng.integers(1, items + 1))] for _ in range(users)]
    offsets = np.concatenate([[0], np.cumsum([len(o) - 1 for o in orders])]).astype(np.int64)
    seen = np.concatenate([o[:-1] for o in orders]).astype(np.int32)
    return EvaluationSet(
        split="test",
        users=np.sort(rng.permutation(3 * users)[:users]),
        seen=Histories(offsets=offsets, items=seen, n_items=items),
        targets=np.array([o[-1] for o in orders], dtype=np.int32),
    )


def made(ranks: Sequence[int], *, name: str = "a", users: Sequence[int] | None = None, **other: object) -> Evaluation:
    fields: dict = {"split": "test", "limit": 200, "coverage": 0.5, "novelty": 7.25, "seconds": 1.5} | other
    ids = np.arange(len(ranks)) if users is None else np.asarray(users)
    return Evaluation(retriever=name, users=ids, ranks=np.array(ranks, dtype=np.int32), **fields)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 30), st.integers(1, 5), st.integers(1, 40))
def test_every_number_is_the_brute_force_one(seed: int, users: int, items: int, batch: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    retriever = Table(rng.integers(0, 4, (5, items)))  # few values: ties everywhere
    asked = some_set(rng, users, items)
    found = evaluate(retriever, asked, ks=(1, k), batch=batch)
    limit = min(max(k, 10), items)
    ranks, front = [], []
    for user in range(users):
        scores, target = retriever.row(asked.seen[user]), int(asked.targets[user])
        left = [item for item in range(items) if item not in asked.seen[user]]
        order = sorted(left, key=lambda item: (-scores[item], item))
        rank = order.index(target) + 1
        ranks.append(rank if rank <= limit else 0)
        front.append(order[: min(10, limit)])
    assert found.ranks.tolist() == ranks
    assert found.limit == limit
    for at in (1, 10, k):
        hit = [1 if 0 < rank <= at else 0 for rank in ranks]
        assert found.recall(at) == pytest.approx(np.mean(hit))
        gains = [1 / np.log2(rank + 1) if 0 < rank <= at else 0 for rank in ranks]
        assert found.ndcg(at) == pytest.approx(np.mean(gains))
    shown = [item for row in front for item in row]
    assert found.coverage == pytest.approx(len(set(shown)) / items)
    counts = asked.seen.counts() + 1
    assert found.novelty == pytest.approx(np.mean([np.log2(counts.sum() / counts[item]) for item in shown]))


def test_recall_beyond_the_catalogue_or_the_beam_is_that_of_what_was_returned() -> None:
    asked = some_set(np.random.default_rng(0), 20, 15)
    retriever = Table(np.random.default_rng(1).random((5, 15)))
    whole = evaluate(retriever, asked)
    assert whole.limit == 15
    assert whole.recall(200) == whole.recall(15) == 1.0
    retriever.beam = 4
    narrow = evaluate(retriever, asked)
    assert narrow.limit == 4
    assert narrow.recall(200) == narrow.recall(4) == whole.recall(4) < 1
    assert list(narrow.row())[:3] == ["retriever", "users", "recall@10"]


def test_what_cannot_be_evaluated_is_refused() -> None:
    asked, retriever = some_set(np.random.default_rng(0), 4, 15), Table(np.ones((1, 15)))
    with pytest.raises(BadInput, match="table knows 9 items, the evaluation set 15"):
        evaluate(Table(np.ones((1, 9))), asked)
    for bad in ({"ks": (0, 10)}, {"ks": ()}, {"batch": 0}):
        with pytest.raises(BadInput, match="out of range"):
            evaluate(retriever, asked, **bad)
    nobody = leave_one_out(make_histories(5, 15, longest=2))[2]
    with pytest.raises(BadInput, match="nobody to evaluate"):
        evaluate(retriever, nobody)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    asked = some_set(np.random.default_rng(0), 20, 15)
    before = evaluate(Popularity(np.arange(15)), asked, ks=(1, 5), progress=True)
    before.save(tmp_path / "e.npz")
    after = Evaluation.load(tmp_path / "e.npz")
    assert after.row() == before.row()
    assert (after.split, after.limit, after.ks) == (before.split, before.limit, before.ks)
    np.testing.assert_array_equal(after.ranks, before.ranks)
    np.testing.assert_array_equal(after.users, before.users)
    (tmp_path / "e.npz").write_bytes((tmp_path / "e.npz").read_bytes()[:-30])
    with pytest.raises(Corrupt):
        Evaluation.load(tmp_path / "e.npz")


def test_slices_put_every_user_in_exactly_one_place() -> None:
    lengths = np.array([0, 0, 1, 49, 50, 99, 100, 199, 200, 499, 500, 900])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    seen = Histories(offsets=offsets, items=np.zeros(offsets[-1], np.int32), n_items=3)
    asked = EvaluationSet(split="test", users=np.arange(12), seen=seen, targets=np.full(12, 1, np.int32))
    slices = length_slices(asked)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in slices.items()} == {
        "0": [0, 1],
        "1-49": [2, 3],
        "50-99": [4, 5],
        "100-199": [6, 7],
        "200-499": [8, 9],
        "500+": [10, 11],
    }
    rows = slice_rows(made([1, 0, 2, 30, 0, 0, 5, 5, 11, 1, 1, 1]), slices | {"nobody": np.zeros(12, bool)})
    assert [(row["slice"], row["users"], row["recall@10"]) for row in rows][:3] == [
        ("0", 2, 0.5),
        ("1-49", 2, 0.5),
        ("50-99", 2, 0.0),
    ]
    assert len(rows) == 6


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_popularity_slices_partition(counts: list[int], targets: list[int]) -> None:
    chosen = np.array(targets) % len(counts)
    masks = popularity_slices(chosen, np.array(counts))
    assert np.sum(list(masks.values()), axis=0).tolist() == [1] * len(chosen)
    assert all(mask.any() for mask in masks.values())
    if "cold" in masks:
        assert (np.array(counts)[chosen[masks["cold"]]] == 0).all()


def test_popularity_slices_by_hand() -> None:
    counts = np.array([0, 1, 1, 5, 3])  # from the top: 5 (starts at 0), 3 (at .5), 1 (at .8), 1 (at .9)
    masks = popularity_slices(np.arange(5), counts)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        "head": [3],
        "mid": [4],
        "tail": [1, 2],
        "cold": [0],
    }


def test_level_recall_by_hand() -> None:
    ancestors = np.array([[0, 1, 3], [0, 2, 5], [0, 2, 6], [0, 1, 4]])
    beams = {2: np.array([[3, 5], [3, 6], [6, -1], [5, 6]]), 1: np.array([[1, 2], [1, -1], [2, 1], [2, 1]])}
    assert level_recall(beams, ancestors) == {1: 0.75, 2: 0.5}
    assert level_hits(beams, ancestors)[2].tolist() == [True, False, True, False]
    with pytest.raises(BadInput, match="no targets"):
        level_recall({}, ancestors[:0])


def test_a_retriever_is_no_better_than_itself() -> None:
    hits = made([1, 0, 3, 60]).hits(50)
    assert paired_bootstrap(hits, hits) == {"mean_difference": 0.0, "low95": 0.0, "high95": 0.0}


def test_intervals_cover_a_known_shift_about_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        base = rng.random(150)
        found = paired_bootstrap(base + rng.normal(0.1, 0.5, 150), base, resamples=300, seed=trial)
        assert found["low95"] <= found["mean_difference"] <= found["high95"]
        covered += found["low95"] <= 0.1 <= found["high95"]
    assert 180 <= covered <= 199  # 95 % of 200, and three standard errors


def test_intervals_follow_from_the_seed_and_narrow_with_users() -> None:
    values = (np.random.default_rng(0).random(400) < 0.3).astype(float)
    assert bootstrap_ci(values, seed=1) == bootstrap_ci(values, seed=1) != bootstrap_ci(values, seed=2)
    zero = np.zeros(400)
    assert paired_bootstrap(values, zero, seed=1) == paired_bootstrap(values, zero, seed=1)
    ci, wide = bootstrap_ci(values), bootstrap_ci(values[:40])
    expected = 1.96 * values.std() / 20
    assert ci["high95"] - ci["mean"] == pytest.approx(expected, rel=0.2)
    assert wide["high95"] - wide["low95"] > 2 * (ci["high95"] - ci["low95"])


def test_a_bootstrap_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="2 against 3"):
        paired_bootstrap(np.zeros(2), np.zeros(3))
    for values in ([], [1.0, np.nan], [np.inf]):
        with pytest.raises(BadInput, match="finite values"):
            bootstrap_ci(np.array(values))
    with pytest.raises(BadInput, match="resamples = 0"):
        bootstrap_ci(np.ones(3), resamples=0)


def test_a_report_holds_only_what_can_be_compared() -> None:
    a, b = made([1, 0, 3]), made([2, 2, 0], name="b")
    report = evaluation_report("planted", [a, b], simulated=True)
    assert [row["retriever"] for row in report["rows"]] == ["a", "b"]
    assert (report["dataset"], report["simulated"], report["split"]) == ("planted", True, "test")
    for other in (made([1, 2, 3], users=[0, 1, 7]), made([1, 2]), made([1, 2, 3], split="validation")):
        with pytest.raises(BadInput, match="other users"):
            evaluation_report("planted", [a, other], simulated=False)
    with pytest.raises(BadInput, match="at least one"):
        evaluation_report("planted", [], simulated=False)


def test_a_table_says_where_histories_are_simulated() -> None:
    evaluations = [made([1, 0, 3]), made([2, 2, 0], name="a longer name")]
    text = format_table(evaluation_report("planted", evaluations, simulated=True))
    assert "simulated" in text.splitlines()[0]
    assert "simulated" not in format_table(evaluation_report("planted", evaluations, simulated=False))
    table = text.splitlines()[2:]
    assert len({len(line) for line in table}) == 1, "columns line up"
    assert "0.6667" in table[2]
    assert table[3].split()[1:6] == ["a", "longer", "name", "|", "0.6667"]
    assert format_table({"dataset": "d", "simulated": False, "split": "test", "rows": []}).startswith("d: test item")
