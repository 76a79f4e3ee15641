"""A user would lose: a rival that deserves the name. SASRec keeps the contract in both searches and learns what is planted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import make_histories
from retriever_contract import N_ITEMS, NOTHING, SavedRetrieverContract, histories, ring_train

from model.baselines import SASRec, SASRecConfig, sasrec
from model.baselines.sasrec import SASRecNetwork
from model.errors import BadInput, Corrupt
from model.evaluation import evaluate
from model.files import digest_file
from model.histories import EvaluationSet, Histories, leave_one_out
from model.retriever import Retriever

TINY = SASRecConfig(
    d=16, heads=2, feed_forward=16, window=12, dropout=0.1, epochs=4, batch_users=16, min_steps=1, learning_rate=1e-2
)


def _quiet(_: str) -> None:
    pass


def _data(users: int = 300, items: int = N_ITEMS) -> tuple[Histories, EvaluationSet, EvaluationSet]:
    return leave_one_out(make_histories(users, items, shortest=4, longest=20))


@pytest.fixture(scope="module")
def trained() -> SASRec:
    """Trained on the contract's own users."""
    _, validation, _ = _data(60)
    return SASRec.fit(ring_train(), validation, TINY, progress=_quiet)


class TestSASRecExactContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self, trained: SASRec) -> Retriever:
        return trained


class TestSASRecHNSWContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self, trained: SASRec) -> Retriever:
        return trained.searching("hnsw", ef_search=8)  # narrower than the catalogue, so that the graph is walked


def test_the_next_item_of_a_walk_is_found() -> None:
    """Users walk the ring one by one, in either search: the known answer is the next item, wherever the walk stands."""
    size, steps = 50, 9
    starts = np.random.default_rng(0).integers(0, size, 400)
    walks = (starts[:, None] + np.arange(steps)) % size
    offsets = np.arange(0, walks.size + 1, steps)
    train, validation, _ = leave_one_out(Histories(offsets=offsets, items=walks.ravel().astype(np.int32), n_items=size))
    said: list[str] = []
    retriever = SASRec.fit(train, validation, replace(TINY, epochs=6), progress=said.append)
    assert "validation_ndcg@10" in said[-1]
    users = [(start + np.arange(length)) % size for length in (1, 3, 6, 30) for start in range(size)]
    wanted = [(int(user[-1]) + 1) % size for user in users]
    for searching in (retriever, retriever.searching("hnsw")):
        found = searching.recommend(users, 1)[0][:, 0]
        assert (found == wanted).mean() > 0.95, searching.name


def test_training_beats_what_it_starts_from_and_order_matters() -> None:
    train, validation, test = _data(600)
    before = SASRec.fit(train, validation, replace(TINY, epochs=1, learning_rate=1e-9), progress=_quiet)
    after = SASRec.fit(train, validation, replace(TINY, epochs=6), progress=_quiet)
    low, high = (evaluate(each, test, ks=(5,)).recall(5) for each in (before, after))
    assert low < 0.4
    assert high > 0.8
    there, back = np.array([10, 11, 12, 13]), np.array([13, 12, 11, 10])
    assert after.recommend([there], 1)[0][0, 0] in (14, 15)
    assert after.recommend([there], 5)[1].tolist() != after.recommend([back], 5)[1].tolist()


@pytest.mark.parametrize("training", [True, False])
def test_nothing_later_is_seen_and_padding_is_nothing(training: bool) -> None:
    """Both ways through torch's layers: the one that trains, and its fast path without gradients."""
    torch.manual_seed(0)
    network = SASRecNetwork(N_ITEMS, replace(TINY, dropout=0.0)).train(training)
    items = torch.randint(0, N_ITEMS, (3, 7))
    lengths = torch.tensor([7, 7, 7])
    with torch.set_grad_enabled(training):
        whole = network(items, lengths)
        changed = items.clone()
        changed[:, 5:] = (changed[:, 5:] + 1) % N_ITEMS
        torch.testing.assert_close(network(changed, lengths)[:, :5], whole[:, :5])
        assert not torch.allclose(network(changed, lengths)[:, 5:], whole[:, 5:])
        padded = torch.cat([items, torch.full((3, 4), 9)], dim=1)
        torch.testing.assert_close(network(padded, lengths)[:, :7], whole)
        torch.testing.assert_close(network.train(not training)(items, lengths), whole)


def test_a_row_of_training_is_the_row_that_is_asked() -> None:
    """Windows come padded on the left; what the network is shown is what `read` would show it."""
    inputs = np.array([[-1, -1, 3, 4], [5, 6, 7, 8], [-1, 1, 2, 9]])
    targets = np.array([[-1, 3, 4, 5], [6, 7, 8, 9], [1, 2, 9, 0]])
    items, lengths, aims = sasrec._left_aligned(inputs, targets)
    assert lengths.tolist() == [2, 4, 3]
    assert [row[:n].tolist() for row, n in zip(items, lengths, strict=True)] == [[3, 4], [5, 6, 7, 8], [1, 2, 9]]
    assert aims.tolist() == [[4, 5, -1, -1], [6, 7, 8, 9], [2, 9, 0, -1]]


