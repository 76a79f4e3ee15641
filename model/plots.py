"""Pictures for people who decide: each function returns the bytes of a PNG.

- Drawn on a canvas of its own, without pyplot: no global state, no display, nothing to close.
- One retriever has one colour in every picture, ours the strongest; series are labelled at their ends or in one legend.
- Same input, same bytes: no date and no version goes into the file.
- matplotlib is imported when a picture is drawn, not with this module.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.errors import BadInput

__all__ = [
    "bins_compared",
    "differences",
    "drift_by_day",
    "gain_by_length",
    "loss_curves",
    "recall_by_length",
    "recall_by_level",
    "tree_quality",
]

_KNOWN = {
    "MISS (tree)": "#c2410c",
    "popularity": "#9ca3af",
    "item-kNN (recency)": "#0e7490",
    "item-kNN (recency, windowed)": "#67b7c9",
    "EASE": "#7c5cbf",
}
_OTHERS = ("#c2410c", "#0e7490", "#7c5cbf", "#4d7c0f", "#b4893a", "#9d3c72", "#475569")
_SMALL_DPI = 80
"""Of pictures that go into the event log every day."""
_INK, _GRID = "#1f2937", "#e5e7eb"


def _colours(names: Sequence[str]) -> dict[str, str]:
    free = iter([colour for colour in _OTHERS if colour not in {_KNOWN.get(name) for name in names}] * (len(names) + 1))
    return {name: _KNOWN.get(name) or next(free) for name in names}


def _figure(width: float, height: float, panels: tuple[int, int] = (1, 1)) -> tuple[Any, Any]:
    """(figure, (rows, columns) array of axes)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*panels, squeeze=False)
    for axis in axes.flat:
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_color(_INK)
        axis.grid(axis="y", color=_GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=_INK, labelsize=9)
    return figure, axes


