"""What every command shares: the settings, the stores of the home, the promoted bundle, and how things are said.

- Results go to stdout, as text for people or, with `--json`, as one JSON value and nothing else; everything said on the
  way goes to stderr.
- What is read as promoted was promoted: aliases that a hand moved in MLflow are judged or put back first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import BadInput, NotReady

if TYPE_CHECKING:
    from assets.release.promotion import Promotion
    from assets.settings import Settings
    from assets.stores.books import Books
    from assets.stores.registry import ModelVersionInfo, Registry
    from assets.stores.warehouse import Warehouse
    from serving.engine import Engine

__all__ = [
    "books_of",
    "challenger_engine",
    "champion_bundle",
    "champion_engine",
    "print_json",
    "project_file",
    "promoted",
    "promotion_of",
    "registry_of",
    "say",
    "settings",
    "warehouse_of",
]


def say(text: str) -> None:
    """Tell people something on the way, on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The result for a machine, on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def settings() -> Settings:
    """The settings of this process; BadInput where one of them cannot be used."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from assets.environment import quiet_environment
    from assets.settings import Settings

    quiet_environment()
    try:
        found = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # about several of them together
            raise BadInput(str(first["msg"]).removeprefix("Value error, ")) from error
        name = "MISS_" + "__".join(str(part).upper() for part in first["loc"])
        raise BadInput(f"{name} = {first['input']!r} is not usable: {first['msg'].lower()}") from error
    except SettingsError as error:
        raise BadInput(f"a MISS_ variable is not usable ({error}); options of a component are JSON objects") from error
    if found.root.exists() and not found.root.is_dir():
        raise BadInput(f"MISS_HOME = {found.root} is a file; name a folder")
    return found


def warehouse_of(home: Settings) -> Warehouse:
    """The DuckDB file of a home."""
    from assets.stores.warehouse import Warehouse

    return Warehouse(home.warehouse)


def books_of(home: Settings) -> Books:
    """Verdicts and the promotion ledger of a home."""
    from assets.stores.books import Books

    return Books(home.books)


def registry_of(home: Settings) -> Registry:
    """The MLflow registry of a home."""
    from assets.stores.registry import Registry

    return Registry(home.tracking_uri, home.model_name, home.root / "mlflow-artifacts")


def promotion_of(home: Settings) -> Promotion:
    """What moves the champion of a home."""
    from assets.release.promotion import Promotion

    return Promotion(books_of(home), registry_of(home), two_people=home.require_two_people)


def promoted(home: Settings, promotion: Promotion | None = None) -> ModelVersionInfo | None:
    """The champion, after what a kill or a hand left was settled; None where there is none. promotion: of who asks often.

    On a machine without the ledger, which is elsewhere then, it is what the ledger's machine noted in MLflow; nothing is moved.
    """
    from assets.stores.registry import CHAMPION

    promotion = promotion or promotion_of(home)
    if not promotion.registry.exists:
        return None
    if promotion.champion.elsewhere():
        return promotion.champion.noted()
    settled = promotion.reconcile()
    if settled is not None:
        say(f"miss: {settled['action']} of version {settled['version']} by {settled['actor']}: {settled['reason']}")
    return promotion.registry.by_alias(CHAMPION)


def champion_bundle(home: Settings) -> tuple[ModelVersionInfo, Path]:
    """The promoted version and its bundle's folder, downloaded where it is not there yet, every byte checked.

    Raises NotReady where nothing is promoted, Corrupt where the registry's files are not what was registered.
    """
    found = promoted(home)
    if found is None:
        raise NotReady(
            f"{home.root} has no champion yet; run `miss materialize`, which promotes the first version that passes the gate, "
            "or `miss demo`"
        )
    from assets.stores.bundles import bundle

    return found, bundle(registry_of(home), found.version, found.digest, home.bundles)


def champion_engine(home: Settings) -> Engine:
    """The promoted bundle, ready to answer; raises as `champion_bundle` does."""
    from serving.engine import Engine

    version, folder = champion_bundle(home)
    return Engine(folder, version=version.version)


def challenger_engine(home: Settings, *, threads: int = 0) -> Engine:
    """The version that waits for a reviewer, to be looked at beside the champion. Raises NotReady where none waits."""
    from assets.stores.bundles import bundle
    from assets.stores.registry import CHALLENGER
    from serving.engine import Engine

    registry = registry_of(home)
    found = registry.by_alias(CHALLENGER) if registry.exists else None
    if found is None:
        raise NotReady(
            "no challenger waits for review; serve without --challenger, or `miss materialize` a new version"
        )
    folder = bundle(registry, found.version, found.digest, home.bundles)
    return Engine(folder, version=found.version, threads=threads)


def project_file(name: str) -> Path:
    """A file of the project's root: in the current folder, or beside the package."""
    beside = Path(__file__).resolve().parents[2] / name
    return Path(name).resolve() if Path(name).is_file() else beside