def test_only_the_window_is_read_and_unknown_items_are_not(trained: SASRec) -> None:
    long = np.arange(100) % N_ITEMS
    with_noise = np.array([-1, *long[-TINY.window :], N_ITEMS + 3, -5])
    free = [NOTHING, NOTHING, NOTHING]
    scores = trained.recommend([long, long[-TINY.window :], with_noise], 6, exclude=free)[1]
    np.testing.assert_allclose(scores[1:], scores[:2], rtol=1e-5, atol=1e-6)
    other = trained.recommend([long[-TINY.window + 3 :]], 6, exclude=free[:1])[1]
    assert not np.allclose(other, scores[:1], rtol=1e-3)


def test_a_wide_graph_finds_what_scoring_everything_finds(trained: SASRec) -> None:
    exact, found = (each.recommend(histories(), 10) for each in (trained, trained.searching("hnsw")))
    np.testing.assert_array_equal(exact[0], found[0])
    np.testing.assert_allclose(exact[1], found[1], rtol=1e-5, atol=1e-5)


def test_who_says_nothing_gets_what_is_popular(trained: SASRec) -> None:
    order = np.argsort(-ring_train().counts(), kind="stable")
    for searching in (trained, trained.searching("hnsw")):
        items, _ = searching.recommend([NOTHING, np.array([3]), np.array([-1, N_ITEMS])], N_ITEMS)
        assert items[0].tolist() == items[2].tolist() == order.tolist()
        assert items[1].tolist() != order.tolist()


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sasrec import TINY, _data
from model.baselines import SASRec
train, validation, _ = _data()
def tell(message):
    if message.startswith("sasrec epoch 3"):  # trained, and not yet written down
        os.kill(os.getpid(), signal.SIGKILL)
SASRec.fit(train, validation, TINY, checkpoint=Path(sys.argv[1]), progress=tell)
"""


def test_a_killed_run_ends_where_an_unbroken_one_ends(tmp_path: Path) -> None:
    train, validation, _ = _data()
    here = Path(__file__).parent
    checkpoint = tmp_path / "sasrec.pt"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here.parent)])}
    program = textwrap.dedent(_KILLED).format(tests=str(here))
    done = subprocess.run([sys.executable, "-c", program, str(checkpoint)], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    said: list[str] = []
    SASRec.fit(train, validation, TINY, checkpoint=checkpoint, progress=said.append).save(tmp_path / "broken")
    assert said[0].startswith("sasrec: resumed after epoch 2")
    SASRec.fit(train, validation, TINY, progress=_quiet).save(tmp_path / "whole")
    SASRec.fit(train, validation, replace(TINY, seed=1), progress=_quiet).save(tmp_path / "other")
    digests = [digest_file(tmp_path / name / sasrec.FILE) for name in ("broken", "whole", "other")]
    assert digests[0] == digests[1] != digests[2]


def test_loading_uses_up_no_random_number(trained: SASRec, tmp_path: Path) -> None:
    trained.save(tmp_path)
    torch.manual_seed(5)
    wanted = torch.rand(2).tolist()
    torch.manual_seed(5)
    assert SASRec.load(tmp_path).config == TINY
    assert torch.rand(2).tolist() == wanted


def test_what_cannot_be_used_is_refused(trained: SASRec, tmp_path: Path) -> None:
    for options, words in (
        ({"layers": 0}, "layers = 0"),
        ({"window": -1}, "window = -1"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"d": 10, "heads": 3}, "d = 10 is not a multiple of heads = 3"),
    ):
        with pytest.raises(BadInput, match=words):
            SASRecConfig(**options)
    with pytest.raises(BadInput, match="search = 'faiss' is not known"):
        trained.searching("faiss")  # type: ignore[arg-type]
    train, validation, _ = _data(20)
    with pytest.raises(BadInput, match="train has 41 items, validation 40"):
        SASRec.fit(make_histories(20, N_ITEMS + 1), validation)
    alone = Histories(offsets=np.array([0, 1]), items=np.array([3], np.int32), n_items=N_ITEMS)
    with pytest.raises(BadInput, match="no next item to learn"):
        SASRec.fit(alone, validation)
    with pytest.raises(BadInput, match="nobody to validate on"):
        SASRec.fit(train, leave_one_out(alone)[1])
    trained.save(tmp_path)
    whole = (tmp_path / sasrec.FILE).read_bytes()
    (tmp_path / sasrec.FILE).write_bytes(whole[:-40])
    with pytest.raises(Corrupt, match=sasrec.FILE):
        SASRec.load(tmp_path)
