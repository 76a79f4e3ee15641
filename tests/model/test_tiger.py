"""A user would lose: a generative baseline that spells items nobody sells, misses what it finds likely, or is not comparable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import make_histories, ring_vectors
from retriever_contract import N_ITEMS, NOTHING, SavedRetrieverContract, histories, ring_train

from model.baselines import TIGER, TIGERConfig
from model.baselines.semantic_ids import CodeTrie, semantic_ids
from model.baselines.tiger import FILE
from model.baselines.tiger_net import CodeNet
from model.dense_training import pad_left
from model.errors import BadInput, Corrupt
from model.evaluation import evaluate
from model.files import digest_file
from model.histories import leave_one_out
from model.retriever import Retriever
from model.stage import timeless

RING = 64
TINY = TIGERConfig(
    levels=2, codes=8, d=32, window=8, dropout=0.1, epochs=8, batch_users=32, min_steps=1, learning_rate=1e-2, beam=RING
)


def data(users: int = 300):
    return leave_one_out(make_histories(users, RING, shortest=4, longest=20))


def quiet(_: str) -> None:
    pass


def untrained(ids: np.ndarray, *, beam: int, seed: int = 0, window: int = 8) -> TIGER:
    """A network with no opinion formed, but with one about every code."""
    config = replace(TINY, d=16, window=window, beam=beam)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = CodeNet(ids, config)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return TIGER(net, ids, config)


def random_ids(n_items: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    every = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    return np.random.default_rng(seed).permutation(every)[:n_items].astype(np.int64)


@torch.no_grad()
def every_log_probability(retriever: TIGER, history: np.ndarray) -> np.ndarray:
    """(N,) of each item's ID, by the loss that training minimises, one item at a time."""
    net, h = retriever.net, retriever.net.window(pad_left([history], retriever.config.window))[:, -1]
    return np.array([-float(net.loss(h, torch.tensor([item]))[0]) for item in range(retriever.n_items)])


@pytest.fixture(scope="module")
def fitted() -> TIGER:
    train, validation, _ = data()
    return TIGER.fit(train, ring_vectors(RING), validation, TINY, progress=quiet)


@pytest.fixture(scope="module")
def ring_retriever() -> TIGER:
    _, validation, _ = leave_one_out(ring_train())
    config = replace(TINY, levels=2, codes=6, epochs=2, beam=N_ITEMS)
    return TIGER.fit(ring_train(), ring_vectors(N_ITEMS), validation, config, progress=quiet)


class TestTIGERContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self, ring_retriever: TIGER) -> Retriever:
        return ring_retriever


class TestTIGERWithAWideBeamContract(SavedRetrieverContract):
    @pytest.fixture
    def retriever(self) -> Retriever:
        return untrained(semantic_ids(ring_vectors(N_ITEMS), levels=3, codes=4, seed=1), beam=200)


@pytest.mark.parametrize(("levels", "codes"), [(1, 2), (2, 8), (3, 4), (3, 256)])
def test_ids_are_unique_and_numbered_among_equals(levels: int, codes: int) -> None:
    c = np.concatenate([ring_vectors(100), ring_vectors(100)[:7], ring_vectors(100)[:7]])  # some items three times
    ids = semantic_ids(c, levels=levels, codes=codes, seed=0)
    assert (ids.shape, ids.dtype) == ((114, levels + 1), np.int64)
    assert len(np.unique(ids, axis=0)) == 114
    assert 0 <= ids[:, :-1].min() <= ids[:, :-1].max() < codes
    seen: dict[tuple[int, ...], int] = {}
    for row in ids.tolist():
        front = tuple(row[:-1])
        assert row[-1] == seen.get(front, 0), "0, 1, 2... in the order of the catalogue"
        seen[front] = row[-1] + 1
    assert (ids[100:107, :-1] == ids[:7, :-1]).all(), "equal items share all but the number"
    if codes == 256:
        assert len(seen) == 100, "and with codes enough, only they do"


