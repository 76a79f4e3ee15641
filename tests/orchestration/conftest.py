"""A home with three registered versions: 1 is champion, 2 was never judged, 3 waits as the challenger."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
from terminal import Miss, Said
from tiny_bundle import publish

from assets.release.promotion import Promotion
from assets.stores.books import Books
from assets.stores.registry import Registry

with warnings.catch_warnings():  # typer 0.25 imports names that click 8.5 calls deprecated
    warnings.filterwarnings("ignore", message="'click", category=DeprecationWarning)
    import typer  # noqa: F401

RULES = [
    {"name": "beats-popularity", "value": 0.3, "bound": 0.0, "baseline": 0.1, "passed": True, "extra": "left out"},
    {"name": "size", "value": 1000, "bound": 10_000, "baseline": None, "passed": True},
]


@pytest.fixture(scope="session")
def promoted_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; MLflow's first use of a home takes seconds. Read it, or use `home`, a copy."""
    root = tmp_path_factory.mktemp("promoted") / "home"
    root.mkdir()
    books = Books(root / "books.duckdb")
    registry = Registry(f"sqlite:///{root / 'mlflow.db'}", "miss-retrieval", root / "mlflow-artifacts")
    for number in (1, 2, 3):
        bundle = publish(root.parent / f"bundle-{number}", note=f"bundle {number}")
        with registry.run(f"run {number}") as run:
            version = registry.register(bundle, run_id=run.run_id)
        assert version == str(number)
        digest = registry.version(version).digest
        if number != 2:
            books.record_verdict(digest, True, {"bundle_digest": digest, "rules": RULES})
        if number == 1:
            Promotion(books, registry).bootstrap(version)
    return root


@pytest.fixture
def home(promoted_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its own, set as MISS_HOME; the registered files stay where they were."""
    shutil.copytree(promoted_home, tmp_path / "home")
    monkeypatch.setenv("MISS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nothing was done yet."""
    monkeypatch.setenv("MISS_HOME", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "empty"


@pytest.fixture
def miss(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Miss:
    """Run `miss` in this process."""
    from orchestration import cli

    monkeypatch.delenv("MISS_DEBUG", raising=False)

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(each) for each in arguments])
        return Said(int(left.value.code or 0), *capsys.readouterr())

    return run
