"""Where state lives: one folder, the home, and MLflow's store where a team shares one.

- Paths are absolute once read; nothing is created by asking for one.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Places"]


class Places(BaseSettings):
    """The part of the settings that says where things are."""

    model_config = SettingsConfigDict(
        env_prefix="MISS_", env_nested_delimiter="__", env_file="miss.env", extra="ignore", hide_input_in_errors=True
    )

    home: Path = Field(default=Path(".miss"), description="the one folder of state")
    mlflow_uri: str = Field(
        default="", description="MLflow tracking and registry store; SQLite under the home where empty"
    )
    mlflow_tracking_uri: str = Field(
        default="",
        validation_alias="MLFLOW_TRACKING_URI",
        description="the same by MLflow's own name, where that is empty",
    )

    @property
    def root(self) -> Path:
        """Absolute home."""
        return self.home.expanduser().resolve()

    @property
    def warehouse(self) -> Path:
        """The DuckDB file of items and behaviors."""
        return self.root / "warehouse.duckdb"

    @property
    def inbox(self) -> Path:
        """Where new logs are put; a sensor takes them in."""
        return self.root / "inbox"

    @property
    def books(self) -> Path:
        """The DuckDB file of verdicts and the promotion ledger."""
        return self.root / "books.duckdb"

    @property
    def artifacts(self) -> Path:
        """What the assets made, one folder per asset and key."""
        return self.root / "artifacts"

    @property
    def bundles(self) -> Path:
        """Registered bundles on this machine, one folder per digest."""
        return self.root / "bundles"

    @property
    def tracking_uri(self) -> str:
        """MLflow's store."""
        return self.mlflow_uri or self.mlflow_tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"