def test_neighbours_share_the_front_of_their_ids() -> None:
    """Planted: 8 far clusters, 8 near ones in each, 10 items in each of those."""
    rng = np.random.default_rng(5)
    coarse, fine = rng.normal(size=(8, 1, 1, 16)) * 20, rng.normal(size=(1, 8, 1, 16)) * 2
    c = (coarse + fine + rng.normal(size=(8, 8, 10, 16)) * 0.01).reshape(-1, 16).astype(np.float32)
    ids = semantic_ids(c, levels=2, codes=8, seed=0)[:, :2]
    near, far = np.repeat(np.arange(64), 10), np.repeat(np.arange(8), 80)
    assert len(np.unique(np.column_stack([near, ids]), axis=0)) == 64, "a near cluster has one pair of codes"
    same = ids[:, None] == ids[None, :]  # (N, N, 2)
    together = far[:, None] == far[None, :]
    assert same[together, 0].mean() > 0.9
    assert same[~together, 0].mean() < 0.1
    apart = together & (near[:, None] != near[None, :])
    assert same[apart].all(axis=1).mean() < 0.1, "the second code tells near clusters of one far cluster apart"


def test_ids_are_a_function_of_data_and_seed_and_leave_the_threads_alone() -> None:
    c = np.random.default_rng(0).normal(size=(500, 12)).astype(np.float32)
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        ids = semantic_ids(c, codes=16, seed=3)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)
    np.testing.assert_array_equal(ids, semantic_ids(c, codes=16, seed=3))
    assert (ids != semantic_ids(c, codes=16, seed=4)).any()
    one = semantic_ids(np.ones((5, 3), np.float32))
    assert one.tolist() == [[0, 0, 0, i] for i in range(5)], "nothing to tell apart but the number"


