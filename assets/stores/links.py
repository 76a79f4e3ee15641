"""Addresses of pages: Dagster's, MLflow's and the service's, so that each of the three leads to the other two.

- Where people open them are settings: what a process listens on is not always what a browser can reach.

Not covered: whether anything answers there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from assets.settings import Settings
from assets.stores.registry import ModelVersionInfo, Registry
from assets.stores.run_log import RunHandle
from assets.stores.servers import is_served

if TYPE_CHECKING:
    from dagster import MetadataValue

__all__ = ["dagster_run", "metadata", "mlflow_run", "mlflow_ui", "of_version", "version_page"]

MLFLOW_UI = "http://127.0.0.1:5000"


def mlflow_ui(settings: Settings) -> str:
    """Where people open MLflow: as set, else the tracking server (without its password), else where `miss up` starts it."""
    served = settings.tracking_uri if is_served(settings.tracking_uri) else MLFLOW_UI
    return (settings.mlflow_ui_url or re.sub(r"://[^/]*@", "://", served)).rstrip("/")


def version_page(settings: Settings, version: str) -> str:
    """MLflow's page of a model version."""
    return f"{mlflow_ui(settings)}/#/models/{quote(settings.model_name, safe='')}/versions/{version}"


def mlflow_run(settings: Settings, run: RunHandle) -> str:
    """MLflow's page of a run."""
    return f"{mlflow_ui(settings)}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def dagster_run(settings: Settings, run_id: str) -> str:
    """Dagster's page of a run."""
    return f"{settings.dagster_url.rstrip('/')}/runs/{run_id}"


def of_version(settings: Settings, registry: Registry, version: ModelVersionInfo) -> dict[str, str]:
    """Pages about a version: "mlflow_version", and where they are known "mlflow_run" and "dagster_run"."""
    pages = {"mlflow_version": version_page(settings, version.version)}
    if version.run_id:
        pages["mlflow_run"] = mlflow_run(settings, registry.run_of(version.version))
    if made_by := version.tags.get("dagster/run_id"):
        pages["dagster_run"] = dagster_run(settings, made_by)
    return pages


def metadata(settings: Settings, registry: Registry, version: ModelVersionInfo | None) -> dict[str, MetadataValue]:
    """Links for a materialization in Dagster: the service, and MLflow's pages about a version where there is one."""
    from dagster import MetadataValue

    pages = {} if version is None else of_version(settings, registry, version)
    pages.pop("dagster_run", None)  # of the run that made the version, not of the one that tells of it
    return {name: MetadataValue.url(url) for name, url in {"service": settings.service_url, **pages}.items()}
