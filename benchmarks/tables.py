"""`quality.json` for readers: the whole of it as Markdown, and the part that stands in the README between two marks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.published import PUBLISHED
from benchmarks.published import SOURCES as PUBLISHED_IN

__all__ = ["markdown", "part_of", "place", "table"]

SHOWN = ("recall@10", "recall@50", "recall@100", "recall@200", "ndcg@10")
FIRST = ("recall@5", "ndcg@5")
"""Shown before the others where somebody has published them."""
Row = dict[str, Any]


def part_of(row: Row) -> tuple[str, str, str]:
    """(data set, split, options as JSON): rows of one part stand in one table, and only they are compared."""
    return row["dataset"], row["split"], json.dumps(row["options"], sort_keys=True)


def table(rows: Sequence[Row], found: Sequence[Row]) -> str:
    """One part's rows: means over seeds, the spread of NDCG@10 over seeds, and ours against each; then what others published."""
    published = PUBLISHED.get(rows[0]["dataset"], {}) if rows[0]["split"] == "test" and not rows[0]["options"] else {}
    shown = [m for m in FIRST if any(m in told for told in published.values())] + list(SHOWN)
    lines = _head(["retriever", *shown, "seeds", "MISS against it, NDCG@10", "training, s"])
    for name in dict.fromkeys(r["retriever"] for r in rows):
        own = [r for r in rows if r["retriever"] == name]
        means = [f"{np.mean([r[m] for r in own]):.4f}" if m in own[0] else "-" for m in shown]
        if len(own) > 1:
            means[-1] += f" ± {np.std([r['ndcg@10'] for r in own], ddof=1):.4f}"
        against = next((c for c in found if c["against"] == name and c["metric"] == "ndcg@10"), None)
        seconds = f"{np.mean([r['train_seconds'] for r in own]):,.0f}"
        lines.append(_line([name, *means, str(len(own)), _interval(against), seconds]))
    for name, told in published.items():
        lines.append(_line([name, *(f"{told[m]:.4f}" if m in told else "-" for m in shown), "-", "-", "-"]))
    return "\n".join(lines) + (f"\n\nPublished: {PUBLISHED_IN[rows[0]['dataset']]}." if published else "")


def markdown(report: Row) -> str:
    """The whole of `quality.json`."""
    parts = ["# Quality"]
    for named in dict.fromkeys(map(part_of, report["rows"])):
        rows, found, gained = (
            [r for r in report.get(each, []) if part_of(r) == named] for each in ("rows", "comparisons", "gains")
        )
        dataset, split, options = named
        users = f"{rows[0]['users']:,} users, full ranking, seen items excluded"
        budget = "the default options" if options == "{}" else f"`{options}` over the default options"
        told = f"{users}; {budget}. {_made(report, named)}"
        parts.append(f"## {dataset}, {split} item\n\n{told}\n\n{table(rows, found)}")
        parts += [
            part
            for part in (_relative(found), _gained(gained), _levels(rows), _beam(rows), _narrow(rows), _cold(rows))
            if part
        ]
        parts += [_slices(rows, title, key) for title, key in SLICES if any(key in r.get("slices", {}) for r in rows)]
    return "\n\n".join(parts) + "\n"


