"""The search benchmark's own arithmetic: a rank counted wrong, or a query that leaks its answer, would be a table of nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.search import ENCODERS, EQUALLY, LEARNT, PLAIN, _walk, duplicates, quality, ranks, told
from benchmarks.search_material import Asked, _names
from model.index_tree import build_tree
from model.search_space_training import Examples, nothing_learnt

N, TEXT, IMAGE = 80, 12, 20


@pytest.fixture(scope="module")
def asked() -> Asked:
    rng = np.random.default_rng(0)
    text, image = (rng.standard_normal((N, width)).astype(np.float32) for width in (TEXT, IMAGE))
    image[9] = image[4]
    item, yes = np.arange(0, 60, 3), np.ones(N, bool)
    none = Examples(
        item=item[:0],
        text=text[:0],
        text_present=yes[:0],
        text_left=text[:0],
        image=image[:0],
        image_present=yes[:0],
    )
    return Asked(
        title=[f"Film {n} (1999)" for n in range(N)],
        text=text,
        text_present=yes,
        image=image,
        image_present=yes.copy(),
        train=none,
        item=item,
        sentence=text[item],
        named=np.arange(len(item)) % 2 == 0,
        pictures={"cropped": image[item] + 0.1 * rng.standard_normal((len(item), IMAGE)).astype(np.float32)},
        posters=[],
        sentences=[],
    )


def test_ranks_are_those_of_counting_what_scores_as_much(asked: Asked) -> None:
    space = nothing_learnt(asked.text, asked.text_present, asked.image, asked.image_present)
    assert ranks(space, asked, text=True).tolist() == [1] * len(asked.item)
    found = ranks(space, asked, picture="cropped")
    assert found.max() <= 2
    assert found[list(asked.item).index(9)] == 2, (
        "a twin of the right item is not told from it: the tie goes against it"
    )
    lost = ranks(space, asked, text=True, lacks="text")
    assert lost.mean() > 20, "an item without its text is not found by it"
    row = told(np.array([1, 2, 20]))
    assert row["recall@1"] == pytest.approx(1 / 3)
    assert row["recall@10"] == pytest.approx(2 / 3)
    assert row["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 20) / 3)


def test_every_task_is_told_for_every_way_to_score(asked: Asked) -> None:
    space = nothing_learnt(asked.text, asked.text_present, asked.image, asked.image_present)
    rows = quality(asked, dict.fromkeys((LEARNT, EQUALLY, PLAIN, ENCODERS), space))
    assert {row["scored by"] for row in rows if row["task"] == "sentence"} == {LEARNT, EQUALLY, PLAIN, ENCODERS}
    assert all(row["MRR over equal weights"] == 0 for row in rows if "MRR over equal weights" in row)


def test_a_tree_walked_with_every_node_finds_what_scoring_every_item_finds(asked: Asked) -> None:
    tree = build_tree(asked.text)
    unit = asked.text / np.linalg.norm(asked.text, axis=1, keepdims=True)
    for query in asked.sentence[:5]:
        assert _walk(tree, unit, query, N).tolist() == np.argsort(-(unit @ query))[:10].tolist()


def test_twins_are_listed(asked: Asked) -> None:
    rows = duplicates(asked)
    assert rows[1]["near-duplicates"] == "Film 4 (1999) / Film 9 (1999)"
    assert rows[1]["cosine"] == pytest.approx(1, abs=1e-5)


def test_a_sentence_that_names_its_film_is_told_from_one_that_does_not() -> None:
    assert _names("Toy Story (1995)", "The toys of this story come alive.")
    assert not _names("Toy Story (1995)", "Historians of 1995 praised it.")
