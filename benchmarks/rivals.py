"""The baselines of the quality table, each fitted once on the training histories and saved.

Their settings were chosen on MovieLens-1M's validation item where a docstring says so, and are the field's usual ones elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.material import Material
from model.retriever import Retriever

__all__ = ["Rival", "rivals"]

Fit = Callable[[Material, Path, int], Any]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One fitted class, and the rows it gives."""

    name: str
    """What it is called on disk."""
    fit: Fit
    """(material, work folder that survives a kill, seed) -> retriever with `save`."""
    load: Callable[[Path], Any]
    seeded: bool = False
    """Whether the seed matters."""
    rows: tuple[tuple[str, Callable[[Any], Retriever]], ...] = ()
    """Names in the table and how to get from the fitted class to that retriever; its own name where empty."""

    def named(self) -> tuple[tuple[str, Callable[[Any], Retriever]], ...]:
        """`rows`, or the one row of its own name."""
        return self.rows or ((self.name, lambda fitted: fitted),)


def rivals(progress: Callable[[str], None]) -> list[Rival]:
    """All of them, cheapest first."""
    from model.baselines import EASE, IALS, TIGER, IALSConfig, ItemKNN, ItemKNNConfig, Popularity, SASRec
    from model.baselines.sasrec import SASRecConfig
    from model.baselines.tiger import TIGERConfig

    def sasrec(made: Material, work: Path, seed: int) -> SASRec:
        config = SASRecConfig(
            d=128, heads=2, feed_forward=256, dropout=0.25, epochs=24, seed=seed
        )  # our width and epochs
        return SASRec.fit(made.train, made.validation, config, checkpoint=work / "sasrec.pt", progress=progress)

    def tiger(made: Material, work: Path, seed: int) -> TIGER:
        config = TIGERConfig(seed=seed)
        return TIGER.fit(
            made.train, made.aligned, made.validation, config, checkpoint=work / "tiger.pt", progress=progress
        )

    return [
        Rival(name="popularity", fit=lambda made, *_: Popularity.fit(made.train), load=Popularity.load),
        Rival(name="item-kNN (recency)", fit=lambda made, *_: ItemKNN.fit(made.train), load=ItemKNN.load),
        Rival(
            name="item-kNN (transitions)",
            fit=lambda made, *_: ItemKNN.fit(made.train, ItemKNNConfig(window=40, backward=0.5, decay=0.6)),
            load=ItemKNN.load,
        ),
        Rival(name="EASE", fit=lambda made, *_: EASE.fit(made.train), load=EASE.load),
        Rival(
            name="iALS",
            fit=lambda made, _, seed: IALS.fit(made.train, IALSConfig(seed=seed)),
            load=IALS.load,
            seeded=True,
        ),
        Rival(
            name="SASRec",
            fit=sasrec,
            load=SASRec.load,
            seeded=True,
            rows=(
                ("SASRec (exact)", lambda fitted: fitted.searching("exact")),
                ("SASRec (HNSW)", lambda fitted: fitted.searching("hnsw")),
            ),
        ),
        Rival(name="TIGER-style (semantic IDs)", fit=tiger, load=TIGER.load, seeded=True),
    ]
