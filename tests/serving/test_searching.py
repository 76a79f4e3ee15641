"""Searching a bundle: what people type or drop must find its item, what cannot be searched with must be refused in a sentence."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import N_ITEMS
from tiny_content import NO_PICTURE, NO_TEXT, SUBJECTS, pictures, texts

from model.errors import BadInput, Corrupt, NotReady
from model.files import read_npz, write_npz
from serving.search import MAX_SIDE, Searcher

NONE = np.zeros(0, np.int64)


@pytest.fixture(scope="session")
def searcher(bundle: Path) -> Searcher:
    return Searcher(bundle, n_items=N_ITEMS)


def beside(left: bytes, right: bytes) -> bytes:
    """One PNG of two pictures side by side."""
    from PIL import Image

    both = Image.new("RGB", (192, 96))
    for x, data in ((0, left), (96, right)):
        both.paste(Image.open(io.BytesIO(data)), (x, 0))
    out = io.BytesIO()
    both.save(out, "PNG")
    return out.getvalue()


def test_a_text_finds_the_items_that_it_is_about(searcher: Searcher) -> None:
    for subject, words in enumerate(("lighthouse storm", "musical penguins", "chess under water", "rival bakers")):
        items, scores = searcher.search(text=words, k=5, exclude=NONE)
        assert {int(item) % len(SUBJECTS) for item in items} == {subject}
        assert (np.diff(scores) <= 0).all()


def test_a_picture_finds_its_item_and_a_box_the_part_that_is_meant(searcher: Searcher) -> None:
    for item in (0, 3, 40, 59):
        assert searcher.search(image=pictures()[item], k=1, exclude=NONE)[0].tolist() == [item]
    both = beside(pictures()[4], pictures()[21])
    assert searcher.search(image=both, box=(0, 0, 0.5, 1), k=1, exclude=NONE)[0].tolist() == [4]
    assert searcher.search(image=both, box=(0.5, 0, 1, 1), k=1, exclude=NONE)[0].tolist() == [21]


def test_the_weights_say_whether_the_text_or_the_picture_counts(searcher: Searcher) -> None:
    asked = {"text": SUBJECTS[2], "image": pictures()[5], "k": 1, "exclude": NONE}
    assert searcher.search(**asked, shares=(1, 9))[0].tolist() == [5]
    assert int(searcher.search(**asked, shares=(9, 1))[0][0]) % len(SUBJECTS) == 2
    alone, _ = searcher.search(image=pictures()[5], shares=(1, 0), k=3, exclude=NONE)
    assert alone[0] == 5, "shares weigh two modalities against each other, and do not switch off the only one"


def test_items_that_lack_a_modality_are_found_by_the_other(searcher: Searcher) -> None:
    assert searcher.search(image=pictures()[NO_TEXT], k=1, exclude=NONE)[0].tolist() == [NO_TEXT]
    assert searcher.search(text=texts()[NO_PICTURE], k=1, exclude=NONE)[0].tolist() == [NO_PICTURE]


def test_similar_items_are_those_of_brute_force_and_never_what_is_excluded(searcher: Searcher, bundle: Path) -> None:
    tree = read_npz(bundle / "tree.npz")
    c = tree["z"][tree["item_leaf"]]
    gone = np.arange(0, N_ITEMS, 3)
    cosines = c @ c[17]
    cosines[[17, *gone]] = -np.inf
    items, scores = searcher.similar(17, 10, exclude=gone)
    assert items.tolist() == np.argsort(-cosines, kind="stable")[:10].tolist()
    np.testing.assert_allclose(scores, np.sort(cosines)[::-1][:10], rtol=1e-5)
    rest, _ = searcher.similar(17, N_ITEMS, exclude=gone)
    assert (rest >= 0).sum() == N_ITEMS - len({17, *gone.tolist()})


def test_the_graph_and_every_item_scored_agree(bundle: Path, searcher: Searcher) -> None:
    """A catalogue beyond the bound is searched through HNSW: on one this small it must give the very same answers."""
    graph = Searcher(bundle, n_items=N_ITEMS, exact=1)
    gone = np.array([1, 9])
    for asked in ({"text": SUBJECTS[1]}, {"image": pictures()[8]}, {"text": "trumpet", "image": pictures()[2]}):
        np.testing.assert_array_equal(
            graph.search(**asked, k=12, exclude=gone)[0], searcher.search(**asked, k=12, exclude=gone)[0]
        )
    np.testing.assert_array_equal(graph.similar(5, 60, exclude=gone)[0], searcher.similar(5, 60, exclude=gone)[0])


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises more than it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "no text and no picture"),
        ({"text": "   "}, "no text and no picture"),
        ({"text": "penguins", "box": (0, 0, 1, 1)}, "no picture for it"),
        ({"image": b""}, "no format that is read here"),
        ({"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"}, "no format that is read here"),
        ({"image": pictures()[0][:200]}, "cannot be used"),
        ({"image": bomb(30_000, 30_000)}, "pixels"),
        ({"image": bomb(8000, 8000)}, "8000 x 8000 pixels"),
        ({"image": bomb(MAX_SIDE + 1, 1)}, "a side"),
        ({"image": pictures()[0], "box": (0.5, 0, 0.5, 1)}, "no part of a picture"),
        ({"image": pictures()[0], "box": (0, 0, 1, 1.5)}, "no part of a picture"),
        ({"image": pictures()[0], "text": "a", "shares": (0, 0)}, "one above 0"),
        ({"text": "a", "k": N_ITEMS + 1}, str(N_ITEMS + 1)),
    ],
)
def test_what_cannot_be_searched_with_is_refused_in_one_sentence(searcher: Searcher, asked: dict, told: str) -> None:
    with pytest.raises(BadInput, match=told) as refused:
        searcher.search(**({"k": 3, "exclude": NONE} | asked))
    assert "\n" not in str(refused.value)


def test_a_query_through_another_encoder_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Its vector would be compared with vectors of another meaning, and the answer be nonsense that looks like an answer."""
    other = tmp_path / "bundle"
    shutil.copytree(bundle, other)
    told = json.loads((other / "search.json").read_text())
    told["text"] |= {"name": "another-encoder", "digest": "0" * 64}
    (other / "search.json").write_text(json.dumps(told))
    searcher = Searcher(other, n_items=N_ITEMS)
    with pytest.raises(NotReady, match="another-encoder"):
        searcher.search(text="penguins", k=3, exclude=NONE)
    assert searcher.search(image=pictures()[9], k=1, exclude=NONE)[0].tolist() == [9]


def test_files_that_do_not_belong_together_are_corrupt(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "bundle"
    shutil.copytree(bundle, other)
    with pytest.raises(Corrupt, match="59"):
        Searcher(other, n_items=59)
    arrays = read_npz(other / "search.npz")
    write_npz(other / "search.npz", {name: value for name, value in arrays.items() if name != "joint_text"})
    with pytest.raises(Corrupt, match="joint_text"):
        Searcher(other, n_items=N_ITEMS)
