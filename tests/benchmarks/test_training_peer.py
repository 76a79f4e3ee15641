"""A reader of the table would lose: that both sides learn from the same behaviors, and are judged by the same users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import make_histories, ring_vectors

from benchmarks import rectools_sasrec, training
from benchmarks.measured import ROOT
from model.errors import BadInput
from model.histories import EvaluationSet, Histories, leave_one_out
from model.index_tree import IndexTree, TreeConfig, build_tree
from model.training import TrainingConfig, dense_alone

ITEMS, WINDOW = 40, 16
TINY: dict[str, Any] = {
    "scorer": {"d": 16, "heads": 2, "layers": 1, "window": WINDOW, "dropout": 0.1},
    "dense": {"epochs": 2, "min_steps": 4, "min_level_nodes": 8},
}


def data() -> tuple[IndexTree, Histories, EvaluationSet]:
    train, validation, _ = leave_one_out(make_histories(users=60, items=ITEMS))
    return build_tree(ring_vectors(ITEMS), TreeConfig()), train, validation


def test_a_sample_keeps_whole_histories_of_so_many_users_the_same_each_time() -> None:
    _, train, _ = data()
    kept = training.some(train, 7)
    chosen = np.flatnonzero(kept.lengths)
    assert len(chosen) == 7
    assert len(kept) == len(train)
    for user in chosen:
        np.testing.assert_array_equal(kept[int(user)], train[int(user)])
    np.testing.assert_array_equal(kept.lengths, training.some(train, 7).lengths)


def test_time_to_a_quality_is_that_of_the_first_good_point_and_all_of_it_without_one() -> None:
    points = [{"seconds": float(s), "NDCG@10": q} for s, q in [(1, 0.1), (2, 0.3), (3, 0.2), (4, 0.5)]]
    assert [training.until(points, reach) for reach in (0.1, 0.2, 0.4, 0.9)] == [1.0, 2.0, 4.0, 4.0]


def test_the_clock_stands_while_a_model_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    _, train, validation = data()
    now = iter([0.0, 10.0, 110.0, 130.0, 1000.0])  # made; asked, judged; asked, judged
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(now))

    class Judged:
        def ndcg(self) -> float:
            return 0.25

    monkeypatch.setattr(training, "evaluate", lambda *_, **__: Judged())
    watch = training.Watch(validation, train, reach=0.3, budget_s=25.0)
    assert [watch(None, 1.0), watch(None, 2.0)] == [False, True]  # type: ignore[arg-type]
    assert [point["seconds"] for point in watch.points] == [10.0, 30.0]


def test_the_floor_counts_the_products_of_the_shape_that_is_timed() -> None:
    """d 128, window 128, a full history: 6 d a node and target, and what a layer costs, by hand."""
    tree, *_ = data()
    whole = Histories(offsets=np.array([0, 128]), items=np.arange(128, dtype=np.int32) % ITEMS, n_items=ITEMS)
    config = dense_alone(TrainingConfig())
    nodes = int(np.diff(tree.level_offsets)[-1]) + 32  # the leaves, and the one level above that is wide enough
    expected = 6 * 128 * nodes + 4 * (6 * 5 * 128**2 + 12 * 128 * 128)
    assert training.floor(tree, whole, config)["MFLOP a target"] == pytest.approx(expected / 1e6)


class Network:
    """Stands where the peer's does: a user is the item read last."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table, self.item_model = table, self

    def train(self, mode: bool = True) -> None: ...

    def eval(self) -> None: ...

    def get_all_embeddings(self) -> torch.Tensor:
        return self.table

    def encode_sessions(self, batch: dict[str, torch.Tensor], table: torch.Tensor) -> torch.Tensor:
        return table[batch["x"]]


def test_the_peer_s_items_are_ours_whatever_order_it_keeps_them_in() -> None:
    """Its table begins with padding, follows its own order, and lacks items nobody trained on."""
    n_items, items = 7, np.array([-1, 4, 0, 6, 1, 3, 5])  # item 2 was never trained
    table = torch.cat([torch.zeros(1, 6), torch.eye(6)])
    retriever = rectools_sasrec.SASRecOfPeer(Network(table), items, n_items=n_items, window=3)
    histories = [np.array([0, 4]), np.array([4, 1, 0, 5, 6]), np.array([3, 2]), np.array([], dtype=np.int64)]
    found, scores = retriever.recommend(histories, n_items, exclude=[np.array([], dtype=np.int64)] * 4)
    assert found[:2, 0].tolist() == [4, 6]
    assert scores[:2, 0].tolist() == [1.0, 1.0]
    assert scores[2, 0] == 0.0  # the newest is unknown: read as nothing
    assert (found[:, -1] == 2).all()
    shown, _ = retriever.recommend(histories[:1], 5)
    assert set(shown[0]) == {1, 2, 3, 5, 6}


def test_a_peer_that_cannot_be_had_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rectools_sasrec, "PACKAGES", ("no/such: package",))
    with pytest.raises(BadInput, match="cannot be installed"):
        rectools_sasrec.installed(tmp_path / "peer")
    assert not (tmp_path / "peer").exists()


@pytest.mark.slow
def test_the_whole_at_a_tiny_size(tmp_path: Path) -> None:
    """Real trainings of both sides in processes of their own: the same targets but for first behaviors, and both learn."""
    folder = ROOT / ".miss-bench" / "rectools"
    if not folder.exists():
        pytest.skip("RecTools is not there: `python -m benchmarks.training` installs it into .miss-bench/rectools")
    tree, train, validation = data()
    tree.save(tmp_path / "tree.npz")
    train.save(tmp_path / "train.npz")
    validation.save(tmp_path / "validation.npz")
    asked = {"material": str(tmp_path), "peer": str(folder), "users": 30, "epochs": 1, "options": TINY}
    rows, targets = training.measure(asked | {"reach": 0.9, "budget_s": 60.0})
    timed = {(row["model"], row["shape"]): row for row in rows if "targets timed" in row}
    assert len(timed) == 5
    chosen = training.some(train, 30).lengths
    assert timed[training.OURS, "default"]["targets timed"] == np.minimum(chosen, WINDOW).sum()
    peers = np.minimum(np.maximum(chosen - 1, 0), WINDOW).sum()
    assert timed[training.PEER, "default"]["targets timed"] == peers
    assert all(row["targets a second"] > 0 for row in timed.values())
    curves = {
        who: [r["NDCG@10"] for r in rows if r["model"] == who and r["shape"] == "curve"]
        for who in ("MISS", training.PEER)
    }
    assert len(curves["MISS"]) == 2
    assert len(curves[training.PEER]) == 8
    assert [target["bound"] for target in targets] == [2, 2, 0.5]