def place(text: str, report: Row) -> str:
    """The README `text` with each `<!-- quality: DATASET -->` .. `<!-- end -->` filled anew: test rows, default options.

    Ablations (rows called "MISS, ...") are left to the whole table. A data set without rows keeps what stands there.
    """

    def fill(found: re.Match[str]) -> str:
        dataset = found.group(1)
        named = (dataset, "test", "{}")
        rows = [r for r in report["rows"] if part_of(r) == named and not r["retriever"].startswith("MISS, ")]
        if not rows:
            return found.group(0)
        against = [c for c in report["comparisons"] if part_of(c) == named]
        return f"<!-- quality: {dataset} -->\n{table(rows, against)}\n\n{_made(report, named)}\n<!-- end -->"

    return re.sub(r"<!-- quality: (\S+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def _made(report: Row, named: tuple[str, str, str]) -> str:
    """What made a part: its own line of `made`, or the last run of all where there is none."""
    meta = next((m for m in report.get("made", []) if part_of(m) == named), report["meta"])
    made = f"Made by `{meta['command']}` at {meta['commit'][:12]}, {meta['date']}, {meta['machine']}"
    return f"{made}; models that were there already, found by their digests, may be of an earlier commit."


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|---|" + "---:|" * (len(cells) - 1)]


def _interval(found: Row | None) -> str:
    if found is None:
        return "-"
    return f"{found['mean_difference']:+.4f} ({found['low95']:+.4f} to {found['high95']:+.4f})"


# -- what stands under a table ---------------------------------------------------------------------------------------------

SLICES = (("history length", "history_length"), ("the target's popularity", "target_popularity"))


def _relative(found: Sequence[Row]) -> str:
    """Ours over each TDM at every metric; empty without one."""
    names = [n for n in dict.fromkeys(c["against"] for c in found) if n.startswith("TDM")]
    lines = _head(["MISS over", *SHOWN])
    for name in names:
        by_metric = {c["metric"]: c["relative"] for c in found if c["against"] == name}
        lines.append(_line([name, *("-" if by_metric.get(m) is None else f"{by_metric[m]:+.1%}" for m in SHOWN)]))
    return "\n".join(lines) if names else ""


def _gained(gained: Sequence[Row]) -> str:
    """What ours gains in NDCG@10 by history length over its own ablations and its strongest rivals."""
    kept = [g for g in gained if g["metric"] == "ndcg@10"]
    slices = {g["slice"]: g["users"] for g in kept}
    lines = _head(["MISS against it, NDCG@10, by history length", *(f"{n} ({u:,} users)" for n, u in slices.items())])
    for name in dict.fromkeys(g["against"] for g in kept):
        of = {g["slice"]: g for g in kept if g["against"] == name}
        lines.append(_line([name, *(_interval(of.get(each)) for each in slices)]))
    return "\n".join(lines) if kept else ""


def _first(rows: Sequence[Row], key: str) -> dict[str, Any]:
    """Retriever -> `key` of its first row that has it."""
    having: dict[str, Any] = {}
    for each in rows:
        if key in each:
            having.setdefault(each["retriever"], each[key])
    return having


def _levels(rows: Sequence[Row]) -> str:
    having = _first(rows, "recall_by_level")
    if not having:
        return ""
    names = list(next(iter(having.values())))
    lines = _head(["target's ancestor still in the beam, above the leaves", *names])
    lines += [_line([name, *(f"{levels[n]:.4f}" for n in names)]) for name, levels in having.items()]
    return "\n".join(lines)


def _beam(rows: Sequence[Row]) -> str:
    having = _first(rows, "beam_against_exhaustive")
    if not having:
        return ""
    lines = _head(
        ["through the tree, and every item scored by the same model", "beam", "every item", "beam / every item"]
    )
    for name, told in having.items():
        for metric, pair in told.items():
            if metric != "users":
                share = f"{pair['beam'] / pair['exhaustive']:.4f}" if pair["exhaustive"] else "-"
                values = [f"{pair['beam']:.4f}", f"{pair['exhaustive']:.4f}", share]
                lines.append(_line([f"{name}, {metric}, {told['users']:,} users", *values]))
    return "\n".join(lines)


def _narrow(rows: Sequence[Row]) -> str:
    """Each tree at narrow beams: the share of what its widest beam finds says what the tree puts together."""
    having = _first(rows, "recall@10_by_beam")
    if not having:
        return ""
    beams = list(next(iter(having.values())))
    lines = _head(["recall@10 of the dense path through the tree, a sample of users, by beam", *beams])
    lines += [_line([name, *(f"{told[b]:.4f}" for b in beams)]) for name, told in having.items()]
    return "\n".join(lines)


def _cold(rows: Sequence[Row]) -> str:
    """The ranking of held-out items among themselves, first seed of each, beside what a random order would reach."""
    having = _first(rows, "among_cold")
    if not having:
        return ""
    first = next(iter(having.values()))
    metrics = list(first["chance"])
    lines = _head([f"among the {first['items']:,} cold items alone", *metrics])
    lines += [_line([name, *(f"{told[m]:.4f}" for m in metrics)]) for name, told in having.items()]
    lines.append(_line(["a random order", *(f"{first['chance'][m]:.4f}" for m in metrics)]))
    return "\n".join(lines)


def _slices(rows: Sequence[Row], title: str, key: str) -> str:
    """NDCG@10 within each slice, first seed of each retriever that has slices."""
    having = {name: found[key] for name, found in _first(rows, "slices").items() if key in found}
    names = list(next(iter(having.values())))
    lines = _head([f"NDCG@10 by {title}", *names])
    lines += [_line([name, *(f"{values[n]['ndcg@10']:.4f}" for n in names)]) for name, values in having.items()]
    return "\n".join(lines)
