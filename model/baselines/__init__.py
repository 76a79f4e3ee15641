"""Retrievers without a tree, under the same contract: the rows that stand next to the model in every table."""

from __future__ import annotations

from model.baselines.ease import EASE, EASEConfig
from model.baselines.ials import IALS, IALSConfig
from model.baselines.item_knn import ItemKNN, ItemKNNConfig
from model.baselines.popularity import Popularity
from model.baselines.sasrec import SASRec, SASRecConfig
from model.baselines.tiger import TIGER, TIGERConfig

__all__ = [
    "EASE",
    "IALS",
    "TIGER",
    "EASEConfig",
    "IALSConfig",
    "ItemKNN",
    "ItemKNNConfig",
    "Popularity",
    "SASRec",
    "SASRecConfig",
    "TIGERConfig",
]
