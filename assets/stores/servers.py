"""Servers that a home may share with others: MLflow's and PostgreSQL. Whether they answer, and what is said of them.

- Whoever opens one asks it first, for seconds: MLflow would retry for minutes, SQLAlchemy for longer. What goes away later is
  told in the same sentence by the client that `connect` returns; it names the server and the way out, never a password.
- PostgreSQL is spoken to through psycopg2: SQLAlchemy 2.1 reads a plain postgresql:// as psycopg 3, whose errors Dagster's
  storage does not know.

Not covered: passwords in variables of MLflow's and Amazon's own (MLFLOW_TRACKING_PASSWORD, AWS_SECRET_ACCESS_KEY), which nothing
here reads or prints; a server that answers, and wrongly.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import urllib.parse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.environment import quiet_environment
from model.errors import BadInput, Busy, NotReady

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["already_there", "connect", "is_served", "masked", "postgres_url", "reach", "telling"]

WAIT_S = 5.0
POSTGRES, DRIVER = re.compile(r"postgres(ql)?(\+psycopg2)?://"), "postgresql+psycopg2://"
MLFLOW = "MLFLOW_TRACKING_URI (or MISS_MLFLOW_URI)"
NO_DRIVER = "PostgreSQL needs packages that are not installed; run `pip install 'miss-retrieval[shared]'`"


def masked(uri: str) -> str:
    """A URI as people may see it: what could be a password or a token is ***."""
    told = re.sub(r"://(?:([^:/?#@\s]*):)?[^\s]*@", lambda m: f"://{m[1] + ':' if m[1] is not None else ''}***@", uri)
    return re.sub(r"(?i)((?:password|token|secret|key)[^=&?]*=)[^&\s]*", r"\1***", told)


def is_served(uri: str) -> bool:
    """Whether MLflow is a server over HTTP, which keeps the runs' files too."""
    return uri.startswith(("http://", "https://"))


def postgres_url(uri: str) -> str:
    """The same with the driver named. BadInput where it is no PostgreSQL URL that can be read."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    url = POSTGRES.sub(DRIVER, uri, count=1) if POSTGRES.match(uri) else ""
    with contextlib.suppress(ArgumentError, ValueError):  # neither may be chained: they repeat what they could not read
        if url and make_url(url).database:
            return url
    raise BadInput(
        f"{masked(uri) if '://' in uri else 'what is set'} is no PostgreSQL URL with a database; it looks like "
        "postgresql://user:password@host:5432/database, with %40 for an @ in the password"
    )


def reach(uri: str, *, name: str) -> None:
    """Ask a server for a sign of life; nothing is done for a URI that is no server's. Busy where none comes in time.

    name: what people set it with, like "MISS_DAGSTER_POSTGRES".
    """
    why: str | None = None
    if is_served(uri):
        import requests

        try:  # any answer is one: a proxy may keep this page for itself
            requests.get(f"{uri.rstrip('/')}/health", timeout=(WAIT_S, WAIT_S))
        except requests.RequestException as error:
            why = _reason(error)
    elif POSTGRES.match(uri):
        url = postgres_url(uri)
        try:
            import psycopg2
        except ImportError:
            raise NotReady(NO_DRIVER) from None
        try:
            psycopg2.connect(url.replace(DRIVER, "postgresql://", 1), connect_timeout=int(WAIT_S)).close()
        except psycopg2.OperationalError as error:
            why = str(error)
        except psycopg2.Error:  # its text may repeat parts of the URL
            why = "the URL cannot be used"
    if why is not None:
        raise Busy(_sentence(uri, why, name=name)) from None  # a cause would be logged, and may hold the password


def _reason(error: BaseException) -> str:
    """The innermost words of an error of requests, which wraps several."""
    if "timed out" in str(error).lower():
        return f"no answer within {WAIT_S:g} s"
    cause: Any = error
    while isinstance(inner := getattr(cause, "reason", None) or next(iter(cause.args), None), BaseException):
        cause = inner
    return re.sub(r"^.*?: (?=Failed to|\[)", "", str(cause))


def _sentence(uri: str, why: str, *, name: str) -> str:
    secret = urllib.parse.urlsplit(uri.split("@", 1)[0]).netloc.partition(":")[2] if "@" in uri else ""
    told = " ".join(masked(why).split())
    for text in {secret, urllib.parse.unquote(secret)} - {""}:
        told = told.replace(text, "***")
    return f"{masked(uri)} does not answer ({told[:200]}); start it, or correct {name}, and run the same again"


@contextlib.contextmanager
def telling(uri: str) -> Iterator[None]:
    """MLflow's errors about a server that is away, or about its object storage, become a Busy that names it."""
    try:
        yield
        return
    except Exception as error:
        why = _away(error)
        if why is None:
            raise
    raise Busy(_sentence(uri, why, name=MLFLOW))  # outside the handler: a cause would be logged, password and all


def _away(error: BaseException) -> str | None:
    """Why a server could not be asked; None where it was, and said no."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):
        return None
    if isinstance(error, MlflowException):
        if failed := re.search(r"API request to \S+ failed with (?:timeout )?exception (.*)", str(error)):
            return failed[1].rpartition("Caused by ")[2].strip(")")
        if error.error_code == "TEMPORARILY_UNAVAILABLE" or "Could not connect to the endpoint" in str(error):
            return str(error)
    each: BaseException | None = error
    while each is not None:  # MLflow wraps some
        library = type(each).__module__.partition(".")[0]
        if library in ("botocore", "boto3", "requests", "urllib3") and type(each).__name__ not in (
            "ClientError",
            "HTTPError",
        ):
            return _reason(each)
        each = each.__cause__ or each.__context__
    return None


@contextlib.contextmanager
def already_there() -> Iterator[None]:
    """Let it be where another machine has made the same a moment ago."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


class _Telling:
    """MLflow's client, whose every method speaks as `telling` does."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def call(*args: Any, **options: Any) -> Any:
            with telling(self._uri):
                return found(*args, **options)

        return call


def connect(uri: str, *, database: Path | None = None) -> MlflowClient:
    """MLflow's client for a store that answers. Busy where it does not.

    database: the file of a SQLite store, made where it is missing; the caller holds the registry's lock.
    """
    quiet_environment()
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for JSON
    reach(uri, name=MLFLOW)
    with warnings.catch_warnings():
        # MLflow 3.17 maps a relation in a way that SQLAlchemy 2.1 calls deprecated; nothing to do with what we ask
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        from mlflow import MlflowClient
        from mlflow.store.tracking import sqlalchemy_store  # noqa: F401  (this import is what warns)

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:  # it tells of every migration and version on the terminal
        logging.getLogger("mlflow").setLevel(logging.WARNING)
    if database is not None and not database.exists():
        _create(database)
    store = postgres_url(uri) if POSTGRES.match(uri) else uri
    client: Any = _Telling(MlflowClient(store, store), uri)
    return client  # type: ignore[no-any-return]


def _create(database: Path) -> None:
    """MLflow's SQLite file, made beside its place and renamed."""
    from mlflow.store.db import utils

    staging = database.with_name(f".{database.name}.new")
    for stale in database.parent.glob(f"{staging.name}*"):  # with SQLite's journals
        stale.unlink()
    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{staging}")
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()
    os.replace(staging, database)
