"""A user would lose: an artifact that looks whole and is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.errors import Corrupt
from model.files import MANIFEST, digest_json, publish_dir, read_json, read_npz, verify_dir, write_bytes, write_npz


def _publish(target: Path) -> dict:
    def build(folder: Path) -> dict:
        (folder / "a.bin").write_bytes(b"alpha")
        write_npz(folder / "sub.npz", {"x": np.arange(3)})
        return {"rows": 3}

    return publish_dir(target, build)


def test_published_folder_is_verified_and_same_content_has_same_digest(tmp_path: Path) -> None:
    first, second = _publish(tmp_path / "one"), _publish(tmp_path / "two")
    assert first["digest"] == second["digest"]
    assert verify_dir(tmp_path / "one")["meta"] == {"rows": 3}


@pytest.mark.parametrize("harm", ["changed", "missing", "extra", "manifest"])
def test_any_harm_to_a_published_folder_is_found(tmp_path: Path, harm: str) -> None:
    target = tmp_path / "one"
    _publish(target)
    if harm == "changed":
        (target / "a.bin").write_bytes(b"alphA")
    elif harm == "missing":
        (target / "a.bin").unlink()
    elif harm == "extra":
        (target / "b.bin").write_bytes(b"")
    else:
        (target / MANIFEST).write_text("{")
    with pytest.raises(Corrupt, match="one"):
        verify_dir(target)


def test_a_build_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    _publish(tmp_path / "one")

    def build(folder: Path) -> dict:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        publish_dir(tmp_path / "one", build)
    assert verify_dir(tmp_path / "one")["meta"] == {"rows": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_object_arrays_and_torn_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Python objects"):
        write_npz(tmp_path / "x.npz", {"x": np.array([{}], dtype=object)})
    write_npz(tmp_path / "x.npz", {"x": np.arange(1000)})
    whole = (tmp_path / "x.npz").read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        write_bytes(tmp_path / "x.npz", whole[:cut])
        with pytest.raises(Corrupt):
            read_npz(tmp_path / "x.npz")


def test_digest_ignores_the_order_of_keys_and_refuses_nan(tmp_path: Path) -> None:
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        digest_json({"a": float("nan")})
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(Corrupt, match=r"x\.json"):
        read_json(tmp_path / "x.json")
