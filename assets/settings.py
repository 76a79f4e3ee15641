"""One settings object: defaults that work, each field a `MISS_...` environment variable or a line of `miss.env`.

`MISS_HOME` (default `.miss`) holds all state. A component's options nest with two underscores:
`MISS_TRAINING__EPOCHS=4`. See `model/` for what each component's options mean; they live beside the component.
"""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, model_validator

from assets.places import Places

__all__ = ["Settings"]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


class Settings(Places):
    """Where state lives and what is configured; paths are absolute once read."""

    retrain: str = Field(default="0 3 * * *", description="when the schedule `daily` retrains, as cron, UTC")
    dagster_postgres: SecretStr = Field(
        default=SecretStr(""), description="postgresql:// URL of Dagster's database; SQLite under the home where empty"
    )
    compute: Literal["local", "ray"] = Field(
        default="local", description="where heavy steps run: in this process, or on a Ray cluster (RAY_ADDRESS)"
    )
    day_files: str = Field(
        default="",
        description="where a cluster reads behaviors, as Parquet by day: a folder that all machines see, or s3://, gs://, abfs://; "
        "under the home where empty",
    )
    dagster_launch: Literal["local", "ray", "kubernetes"] = Field(
        default="local",
        description="where Dagster's daemon starts runs and their steps: processes beside it, jobs of a Ray cluster "
        "(RAY_API_SERVER_ADDRESS, else RAY_ADDRESS), or Kubernetes jobs",
    )
    dagster_step_cpus: float = Field(
        default=1.0,
        gt=0,
        description="threads of a step on the Ray cluster, and the cores that it reserves where MISS_COMPUTE is local",
    )
    text_encoder: Path | None = Field(
        default=None, description="folder of another text encoder (ONNX or sentence-transformers)"
    )
    image_encoder: Path | None = Field(default=None, description="folder of another image encoder (ONNX)")
    bad_images: Literal["fail", "skip"] = Field(default="fail", description="what an unreadable picture does to a run")
    item_pairs: dict[str, Any] = Field(default_factory=dict, description="options of model.item_pairs.ItemPairsConfig")
    alignment: dict[str, Any] = Field(default_factory=dict, description="options of model.alignment.AlignmentConfig")
    search_space: dict[str, Any] = Field(
        default_factory=dict, description="options of model.search_space.SearchSpaceConfig"
    )
    tree: dict[str, Any] = Field(default_factory=dict, description="options of model.index_tree.TreeConfig")
    training: dict[str, Any] = Field(default_factory=dict, description="options of model.training.TrainingConfig")
    tables: Literal["float32", "float16", "int8"] = Field(
        default="float32", description="precision of the exported index: float16 halves it, int8 quarters it"
    )
    split: Literal["leave-one-out", "temporal"] = Field(
        default="leave-one-out", description="how people's runs split; what the schedule starts is always temporal"
    )
    temporal: dict[str, Any] = Field(default_factory=dict, description="options of model.histories.TemporalConfig")
    thumbnails: dict[str, Any] = Field(default_factory=dict, description="options of model.thumbnails.ThumbnailConfig")
    serving: dict[str, Any] = Field(default_factory=dict, description="options of serving.limits.Limits")
    service_token: SecretStr = Field(
        default=SecretStr(""), description="what callers of the service must send; open to all who reach it where empty"
    )
    follow_seconds: float = Field(
        default=10.0, ge=0.1, description="how often the service looks whether another version is champion"
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="what MLflow signs its webhooks to the service with; they are off where empty",
    )
    require_two_people: bool = Field(default=False, description="whoever trained a version cannot promote it")
    auto_promote: bool = Field(default=False, description="promote what passes the gate, without a reviewer")
    auto_extend: bool = Field(
        default=False, description="promote the champion with new items where it passes, without a reviewer"
    )
    actor: str = Field(
        default_factory=_user, description="who this process works for, as the ledger and MLflow name them"
    )
    keep_versions: int = Field(
        default=20, ge=3, description="newest versions that are kept; others only while they have an alias"
    )
    dagster_url: str = Field(
        default="http://127.0.0.1:3000", description="where people open Dagster's UI, for links to it"
    )
    mlflow_ui_url: str = Field(
        default="",
        description="where people open MLflow's UI, for links to it; the tracking server's where that is one",
    )
    service_url: str = Field(
        default="http://127.0.0.1:8000", description="where people open the service, for links to it"
    )
    model_name: str = Field(default="miss-retrieval", description="registered model in MLflow")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        alone = "MISS_AUTO_PROMOTE" if self.auto_promote else "MISS_AUTO_EXTEND" if self.auto_extend else ""
        if self.require_two_people and alone:
            raise ValueError(f"{alone} promotes without anybody, MISS_REQUIRE_TWO_PEOPLE asks for two: set one of them")
        return self