def test_what_has_no_id_is_refused() -> None:
    c = ring_vectors(10)
    with pytest.raises(BadInput, match="NaN"):
        semantic_ids(np.where(np.arange(10)[:, None] == 4, np.float32(np.nan), c))
    with pytest.raises(BadInput, match=r"shape \(0, 3\)"):
        semantic_ids(np.zeros((0, 3), np.float32))
    for options in ({"levels": 0}, {"codes": 1}, {"codes": 2**17}):
        name, value = next(iter(options.items()))
        with pytest.raises(BadInput, match=f"{name} = {value}"):
            semantic_ids(c, **options)
    with pytest.raises(BadInput, match=r"item 2 has the ID \[0, 1\]"):
        CodeTrie(np.array([[0, 1], [1, 1], [0, 1]]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_the_trie_holds_every_id_and_no_other(n_items: int, seed: int) -> None:
    ids = random_ids(n_items, (4, 5, 3), seed)
    trie = CodeTrie(ids)
    beam, fronts = np.zeros((2, 1), np.int64), [()]
    for level in range(3):
        nodes, source = trie.children(level, beam)
        np.testing.assert_array_equal(nodes[0], nodes[1])
        fronts = [(*fronts[s], int(trie.codes[level][n])) for n, s in zip(nodes[0], source[0], strict=True)]
        assert fronts == sorted({tuple(row[: level + 1]) for row in ids.tolist()})
        assert trie.items_under[level].tolist() == [(ids[:, : level + 1] == f).all(axis=1).sum() for f in fronts]
        beam = nodes
    assert [tuple(ids[item]) for item in trie.leaf_item] == fronts
    # a beam with holes: only what is under its nodes
    holes = np.array([[-1, 0, -1], [-1, -1, -1]])
    nodes, source = trie.children(1, holes)
    assert set(nodes[0].tolist()) - {-1} == set(
        np.flatnonzero(np.isin(trie.above[trie.leaf_item, 0], [0])).tolist()
    ) & set(trie.above[trie.above[:, 0] == 0, 1].tolist())
    assert (source[0][nodes[0] >= 0] == 1).all()
    assert (nodes[1] == -1).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_everything_is_brute_force(seed: int) -> None:
    ids = random_ids(50, (5, 6, 4), seed)
    retriever = untrained(ids, beam=50, seed=seed)
    walks = make_histories(6, 50, seed=seed)
    users = [NOTHING, np.array([4, 4, 49]), *(walks[user] for user in range(6))]
    items, scores = retriever.recommend(users, 50, exclude=[NOTHING] * 8)
    for row, user in enumerate(users):
        wanted = every_log_probability(retriever, user)
        assert sorted(items[row].tolist()) == list(range(50)), "each existing ID once, and nothing that does not exist"
        np.testing.assert_allclose(scores[row], wanted[items[row]], rtol=1e-4, atol=1e-4)
        assert (np.diff(wanted[items[row]]) <= 1e-4).all()
        # full softmaxes: what exists has less than all of the probability, the rest is on IDs nobody has
        assert np.exp(wanted).sum() < 1


def test_probabilities_of_a_full_trie_sum_to_one() -> None:
    retriever = untrained(random_ids(24, (2, 3, 4), 0), beam=24)
    _, scores = retriever.recommend([np.array([1, 2, 3]), NOTHING], 24, exclude=[NOTHING] * 2)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-4)


def test_a_narrow_beam_is_the_search_by_hand() -> None:
    """Beam search over fronts, written with dictionaries; excluded items make room for others instead of taking places."""
    ids = random_ids(50, (5, 6, 4), 9)
    for beam in (1, 3, 7):
        retriever = untrained(ids, beam=beam, seed=beam)
        for user, gone in ((np.array([3, 1]), NOTHING), (np.array([8]), np.arange(0, 50, 2)), (NOTHING, np.arange(45))):
            alive = [i for i in range(50) if i not in set(gone.tolist())]
            net = retriever.net
            with torch.no_grad():
                h = net.window(pad_left([user], 8))[:, -1]
                kept = {(): (0.0, h[:, None])}
                for level in range(3):
                    found = {}
                    for front, (score, state) in kept.items():
                        log_p = net.log_probabilities(state, level)[0, 0]
                        for code in range(len(log_p)):
                            longer = (*front, code)
                            if any(tuple(ids[i][: level + 1]) == longer for i in alive):
                                after = net.step(state, torch.tensor([[code]]), level) if level < 2 else state
                                found[longer] = (score + float(log_p[code]), after)
                    kept = dict(sorted(found.items(), key=lambda pair: -pair[1][0])[:beam])
            items, scores = retriever.recommend([user], beam, exclude=[gone])
            assert [tuple(ids[i]) for i in items[0] if i >= 0] == list(kept), (beam, user)
            assert len(kept) == min(beam, len(alive))
            np.testing.assert_allclose(scores[0, : len(kept)], [s for s, _ in kept.values()], rtol=1e-4)


def test_ties_go_to_the_lower_item() -> None:
    retriever = untrained(random_ids(24, (2, 3, 4), 1), beam=24)
    for parameter in retriever.net.parameters():
        torch.nn.init.zeros_(parameter)
    items, scores = retriever.recommend([np.array([5, 2])], 24)
    assert items[0].tolist() == [i for i in range(24) if i not in (2, 5)] + [-1, -1]
    assert len(set(scores[0, :22].tolist())) == 1
    assert retriever.recommend([np.array([5, 2])], 3)[0][0].tolist() == [0, 1, 3]


def test_only_the_window_and_known_items_count() -> None:
    retriever = untrained(random_ids(24, (2, 3, 4), 2), beam=24, window=4)
    long, short = np.array([9, 8, 1, 2, 3, 4]), np.array([1, 2, 3, 4])
    nobody = [NOTHING]
    plain = retriever.recommend([short], 24, exclude=nobody)
    for same in (long, np.array([1, -1, 2, 99, 3, 4]), np.array([9, 1, 2, 3, -1, 4], dtype=np.int32)):
        found = retriever.recommend([same], 24, exclude=nobody)
        np.testing.assert_array_equal(found[0], plain[0])
        np.testing.assert_allclose(found[1], plain[1], rtol=1e-5)
    assert retriever.recommend([short[1:]], 24, exclude=nobody)[0].tolist() != plain[0].tolist()


def test_more_than_the_beam_holds_is_refused_and_evaluation_asks_for_less() -> None:
    retriever = untrained(random_ids(50, (5, 6, 4), 3), beam=20)
    with pytest.raises(BadInput, match=r"k = 21 is beyond the search's beam of 20"):
        retriever.recommend([NOTHING], 21)
    _, _, test = leave_one_out(make_histories(30, 50, shortest=4, longest=9))
    assert evaluate(retriever, test, ks=(10, 200)).limit == 20
    for options in ({"beam": 0}, {"d": 10, "heads": 3}, {"dropout": 1.0}, {"window": 0}):
        name, value = next(iter(options.items()))
        with pytest.raises(BadInput, match=f"{name} = {value}"):
            TIGERConfig(**options)


def test_it_learns_the_ring(fitted: TIGER) -> None:
    """Users walk the ring by one or two: the known answer is the next items on the way."""
    _, _, test = data()
    assert fitted.name == "TIGER-style (semantic IDs)"
    assert fitted.curve[0]["loss"] > fitted.curve[-1]["loss"]
    assert {"loss_level_1", "loss_level_2", "loss_level_3", "gradient_norm"} <= set(fitted.curve[0])
    result = evaluate(fitted, test, ks=(5,))
    assert result.recall(5) > 0.9, fitted.curve
    walks = [np.arange(start, start + 5) % RING for start in range(RING)]
    right = fitted.recommend(walks, 1)[0][:, 0] == (np.arange(RING) + 5) % RING
    assert right.mean() > 0.8


def test_the_same_data_and_seed_give_the_same_bytes(fitted: TIGER, tmp_path: Path) -> None:
    train, validation, _ = data()
    random_state = torch.get_rng_state()
    again = TIGER.fit(train, ring_vectors(RING), validation, TINY, progress=quiet)
    assert torch.equal(random_state, torch.get_rng_state()), "the caller's random numbers are the caller's"
    fitted.save(tmp_path / "a")
    again.save(tmp_path / "b")
    assert digest_file(tmp_path / "a" / FILE) == digest_file(tmp_path / "b" / FILE)


_PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_tiger import RING, TINY, data
from planted import ring_vectors
from model.baselines import TIGER
train, validation, _ = data()
def tell(message):
    print(message, flush=True)
TIGER.fit(train, ring_vectors(RING), validation, TINY, checkpoint=Path(sys.argv[1]), progress=tell)
"""


@pytest.mark.slow
def test_a_killed_run_ends_where_an_unbroken_one_ends(fitted: TIGER, tmp_path: Path) -> None:
    here = Path(__file__).parent
    program = textwrap.dedent(_PROGRAM).format(paths=[str(here.parents[1]), str(here.parent), str(here)])
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "state.pt")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as victim:
        assert victim.stdout is not None
        for line in victim.stdout:
            if line.startswith("tiger epoch 4"):
                victim.send_signal(signal.SIGKILL)
                break
    assert victim.returncode == -signal.SIGKILL
    told: list[str] = []
    train, validation, _ = data()
    again = TIGER.fit(
        train, ring_vectors(RING), validation, TINY, checkpoint=tmp_path / "state.pt", progress=told.append
    )
    assert "resumed after epoch" in told[0]
    assert timeless(again.curve) == timeless(fitted.curve)
    for name, value in fitted.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name]), name


def test_who_cannot_be_validated_trains_all_the_same_and_wrong_embeddings_are_named() -> None:
    train, validation, _ = data(20)
    nobody = leave_one_out(make_histories(5, RING, shortest=2, longest=2))[1]
    fitted = TIGER.fit(train, ring_vectors(RING), nobody, replace(TINY, epochs=1), progress=quiet)
    assert fitted.curve[0]["validation_ndcg@10"] == 0
    few = replace(TINY, epochs=1, validation_users=7)
    assert TIGER.fit(train, ring_vectors(RING), validation, few, progress=quiet).curve[0]["validation_ndcg@10"] >= 0
    with pytest.raises(BadInput, match="65 embeddings for 64 items"):
        TIGER.fit(train, ring_vectors(RING + 1), validation, TINY)


def test_a_torn_or_foreign_file_is_named(tmp_path: Path) -> None:
    retriever = untrained(random_ids(24, (2, 3, 4), 2), beam=24)
    retriever.save(tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(Corrupt, match=FILE):
        TIGER.load(tmp_path)
    retriever.config = replace(retriever.config, d=32)
    retriever.save(tmp_path)
    with pytest.raises(Corrupt, match="another network"):
        TIGER.load(tmp_path)


def test_users_in_other_blocks_get_the_same_answers(ring_retriever: TIGER, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ring_retriever.recommend(histories(), 9)
    monkeypatch.setattr("model.baselines.tiger.STATES", 3 * N_ITEMS)
    parts = ring_retriever.recommend(histories(), 9)
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-5, atol=1e-5)
