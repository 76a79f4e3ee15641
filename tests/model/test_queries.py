"""Queries made of the catalogue: a sentence left in the index, or a change that changes nothing, teaches and proves nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_content import image_encoder, picture

from model.errors import BadInput
from model.queries import Change, altered, held_out_sentence, random_box, sentences

STORY = "Jumanji is a 1995 film by Joe Johnston. It stars Robin Williams, Jr. and others. The story is about a board game. Short."


def test_sentences_are_those_that_say_something() -> None:
    assert sentences(STORY)[0] == "Jumanji is a 1995 film by Joe Johnston."
    assert sentences(STORY)[-1] == "The story is about a board game."
    assert sentences(None) == sentences("") == sentences("Short. Very.") == []


@given(st.integers(0, 2**32 - 1))
def test_what_is_asked_is_no_longer_in_the_text_and_is_not_what_names_the_item(seed: int) -> None:
    found = held_out_sentence(STORY, np.random.default_rng(seed))
    assert found is not None
    asked, left = found
    assert asked not in left
    assert "Jumanji is" in left
    assert len(asked) + len(left) >= len(STORY) - 2
    assert held_out_sentence("One sentence alone is no query.", np.random.default_rng(seed)) is None


@pytest.mark.parametrize("change", get_args(Change))
def test_an_altered_picture_is_another_one_of_the_same_item(change: Change) -> None:
    data = picture(3)
    one, two = (altered(data, change, np.random.default_rng(seed)) for seed in (1, 1))
    assert one == two
    with Image.open(io.BytesIO(one)) as made, Image.open(io.BytesIO(data)) as original:
        assert made.format == "JPEG"
        assert made.size != original.size or np.abs(np.asarray(made, float) - np.asarray(original, float)).mean() > 5
    assert altered(data, change, np.random.default_rng(2)) != one


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(BadInput, match="not a picture"):
        altered(b"no picture", "cropped", np.random.default_rng(0))


@given(st.integers(0, 2**32 - 1))
def test_a_part_lies_within_its_picture(seed: int) -> None:
    left, top, right, bottom = random_box(np.random.default_rng(seed))
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1
    assert 0.4 - 1e-9 <= right - left <= 0.8 + 1e-9


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0.001, 1), st.floats(0.001, 1)),
)
def test_a_box_is_cut_out_as_pillow_would(
    tmp_path_factory: pytest.TempPathFactory, w: int, h: int, parts: tuple
) -> None:
    """However small the picture and the box, what is encoded is at least a pixel of it."""
    box = (parts[0], parts[1], min(parts[0] + parts[2], 1.0), min(parts[1] + parts[3], 1.0))
    if box[0] >= box[2] or box[1] >= box[3]:
        return
    pixels = np.random.default_rng(w * 1000 + h).integers(0, 256, (h, w, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    encoder = image_encoder(ENCODER)
    got = encoder.prepare(out.getvalue(), box=box)
    assert got.shape == (24, 24, 3)
    x0, y0 = min(int(box[0] * w), w - 1), min(int(box[1] * h), h - 1)
    x1, y1 = max(round(box[2] * w), x0 + 1), max(round(box[3] * h), y0 + 1)
    cut = Image.fromarray(pixels[y0:y1, x0:x1]).resize((24, 24), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(got, np.asarray(cut))


def test_a_small_part_of_a_large_photograph_keeps_its_detail(tmp_path: Path) -> None:
    """JPEGs are decoded at a reduced scale: reduced for the whole picture, a part of it would be a blur."""
    pixels = np.zeros((2000, 2000, 3), np.uint8)
    pixels[:200:4, :200] = 255  # lines four pixels apart, gone at a quarter of the scale
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    got = image_encoder(tmp_path / "encoder").prepare(out.getvalue(), box=(0, 0, 0.01, 0.01))
    assert got.astype(float).std() > 30


@pytest.fixture(autouse=True, scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global ENCODER
    ENCODER = tmp_path_factory.mktemp("encoder")
    image_encoder(ENCODER)


ENCODER = Path()
