"""A visitor would lose: a page that comes whole from this service, runs nothing else, and is in the wheel."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.api.page import FILES, PATHS, POLICY
from serving.app import create_app
from serving.engine import Engine
from serving.live import Live

FOLDER = Path(str(resources.files("serving") / "page"))
ELSEWHERE = re.compile(r"""(?:https?:)?//[\w-]+\.[\w.-]+""")


def test_every_file_is_served_and_nothing_else(engine: Engine) -> None:
    assert sorted(name for name, _ in FILES.values()) == sorted(path.name for path in FOLDER.iterdir())
    with TestClient(create_app(Live(engine), token="secret")) as client:
        for path in PATHS:
            told = client.get(path)
            assert told.status_code == 200, "the page itself asks for the token"
            assert told.headers["content-security-policy"] == POLICY
            assert told.content == (FOLDER / FILES[path][0]).read_bytes()
            again = client.get(path, headers={"if-none-match": told.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert client.get("/v1/model").status_code == 401
        assert client.get("/page/../app.py").status_code in (401, 404)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_nothing_comes_from_another_host_and_nothing_is_inline(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not ELSEWHERE.search(text)
    if path.suffix == ".html":
        assert "<style" not in text
        assert " style=" not in text
        assert not re.search(r"<script(?![^>]*\bsrc=)", text)
        assert not re.search(r"\son\w+=", text)
    if path.suffix == ".js":
        assert "innerHTML" not in text, "a title is text, whatever it holds"
        for module in re.findall(r'from "([^"]+)"', text):
            assert module in FILES
    assert len(text.splitlines()) <= 400


def test_the_policy_allows_no_other_host_and_no_inline_code() -> None:
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert not ELSEWHERE.search(POLICY)
    assert "*" not in POLICY


def test_the_files_are_in_the_wheel() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    packed = project["tool"]["setuptools"]["package-data"]["serving"]
    assert all(any(path.match(pattern) for pattern in packed) for path in FOLDER.iterdir())
