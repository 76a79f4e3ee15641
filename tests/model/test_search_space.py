"""The search space: a query must find its item by whatever both have, and a modality that says nothing must not be listened to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from model import search_files
from model.errors import BadInput
from model.search_space import PAIRS, SearchSpace, SearchSpaceConfig
from model.search_space_training import EQUAL, Examples, nothing_learnt, train

N, QUERIES, TEXT, IMAGE, HIDDEN = 400, 300, 24, 40, 12
CONFIG = SearchSpaceConfig(dim=16, text_components=24, image_components=40, epochs=60, batch=128, learning_rate=5e-3)


@dataclass
class World:
    """Texts and pictures that show the same hidden thing, and queries that show it again."""

    text: np.ndarray
    image: np.ndarray
    examples: Examples
    new: Examples
    yes: np.ndarray


@pytest.fixture(scope="module")
def world() -> World:
    """Pictures of queries are twice as noisy as their texts. `new` are queries for the last hundred items, unseen in training."""
    rng = np.random.default_rng(3)
    hidden = rng.standard_normal((N, HIDDEN))
    by_text, by_image = rng.standard_normal((HIDDEN, TEXT)), rng.standard_normal((HIDDEN, IMAGE))

    def shown(how: np.ndarray, rows: np.ndarray, noise: float) -> np.ndarray:
        seen = hidden[rows] @ how
        return (seen + noise * rng.standard_normal(seen.shape)).astype(np.float32)

    everything = np.arange(N)

    def asked(rows: np.ndarray) -> Examples:
        yes = np.ones(len(rows), bool)
        return Examples(
            item=rows,
            text=shown(by_text, rows, 1.5),
            text_present=yes,
            text_left=text[rows],
            image=shown(by_image, rows, 6.0),
            image_present=yes,
        )

    text, image = shown(by_text, everything, 0.5), shown(by_image, everything, 0.5)
    return World(text, image, asked(everything[:QUERIES]), asked(everything[QUERIES:]), np.ones(N, bool))


@pytest.fixture(scope="module")
def learnt(world: World) -> SearchSpace:
    seen = np.arange(N) < QUERIES
    return train(world.text, seen, world.image, seen, world.examples, CONFIG).space


def reciprocal(
    space: SearchSpace, world: World, *, text: bool, image: bool, there: tuple[bool, bool] = (True, True)
) -> float:
    """Mean reciprocal rank of the unseen items; `there`: which modalities they have themselves."""
    new = world.new
    rows = new.item
    has = [world.yes.copy(), world.yes.copy()]
    for each, kept in zip(has, there, strict=True):
        each[rows] = kept
    items = space.items(world.text, has[0], world.image, has[1])
    scores = space.queries(new.text, new.text_present & text, new.image, new.image_present & image) @ items.T
    right = scores[np.arange(len(rows)), rows]
    return float((1 / (scores >= right[:, None]).sum(axis=1)).mean())


def test_the_score_is_the_weighted_sum_of_four_cosines(world: World) -> None:
    """Whoever puts the vectors into another index must get the same ranks."""
    space = nothing_learnt(world.text, world.yes, world.image, world.yes, CONFIG)
    rng = np.random.default_rng(0)
    state = space.state | {"weights": np.array([0.3, 0.7, 1.1, 0.2, 0.05, -0.4], np.float32)}
    for name in ("own_text", "asks_image"):
        state[name] = state[name] + 0.3 * rng.standard_normal(state[name].shape).astype(np.float32)
    space = SearchSpace(state)
    has_text, has_image = world.yes.copy(), world.yes.copy()
    has_text[0] = has_image[1] = False
    items = space.items(world.text, has_text, world.image, has_image)
    queries = space.queries(world.new.text, world.new.text_present, world.new.image, world.new.image_present)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def seen(name: str, vectors: np.ndarray) -> np.ndarray:
        return unit((vectors - state[f"{name}_mean"]) @ state[f"{name}_axes"].T)

    for q, i in ((0, 0), (3, 1), (5, 2), (99, 399)):
        t, v = seen("text", world.new.text[q]), seen("image", world.new.image[q])
        it, iv = seen("text", world.text[i]), seen("image", world.image[i])
        joint = {name: state[f"joint_{name}"] for name in ("text", "image")}
        cosines = [
            unit(t @ state["own_text"]) @ unit(it @ state["own_text"]),
            unit(v @ state["own_image"]) @ unit(iv @ state["own_image"]),
            unit(unit(t @ joint["text"]) + state["asks_text"]) @ unit(iv @ joint["image"]),
            unit(unit(v @ joint["image"]) + state["asks_image"]) @ unit(it @ joint["text"]),
        ]
        on = [has_text[i], has_image[i], has_image[i], has_text[i]]
        lacking = [0.05, -0.4, -0.4, 0.05]
        wanted = sum(
            w * (c if there else worth)
            for w, c, there, worth in zip(state["weights"], cosines, on, lacking, strict=False)
        )
        assert queries[q] @ items[i] == pytest.approx(wanted, abs=1e-5)


def test_unseen_items_are_found_by_either_modality_and_better_by_both(world: World, learnt: SearchSpace) -> None:
    by_text = reciprocal(learnt, world, text=True, image=False)
    by_image = reciprocal(learnt, world, text=False, image=True)
    by_both = reciprocal(learnt, world, text=True, image=True)
    assert by_text > 0.8
    assert by_image > 0.1
    assert by_both >= by_text - 0.02


def test_a_text_finds_a_picture_of_an_item_without_text(world: World, learnt: SearchSpace) -> None:
    """The joint space is all there is between the two: by the encoders alone this is chance, some .02."""
    alone = nothing_learnt(world.text, world.yes, world.image, world.yes, CONFIG)
    assert reciprocal(learnt, world, text=True, image=False, there=(False, True)) > 0.25
    assert reciprocal(alone, world, text=True, image=False, there=(False, True)) < 0.1


def test_weights_are_learnt_to_trust_what_tells_items_apart(world: World, learnt: SearchSpace) -> None:
    assert learnt.weights["text_text"] > learnt.weights["image_image"]
    equally = SearchSpace(learnt.state | {"weights": EQUAL})
    assert reciprocal(learnt, world, text=True, image=True) > reciprocal(equally, world, text=True, image=True)


def test_same_catalogue_same_bytes(world: World, learnt: SearchSpace) -> None:
    """A search space that differs from run to run makes every nightly bundle a new one."""
    seen = np.arange(N) < QUERIES
    everything = (world.text, world.yes, world.image, world.yes)
    items = []
    for threads in (1, 2):  # nor does it follow the machine
        with threadpool_limits(threads, user_api="blas"):
            items.append(learnt.items(*everything).tobytes())
    with threadpool_limits(2, user_api="blas"):
        again = train(world.text, seen, world.image, seen, world.examples, CONFIG).space
    assert items[0] == items[1]
    assert {name: value.tobytes() for name, value in again.state.items()} == {
        name: value.tobytes() for name, value in learnt.state.items()
    }


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_catalogue_too_small_to_learn_from_is_searched_as_the_encoders_see_it(n: int, world: World) -> None:
    few = world.examples.part(np.arange(n))
    learnt = train(world.text[:n], world.yes[:n], world.image[:n], np.zeros(n, bool), few, CONFIG)
    items = learnt.space.items(world.text[:n], world.yes[:n], world.image[:n], np.zeros(n, bool))
    assert np.isfinite(items).all()
    assert list(learnt.space.weights.values())[: len(PAIRS)] == [1.0] * len(PAIRS)
    if n > 2:
        query = learnt.space.queries(world.text[:n], world.yes[:n], world.image[:n], np.zeros(n, bool))
        assert (query @ items.T).argmax(axis=1).tolist() == list(range(n))


@given(st.integers(0, 2**32 - 1), st.floats(0, 5), st.floats(0.01, 5))
@settings(max_examples=25, deadline=None)
def test_a_query_does_not_depend_on_its_company(
    world: World, learnt: SearchSpace, seed: int, a: float, b: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(world.new.item), 5)
    part = world.new.part(rows)
    has = rng.random((2, 5)) < 0.6
    together = learnt.queries(part.text, has[0], part.image, has[1], shares=(a, b))
    for row in range(5):
        one = part.part(np.array([row]))
        alone = learnt.queries(one.text, has[0, row : row + 1], one.image, has[1, row : row + 1], shares=(a, b))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
    assert not together[~has.any(axis=0)].any()


def test_what_does_not_fit_is_refused(world: World, learnt: SearchSpace) -> None:
    one, yes = np.zeros((1, TEXT), np.float32), np.ones(1, bool)
    picture = np.zeros((1, IMAGE), np.float32)
    with pytest.raises(BadInput, match="encoder it was made with"):
        learnt.queries(np.zeros((1, TEXT + 1), np.float32), yes, picture, yes)
    with pytest.raises(BadInput, match="NaN"):
        learnt.items(one * np.nan, yes, picture, yes)
    for shares in ((0.0, 0.0), (-1.0, 1.0), (np.inf, 1.0), (np.nan, 1.0)):
        with pytest.raises(BadInput, match="weights"):
            learnt.queries(one, yes, picture, yes, shares=shares)
    with pytest.raises(BadInput, match="does not fit together"):
        SearchSpace(learnt.state | {"weights": np.ones(3, np.float32)})
    with pytest.raises(BadInput, match="held_out"):
        SearchSpaceConfig(held_out=0)


@dataclass
class FakeEncoder:
    """What `search_files.write` asks of an encoder."""

    name: str
    digest: str
    files: tuple[Path, ...] = ()


def test_new_items_are_put_behind_the_old_ones_but_not_another_encoders(
    world: World, learnt: SearchSpace, tmp_path: Path
) -> None:
    """An item that came after training is found like any other; vectors of two encoders in one table would find nonsense."""
    from model.encoders.image import Preprocess

    text, image = FakeEncoder("t", "a" * 64), FakeEncoder("i", "b" * 64)
    image.preprocess = Preprocess()  # type: ignore[attr-defined]
    items = learnt.items(world.text, world.yes, world.image, world.yes)
    (tmp_path / "old").mkdir()
    search_files.write(tmp_path / "old", learnt, items[:300], text=text, image=image)  # type: ignore[arg-type]
    content = (world.text[300:], world.yes[300:], world.image[300:], world.yes[300:])
    (tmp_path / "new").mkdir()
    search_files.extend(tmp_path / "old", tmp_path / "new", *content, encoders={"text": "a" * 64, "image": "b" * 64})
    _, found, told = search_files.read(tmp_path / "new", n_items=N)
    np.testing.assert_allclose(found, items, atol=1e-3)
    assert told["text"]["digest"] == "a" * 64
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match="image encoder"):
        search_files.extend(
            tmp_path / "old", tmp_path / "other", *content, encoders={"text": "a" * 64, "image": "c" * 64}
        )
