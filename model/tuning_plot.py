"""The picture of a search: what came of each trial, and of each value of each option."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.errors import BadInput
from model.plots import _INK, _OTHERS, _figure, _label, _png
from model.tuning import Tried, best_of

__all__ = ["search_history"]

_PRUNED = "#b8bec9"


def search_history(tried: Sequence[Tried], *, log: Sequence[str] = ()) -> bytes:
    """PNG: score by trial with the best so far, then score by value of each option; options in `log` on a log axis."""
    shown = [each for each in tried if each.value is not None]
    if not any(each.state == "done" for each in shown):
        raise BadInput("there is nothing to draw: no trial is done")
    names = sorted(shown[0].options)
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure, axes = _figure(max(6.5, 3.0 * columns), 2.6 * (1 + rows), (1 + rows, columns))
    own, best = shown[0], best_of(list(shown))
    grid = axes[0, 0].get_gridspec()
    for axis in axes[0]:
        axis.remove()
    history = figure.add_subplot(grid[0, :], sharey=axes[1, 0])
    for side in ("top", "right"):
        history.spines[side].set_visible(False)
    done = [each for each in shown if each.state == "done"]
    numbers, values = [each.number for each in done], [each.value or 0.0 for each in done]
    history.step(
        numbers, np.maximum.accumulate(values), where="post", color=_OTHERS[1], linewidth=2, label="best so far"
    )
    history.axhline(own.value or 0.0, color=_INK, linewidth=0.8, linestyle="--", label="your own options")
    history.xaxis.get_major_locator().set_params(integer=True)
    _label(history, title="Validation NDCG@10 by trial", x="trial", y="NDCG@10")
    panels = [(history, {each.number: float(each.number) for each in shown})]
    for axis, name in zip(axes[1:].flat, names, strict=False):
        given = [each.options[name] for each in shown]
        plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
        places = {value: float(value) if plain else float(i) for i, value in enumerate(dict.fromkeys(given))}
        if name in log:
            axis.set_xscale("log")
        if not plain:
            axis.set_xticks(list(places.values()), [str(value) for value in places])
        _label(axis, x=name, y="NDCG@10")
        panels.append((axis, {each.number: places[value] for each, value in zip(shown, given, strict=True)}))
    for axis in list(axes[1:].flat)[len(names) :]:
        axis.remove()
    for axis, at in panels:
        for state, colour, label in (("pruned", _PRUNED, "pruned"), ("done", _OTHERS[0], "done")):
            these = [each for each in shown if each.state == state]
            axis.scatter(
                [at[e.number] for e in these], [e.value for e in these], s=22, color=colour, label=label, zorder=3
            )
        axis.scatter([at[best.number]], [best.value], s=90, facecolors="none", edgecolors=_INK, label="best", zorder=4)
    history.legend(frameon=False, fontsize=8, ncols=5, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return _png(figure)