def _label(axis: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    if title:
        axis.set_title(title, loc="left", fontsize=11, color=_INK, fontweight="bold")
    axis.set_xlabel(x, fontsize=10, color=_INK)
    axis.set_ylabel(y, fontsize=10, color=_INK)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _titled(title: str, simulated: bool) -> str:
    return f"{title} (simulated histories)" if simulated else title


def _check(series: Mapping[str, Any]) -> None:
    if not series or not all(len(values) for values in series.values()):
        raise BadInput("there is nothing to draw: give at least one series with at least one point")


def _level_lines(series: Mapping[str, Mapping[int, float]], title: str, y: str) -> bytes:
    _check(series)
    figure, axes = _figure(7.5, 4.2)
    axis, colours = axes[0, 0], _colours(list(series))
    for name, by_level in series.items():
        levels = sorted(by_level)
        axis.plot(
            levels,
            [by_level[h] for h in levels],
            color=colours[name],
            marker="o",
            markersize=4,
            linewidth=2,
            label=name,
        )
    _label(axis, title=title, x="level of the tree (root = 0)", y=y)
    every = sorted({level for by_level in series.values() for level in by_level})
    axis.set_xticks(every[:: max(1, len(every) // 14)])
    axis.set_ylim(0, 1.02)
    if len(series) > 1:
        axis.legend(frameon=False, fontsize=9)
    return _png(figure)


def recall_by_level(series: Mapping[str, Mapping[int, float]], *, simulated: bool = False) -> bytes:
    """Share of targets whose ancestor the beam kept, by level. series: name -> {level: share}, as `evaluation.level_recall`."""
    return _level_lines(
        series, _titled("What the beam keeps on its way down", simulated), "share of targets still in the beam"
    )


def tree_quality(series: Mapping[str, Mapping[int, float]], *, simulated: bool = False) -> bytes:
    """Share of an item's 10 nearest that share its subtree, by level. series: tree's name -> {level: share}."""
    return _level_lines(
        series, _titled("How well the tree keeps neighbours together", simulated), "share of 10 nearest in the subtree"
    )


def recall_by_length(rows: Sequence[Mapping[str, Any]], *, metric: str = "recall@50", simulated: bool = False) -> bytes:
    """A metric by length of the history, bars grouped by slice. rows: as `evaluation.slice_rows`, of any number of retrievers."""
    if not rows:
        raise BadInput("there is nothing to draw: give at least one slice of one retriever")
    retrievers = list(dict.fromkeys(row["retriever"] for row in rows))
    slices = list(dict.fromkeys(row["slice"] for row in rows))
    users = {row["slice"]: row["users"] for row in rows}
    values = {(row["retriever"], row["slice"]): float(row[metric]) for row in rows}
    figure, axes = _figure(max(6.5, 1.6 * len(slices)), 4.2)
    axis, colours = axes[0, 0], _colours(retrievers)
    width = 0.82 / len(retrievers)
    for index, name in enumerate(retrievers):
        at = np.arange(len(slices)) + (index - (len(retrievers) - 1) / 2) * width
        heights = [values.get((name, part), np.nan) for part in slices]
        bars = axis.bar(at, heights, width * 0.94, color=colours[name], label=name)
        if len(retrievers) <= 5:
            axis.bar_label(bars, fmt=_short, fontsize=7, color=_INK, padding=1)
    axis.set_xticks(range(len(slices)), [f"{part}\n{users[part]:,} users" for part in slices])
    head = {"recall": "Recall", "ndcg": "NDCG"}
    kind, _, k = metric.partition("@")
    y = f"{head.get(kind, kind)}@{k}"
    _label(axis, title=_titled(f"{y} by length of the history", simulated), x="behaviors before the target", y=y)
    axis.margins(y=0.1)
    figure.legend(loc="outside lower center", ncols=min(len(retrievers), 3), frameon=False, fontsize=9)
    return _png(figure)


def differences(found: Sequence[Mapping[str, Any]], *, title: str, simulated: bool = False) -> bytes:
    """What one retriever gains over each of others: a line each from top to bottom, with 95 % intervals.

    found: {"against", "mean_difference", "low95", "high95"} of one metric. Where an interval holds 0 it is drawn pale.
    """
    if not found:
        raise BadInput("there is nothing to draw: give at least one comparison")
    figure, axes = _figure(8, max(3.0, 1.3 + 0.32 * len(found)))
    axis = axes[0, 0]
    axis.axvline(0, color=_INK, linewidth=1)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=_GRID, linewidth=0.8)
    for place, each in enumerate(found):
        middle, low, high = (float(each[key]) for key in ("mean_difference", "low95", "high95"))
        sure = low > 0 or high < 0
        colour = _OTHERS[0] if sure and middle > 0 else _OTHERS[1] if sure else "#9ca3af"
        axis.errorbar(middle, place, xerr=[[middle - low], [high - middle]], color=colour, marker="o", capsize=3)
    axis.set_yticks(range(len(found)), [f"over {each['against']}" for each in found])
    axis.invert_yaxis()
    _label(axis, title=_titled(title, simulated), x="difference, with 95 % intervals")
    return _png(figure)


def gain_by_length(gains: Sequence[Mapping[str, Any]], *, title: str, simulated: bool = False) -> bytes:
    """What one retriever gains over others by length of the history: a line each, with 95 % intervals.

    gains: {"against", "slice", "users", "mean_difference", "low95", "high95"} of one metric, slices in order.
    """
    if not gains:
        raise BadInput("there is nothing to draw: give at least one slice of one comparison")
    slices = {each["slice"]: each["users"] for each in gains}
    names = list(dict.fromkeys(each["against"] for each in gains))
    figure, axes = _figure(max(6.5, 1.6 * len(slices)), 4.4)
    axis, colours, place = axes[0, 0], _colours(names), {name: at for at, name in enumerate(slices)}
    axis.axhline(0, color=_INK, linewidth=1)
    for index, name in enumerate(names):
        own = [each for each in gains if each["against"] == name]
        at = np.array([place[each["slice"]] for each in own]) + 0.08 * (index - (len(names) - 1) / 2)
        middle, low, high = (np.array([each[key] for each in own]) for key in ("mean_difference", "low95", "high95"))
        error = np.stack([middle - low, high - middle])
        axis.errorbar(
            at, middle, error, color=colours[name], marker="o", capsize=3, linewidth=1.8, label=f"over {name}"
        )
    axis.set_xticks(range(len(slices)), [f"{name}\n{users:,} users" for name, users in slices.items()])
    _label(axis, title=_titled(title, simulated), x="behaviors before the target", y="difference, with 95 % intervals")
    figure.legend(loc="outside lower center", ncols=min(len(names), 2), frameon=False, fontsize=9)
    return _png(figure)


def loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], *, simulated: bool = False) -> bytes:
    """Loss above, validation NDCG@10 below, a column per stage.

    curves: stage -> one mapping per epoch with "loss", "validation_ndcg@10", and any number of further losses "loss_..." (thin
    lines); an entry without "loss" first is the score a stage starts from, drawn at epoch 0.
    """
    _check(curves)
    figure, axes = _figure(max(6.5, 4.6 * len(curves)), 5.6, (2, len(curves)))
    figure.suptitle(_titled("Training", simulated), x=0.01, ha="left", fontsize=11, color=_INK, fontweight="bold")
    for column, (stage, points) in enumerate(curves.items()):
        top, bottom = axes[0, column], axes[1, column]
        start = 0 if "loss" not in points[0] else 1
        epochs = np.arange(start, start + len(points))
        thin = sorted({key for point in points for key in point if key.startswith("loss_")}, key=_natural)
        shades = _shades(len(thin))
        for key, colour in zip(thin, shades, strict=True):
            label = key.removeprefix("loss_").replace("_", " ")
            top.plot(epochs, [point.get(key, np.nan) for point in points], color=colour, linewidth=1, label=label)
        losses = [point.get("loss", np.nan) for point in points]
        top.plot(epochs, losses, color=_INK, linewidth=2.2, marker="o", markersize=3, label="loss")
        _label(top, title=stage, y="loss")
        if thin:
            top.legend(frameon=False, fontsize=7, ncols=1 + len(thin) // 5, loc="best")
        scores = np.array([point.get("validation_ndcg@10", np.nan) for point in points], dtype=float)
        bottom.plot(epochs, scores, color=_OTHERS[0], linewidth=2.2, marker="o", markersize=3)
        if np.isfinite(scores).any():
            best = int(np.nanargmax(scores))
            bottom.plot(epochs[best], scores[best], marker="o", markersize=9, markerfacecolor="none", color=_INK)
            bottom.set_title(f"best {scores[best]:.4f}, after epoch {epochs[best]}", loc="left", fontsize=9, color=_INK)
        _label(bottom, x="epoch", y="validation NDCG@10")
        for axis in (top, bottom):
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.margins(y=0.15)
            axis.set_xlim(start - 0.5, start + len(points) - 0.5)
    return _png(figure)


def bins_compared(compared: Mapping[str, Mapping[str, Any]], *, title: str) -> bytes:
    """A day's shares beside the reference's, a panel each. compared: name -> {"labels", "reference", "day"}, shares of each bin."""
    _check(compared)
    figure, axes = _figure(12, 3.1 * -(-len(compared) // 2) + 0.4, (-(-len(compared) // 2), 2))
    figure.set_dpi(_SMALL_DPI)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK, fontweight="bold")
    for axis, (name, each) in zip(axes.flat, compared.items(), strict=False):
        at = np.arange(len(each["labels"]))
        axis.bar(at - 0.2, each["reference"], 0.38, color="#9ca3af", label="the champion's training")
        axis.bar(at + 0.2, each["day"], 0.38, color=_OTHERS[0], label="the day")
        names = [str(label)[:14] for label in each["labels"]]
        axis.set_xticks(at, names, rotation=45 if len(at) > 8 else 0, ha="right" if len(at) > 8 else "center")
        axis.tick_params(labelsize=7)
        axis.set_title(name.replace("_", " "), loc="left", fontsize=9, color=_INK)
    for axis in list(axes.flat)[len(compared) :]:
        axis.set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return _png(figure)


def drift_by_day(
    days: Mapping[str, Mapping[str, float]], *, acting: Mapping[str, Sequence[str]] | None = None
) -> bytes:
    """Figures over days, with the lines of .1 and .2; what is above 1 is drawn at 1.

    days: day -> {figure: value}, in the order of days. acting: day -> figures that act, which get a ring.
    """
    _check(days)
    figure, axes = _figure(10, 4.6)
    figure.set_dpi(_SMALL_DPI)
    axis, names = axes[0, 0], list(dict.fromkeys(name for each in days.values() for name in each))
    colours, place = _colours(names), {day: at for at, day in enumerate(days)}
    for height, label in ((0.1, "warn"), (0.2, "act")):
        axis.axhline(height, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axis.annotate(f" {label}", (1, height), xycoords=("axes fraction", "data"), fontsize=8, color=_INK, va="center")
    for number, name in enumerate(names):
        at = [place[day] for day, each in days.items() if name in each]
        values = [min(max(each[name], 0.0), 1.0) for each in days.values() if name in each]
        dash = "-" if number < len(_OTHERS) else "--"
        label = name.replace("_", " ")
        axis.plot(at, values, color=colours[name], marker="o", markersize=3, linewidth=1.6, linestyle=dash, label=label)
        rings = [(x, y) for x, y in zip(at, values, strict=True) if name in (acting or {}).get(list(days)[x], ())]
        for x, y in rings:
            axis.plot(x, y, marker="o", markersize=9, markerfacecolor="none", color=_INK)
    shown = list(days)[:: max(1, len(days) // 10)]
    axis.set_xticks([place[day] for day in shown], shown, rotation=30, ha="right")
    axis.set_ylim(-0.02, max(0.32, *(min(max(each.values(), default=0.0), 1.0) + 0.03 for each in days.values())))
    _label(axis, title="What has moved since the champion was trained", y="figure (ringed where it acts)")
    figure.legend(loc="outside lower center", ncols=min(len(names), 5), frameon=False, fontsize=8)
    return _png(figure)


def _short(value: float) -> str:
    """A share with two digits and no leading zero; what rounds to 1 keeps its 1."""
    return f"{value:.2f}".removeprefix("0")


def _natural(key: str) -> tuple[str, int]:
    head, _, tail = key.rpartition("_")
    return (head, int(tail)) if tail.isdigit() else (key, -1)


def _shades(count: int) -> list[tuple[float, float, float]]:
    """From light to dark: coarse levels to fine ones."""
    light, dark = np.array([0.70, 0.85, 0.89]), np.array([0.03, 0.33, 0.42])
    return [tuple((light + (dark - light) * t).tolist()) for t in np.linspace(0, 1, count)]
