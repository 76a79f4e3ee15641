"""The baselines of the quality table, each fitted once on the training histories and saved.

Their settings were chosen on MovieLens-1M's validation item where a docstring says so, and are the field's usual ones elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.material import Material
from model.configure import configure
from model.retriever import Retriever
from model.training import TrainingConfig, options_for

__all__ = ["Rival", "rivals"]

PATIENCE = 10
"""Epochs without a better validation before a baseline stops: TIGER's is noisy, and 4 stopped it halfway through its schedule."""
Fit = Callable[[Material, Path, Any], Any]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One fitted class, and the rows it gives."""

    name: str
    """What it is called on disk."""
    fit: Fit
    """(material, work folder that survives a kill, its configuration) -> retriever with `save`."""
    load: Callable[[Path], Any]
    config: Any = None
    """Dataclass of its options, part of the digest that a fit is found by; None where it has none."""
    rows: tuple[tuple[str, Callable[[Any], Retriever]], ...] = ()
    """Names in the table and how to get from the fitted class to that retriever; its own name where empty."""

    @property
    def seeded(self) -> bool:
        """Whether the seed matters."""
        return hasattr(self.config, "seed")

    def configured(self, seed: int | None) -> Any:
        """Its configuration with a seed."""
        return self.config if seed is None else replace(self.config, seed=seed)

    def named(self) -> tuple[tuple[str, Callable[[Any], Retriever]], ...]:
        """`rows`, or the one row of its own name."""
        return self.rows or ((self.name, lambda fitted: fitted),)


def rivals(made: Material, progress: Callable[[str], None]) -> list[Rival]:
    """All of them for one data set, cheapest first."""
    from model.baselines import EASE, IALS, TIGER, EASEConfig, IALSConfig, ItemKNN, ItemKNNConfig, Popularity, SASRec
    from model.baselines.sasrec import SASRecConfig
    from model.baselines.tiger import TIGERConfig

    def sasrec(made: Material, work: Path, config: SASRecConfig) -> SASRec:
        return SASRec.fit(made.train, made.validation, config, checkpoint=work / "sasrec.pt", progress=progress)

    def tiger(made: Material, work: Path, config: TIGERConfig) -> TIGER:
        return TIGER.fit(
            made.train, made.aligned, made.validation, config, checkpoint=work / "tiger.pt", progress=progress
        )

    ours = configure(TrainingConfig, options_for(len(made.train.items)), where="training")
    as_wide_and_long = SASRecConfig(
        d=ours.scorer.d,
        heads=2,
        feed_forward=2 * ours.scorer.d,
        dropout=ours.scorer.dropout,
        epochs=ours.dense.epochs,
        patience=PATIENCE,
    )
    return [
        Rival(name="popularity", fit=lambda made, *_: Popularity.fit(made.train), load=Popularity.load),
        Rival(
            name="item-kNN (recency)",
            fit=lambda made, _, config: ItemKNN.fit(made.train, config),
            load=ItemKNN.load,
            config=ItemKNNConfig(),
        ),
        Rival(
            name="item-kNN (transitions)",
            fit=lambda made, _, config: ItemKNN.fit(made.train, config),
            load=ItemKNN.load,
            config=ItemKNNConfig(window=40, backward=0.5, decay=0.6),
        ),
        Rival(
            name="EASE",
            fit=lambda made, _, config: EASE.fit(made.train, config),
            load=EASE.load,
            config=EASEConfig(),
        ),
        Rival(
            name="iALS",
            fit=lambda made, _, config: IALS.fit(made.train, config),
            load=IALS.load,
            config=IALSConfig(),
        ),
        Rival(
            name="SASRec",
            fit=sasrec,
            load=SASRec.load,
            config=as_wide_and_long,
            rows=(
                ("SASRec (exact)", lambda fitted: fitted.searching("exact")),
                ("SASRec (HNSW)", lambda fitted: fitted.searching("hnsw")),
            ),
        ),
        Rival(name="TIGER-style (semantic IDs)", fit=tiger, load=TIGER.load, config=TIGERConfig(patience=PATIENCE)),
    ]
