"""What a newcomer would lose to documentation that is wrong: its curl lines are run as they stand, its table of limits is read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from folder_source import FolderSource
from http_server import serving

from serving.api import links
from serving.app import create_app
from serving.engine import Engine
from serving.follow import Follower
from serving.limits import Limits
from serving.live import Live

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
LINES = re.findall(r"^curl .*$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def address(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pages = links.router(
        Follower(FolderSource(tmp_path_factory.mktemp("docs"))), dagster="http://dagster", mlflow="http://mlflow"
    )
    with serving(create_app(Live(engine), routers=[pages])) as found:
        yield found


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", LINES)
def test_a_curl_line_gets_an_answer(address: str, line: str) -> None:
    """Somebody pastes it and it works."""
    done = subprocess.run(
        ["bash", "-c", f"{line} --fail-with-body"], env={"MISS": address}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if not line.endswith("/metrics"):
        assert json.loads(done.stdout)


def test_every_limit_is_told_with_its_default() -> None:
    """A limit somebody runs into is found here, under the name it is changed by."""
    assert LINES
    for field in fields(Limits):
        row = re.search(rf"^\| `MISS_SERVING__{field.name.upper()}` \| ([\d,]+) \|", TEXT, re.MULTILINE)
        assert row, field.name
        assert float(row.group(1).replace(",", "")) == field.default
