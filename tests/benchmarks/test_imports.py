"""What a reader of the import table would lose: a module that is loaded and not told, or a target that is not about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import imports


def test_what_is_loaded_is_told() -> None:
    assert {"json", "json.decoder"} <= _loaded("import json")
    assert "json" not in _loaded("pass")


def _loaded(code: str) -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(imports.COMMANDS, "tried", ("-c", code))
        return imports.loaded("tried")


def test_help_and_service_are_told_beside_a_bare_python() -> None:
    rows, targets = imports.measure(times=1)
    assert [row["command"] for row in rows] == list(imports.COMMANDS)
    bare, told, service = (row["modules"] for row in rows)
    assert bare < told < service
    assert [target["bound"] for target in targets] == [0.5, 1.0, 0]
    assert targets[2]["met"]


def test_a_command_that_needs_torch_misses_the_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub = tmp_path / "torch.py"
    stub.touch()
    monkeypatch.setenv("PYTHONPATH", f"{stub.parent}:{imports.ROOT}")
    monkeypatch.setitem(imports.COMMANDS, "miss --help", ("-c", "import torch"))
    _, targets = imports.measure(times=1)
    assert (targets[2]["value"], targets[2]["met"]) == (1, False)
