"""What a stranger's requests must not do: whatever the description allows, and what it does not, gets an answer and no 5xx.

Schemathesis makes requests from our own description, good ones and bad ones, and holds the answers against it. 1,000 cases an
endpoint take minutes and are marked slow; a few of each are always run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from folder_source import FolderSource
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from tiny_bundle import BEAM, ITEM_IDS, USER_IDS

from serving.api import links, webhook
from serving.app import create_app
from serving.engine import Engine
from serving.follow import Follower
from serving.limits import Limits
from serving.live import Live

FEW, MANY = 25, 1000
SAME = [
    checks.not_a_server_error, checks.response_schema_conformance, checks.status_code_conformance,
    checks.content_type_conformance,
]  # fmt: skip
MORE = [
    links.router(Follower(FolderSource(Path())), dagster="http://dagster", mlflow="http://mlflow"),
    webhook.router(lambda: None, "secret"),
]
ENDPOINTS = sorted(
    (path, method.upper())
    for path, methods in create_app(Live(), routers=MORE).openapi()["paths"].items()
    for method in methods
)


def fuzz(engine: Engine, path: str, method: str, cases: int) -> None:
    """Ask `cases` requests of one endpoint, half of them what its description does not allow."""
    app = create_app(Live(engine), limits=Limits(k=BEAM), routers=MORE)
    try:
        operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path][method]
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            ask(operation, mode, cases // 2)
    finally:
        app.state.service.close()


KNOWN = {"name": "miss-retrieval", "version": "7", "item_id": str(ITEM_IDS[0]), "user": str(USER_IDS[3])}


def at_home(case: Any, draw: int) -> None:
    """Make names in a request ones that exist: made-up ids alone would never come past the first look at them."""
    for name in case.path_parameters or {}:
        case.path_parameters[name] = KNOWN[name]
    body = case.body if isinstance(case.body, dict) else {}
    for name, known in (("history", ITEM_IDS), ("exclude", ITEM_IDS), ("categories", ["odd", "third"])):
        if isinstance(body.get(name), list):
            body[name] = [str(known[(draw + row) % len(known)]) for row in range(len(body[name]))]
    if isinstance(body.get("inputs"), list):
        named = zip(body["inputs"], ("user", "history"), strict=False)
        for each, name in ((each, name) for each, name in named if isinstance(each, dict)):
            each |= {"name": name, "datatype": "BYTES" if draw % 4 == 1 else "INT64"}


def ask(operation: Any, mode: Any, cases: int) -> None:
    """Requests of one kind."""
    count = 0

    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        nonlocal count
        count += 1
        if count % 2:
            at_home(case, count)
        case.call_and_validate(checks=SAME)

    try:
        one()
    except Unsatisfiable:  # a path of free text, or no parameter at all: nothing could be wrong with it
        assert mode is schemathesis.GenerationMode.NEGATIVE
        assert not operation.body
        assert not operation.query
    else:
        assert count


@pytest.mark.parametrize(("path", "method"), ENDPOINTS)
def test_no_request_breaks_the_service(engine: Engine, path: str, method: str) -> None:
    """Requests nobody thought of."""
    fuzz(engine, path, method, FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), ENDPOINTS)
def test_no_request_of_a_thousand_breaks_the_service(engine: Engine, path: str, method: str) -> None:
    """More of them."""
    fuzz(engine, path, method, MANY)
