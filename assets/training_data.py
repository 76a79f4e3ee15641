"""What training and evaluation are given: the split of the histories, and the pairs of items that go together."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.stores.artifacts import Artifact
from assets.stores.io_manager import materialized
from assets.stores.resource import Stores
from model.configure import configure
from model.errors import BadInput
from model.files import read_npz
from model.histories import SPLITS, EvaluationSet, Histories, TemporalConfig, split

GROUP = "data"


class Split(dg.Config):
    """What a run may say of the split."""

    split: str = Field(
        default="", description="leave-one-out or temporal; as the setting MISS_SPLIT has it where empty"
    )


@dg.asset(group_name=GROUP, code_version="1", kinds={"numpy"})
def training_histories(
    context: dg.AssetExecutionContext, config: Split, stores: Stores, histories: Artifact
) -> dg.MaterializeResult[Artifact]:
    """What trains, what validates, what tests (DESIGN 5): each user's last items by position, or the newest days."""
    kind = config.split or stores.settings.split
    if kind not in SPLITS:
        raise BadInput(f"split = {kind!r} is not known; choose one of {', '.join(SPLITS)}")
    temporal = configure(TemporalConfig, stores.settings.temporal, where="temporal")

    def build(folder: Path, work: Path) -> dict[str, Any]:
        known = Histories.load(histories.path / "histories.npz")
        *parts, protocol = split(kind, known, read_npz(histories.path / "days.npz")["day"], temporal)
        train, validation, test = parts
        train.save(folder / "train.npz")
        for part in (validation, test):
            part.save(folder / f"{part.split}.npz")
        sizes = {"training_behaviors": len(train.items), "validation_users": len(validation), "test_users": len(test)}
        return sizes | {"protocol": protocol}

    options = {} if kind == "leave-one-out" else {"split": kind, **asdict(temporal)}
    artifact, reused = stores.artifacts.produce(
        "training_histories", code_version="1", config=options, inputs={"behaviors": histories}, build=build
    )
    return materialized(artifact, reused=reused)


@dg.asset(group_name=GROUP, code_version="1", kinds={"scipy"})
def item_pairs(
    context: dg.AssetExecutionContext, stores: Stores, training_histories: Artifact
) -> dg.MaterializeResult[Artifact]:
    """Items that go together in the training part of the logs: what item alignment learns from."""
    from model.item_pairs import ItemPairsConfig
    from model.item_pairs import item_pairs as make

    config = configure(ItemPairsConfig, stores.settings.item_pairs, where="item_pairs")

    def build(folder: Path, work: Path) -> dict[str, Any]:
        from model.files import write_npz

        pairs = make(Histories.load(training_histories.path / "train.npz"), config)
        write_npz(folder / "pairs.npz", {"source": pairs.source, "target": pairs.target, "weight": pairs.weight})
        return {"pairs": len(pairs)}

    artifact, reused = stores.artifacts.produce(
        "item_pairs", code_version="1", config=asdict(config), inputs={"histories": training_histories}, build=build
    )
    return materialized(artifact, reused=reused)


def evaluation_set(histories: Artifact, split: str) -> EvaluationSet:
    """The validation or test part of `training_histories`."""
    return EvaluationSet.load(histories.path / f"{split}.npz")
