"""Pictures beside `quality.json`: what ours gains over its own ablations, and over its rivals by length of the history."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.files import write_bytes
from model.plots import differences, gain_by_length

__all__ = ["SWITCHED_OFF", "draw"]

SWITCHED_OFF = "MISS, lifelong path switched off"
"""The default's own dense path through the tree. It has never had the targets that are the lifelong path's alone, so what the
lifelong path adds is also read against "MISS, short history", which has had them all."""
BY_LENGTH = (SWITCHED_OFF, "MISS, short history", "retrieve, then rescore", "SASRec (exact)", "TDM (id-learnt tree)")
ABLATIONS = ("MISS, ", "TDM ")
"""How the names of ours with something taken away begin, and of the tree models before it."""
Found = Sequence[Mapping[str, Any]]


def draw(out: Path, told: Mapping[str, Any], compared: Found, gained: Found, *, simulated: bool) -> None:
    """Pictures of one part of the table, where its rows give any and it is the test item's.

    told: dataset, split and options of the part. Writes `ablations-DATASET.png` and `gain-by-length-DATASET.png`; other budgets
    than the default bear six digits of their options' SHA-256 in the name.
    """
    if told["split"] != "test":
        return
    name, options = told["dataset"], json.dumps(told["options"], sort_keys=True)
    if told["options"]:
        name += f"-{hashlib.sha256(options.encode()).hexdigest()[:6]}"
    ablated = [c for c in compared if c["metric"] == "ndcg@10" and c["against"].startswith(ABLATIONS)]
    if len(ablated) > 1:
        title = f"{told['dataset']}: what MISS gains in NDCG@10"
        write_bytes(out / f"ablations-{name}.png", differences(ablated, title=title, simulated=simulated))
    by_length = [g for g in gained if g["metric"] == "ndcg@10" and g["against"] in BY_LENGTH]
    if by_length:
        title = f"{told['dataset']}: what MISS gains in NDCG@10, by length of the history"
        write_bytes(out / f"gain-by-length-{name}.png", gain_by_length(by_length, title=title, simulated=simulated))
