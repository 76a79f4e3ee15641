"""A user would lose: pictures that open, and that say the same where the figures are the same."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from model.errors import BadInput
from model.plots import (
    _short,
    bins_compared,
    differences,
    drift_by_day,
    gain_by_length,
    loss_curves,
    recall_by_length,
    recall_by_level,
    tree_quality,
)

ROWS = [
    {"retriever": name, "slice": part, "users": 1200, "recall@50": value, "ndcg@10": value / 2}
    for name, value in (("MISS (tree)", 0.997), ("popularity", 0.1), ("EASE", 1.0), ("another", 0.0))
    for part in ("1-49", "50-99", "500+")
    if (name, part) != ("EASE", "500+")  # a retriever that was not evaluated there
]
LEVELS = {"MISS (tree)": {5: 1.0, 6: 0.9, 7: 0.7}, "by category": {6: 0.5, 7: 0.25}}
CURVES = {
    "dense": [
        {"validation_ndcg@10": 0.01},
        {"loss": 3.0, "loss_level_10": 1.0, "loss_level_2": 2.0, "validation_ndcg@10": 0.1},
        {"loss": 2.5, "loss_level_10": 0.9, "loss_level_2": 1.6, "validation_ndcg@10": 0.2},
    ],
    "lifelong": [{"loss": 2.0}],  # never validated
}
GAINS = [
    {"against": name, "slice": part, "users": 30, "mean_difference": value, "low95": value - 0.1, "high95": value + 0.2}
    for name, value in (("EASE", 0.05), ("another", -0.02))
    for part in ("1-49", "500+")
]
BINS = {
    "lengths": {"labels": ["0", "1-9"], "reference": [0.5, 0.5], "day": [0.2, 0.8]},
    "categories": {"labels": [f"category {i}" for i in range(22)], "reference": [1 / 22] * 22, "day": [1 / 22] * 22},
    "popularity": {"labels": ["head", "tail"], "reference": [0.5, 0.5], "day": [0, 1]},
}
DAYS = {
    "2020-01-01": {f"figure {i}": 0.01 * i for i in range(9)} | {"categories": 0.1},
    "2020-01-02": {"categories": 3.0, "figure 0": -1.0},
    "2020-01-03": {"figure 1": 0.05},
}
PICTURES: dict[str, Callable[[], bytes]] = {
    "recall by level": lambda: recall_by_level(LEVELS),
    "one level": lambda: recall_by_level({"a": {3: 0.5}}, simulated=True),
    "tree quality": lambda: tree_quality(LEVELS, simulated=True),
    "recall by length": lambda: recall_by_length(ROWS),
    "ndcg by length": lambda: recall_by_length(ROWS[:1], metric="ndcg@10", simulated=True),
    "gain by length": lambda: gain_by_length(GAINS, title="gain", simulated=True),
    "differences": lambda: differences(GAINS, title="against whom"),
    "one difference": lambda: differences(GAINS[:1], title="against whom", simulated=True),
    "bins": lambda: bins_compared(BINS, title="a day"),
    "one panel of bins": lambda: bins_compared({"lengths": BINS["lengths"]}, title="a day"),
    "drift": lambda: drift_by_day(DAYS, acting={"2020-01-02": ["categories"]}),
    "drift of one day": lambda: drift_by_day({"2020-01-02": {"popularity": 0.0}}),
    "loss curves": lambda: loss_curves(CURVES),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_opens_and_is_the_same_each_time(name: str) -> None:
    data = PICTURES[name]()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == "PNG"
        width, height = image.size
        assert len(set(image.convert("L").get_flattened_data())) > 2, "something is drawn"
    assert 600 <= width <= 2400
    assert 400 <= height <= 1400
    assert len(data) < 500_000
    assert PICTURES[name]() == data


def test_a_bar_is_labelled_with_its_rounded_height() -> None:
    assert [_short(v) for v in (0.0, 0.104, 0.994, 0.997, 1.0)] == [".00", ".10", ".99", "1.00", "1.00"]


def test_a_picture_says_where_histories_are_simulated() -> None:
    assert recall_by_level(LEVELS, simulated=True) != recall_by_level(LEVELS)


@pytest.mark.parametrize("draw", [recall_by_level, tree_quality, loss_curves, recall_by_length])
def test_nothing_to_draw_is_refused(draw: Callable[..., bytes]) -> None:
    for nothing in ([],) if draw is recall_by_length else ({}, {"a": {}}, {"a": [], "b": []}):
        with pytest.raises(BadInput, match="nothing to draw"):
            draw(nothing)
