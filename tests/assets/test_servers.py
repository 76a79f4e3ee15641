"""What a team with passwords in its URLs would lose: them, to a terminal or a log; and which of two settings counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from assets.settings import Settings
from assets.stores.servers import masked, postgres_url
from model.errors import BadInput


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("sqlite:////home/a b/mlflow.db", "sqlite:////home/a b/mlflow.db"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://ann:pw@mlflow.team/path", "https://ann:***@mlflow.team/path"),
        ("https://a-token@mlflow.team", "https://***@mlflow.team"),
        ("postgresql://u:p@ss:w/rd@db:5432/x", "postgresql://u:***@db:5432/x"),
        ("postgresql+psycopg2://:pw@db/x?sslmode=require", "postgresql+psycopg2://:***@db/x?sslmode=require"),
        (
            "postgresql://db/x?user=u&password=pw&sslmode=require",
            "postgresql://db/x?user=u&password=***&sslmode=require",
        ),
    ],
)
def test_a_url_is_shown_without_its_password(uri: str, told: str) -> None:
    assert masked(uri) == told


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1))
def test_no_password_is_ever_shown(password: str) -> None:
    secret = f"<{password}>"  # which the rest of the URL does not hold
    assert secret not in masked(f"postgresql://user:{secret}@host/base")
    assert secret not in masked(f"https://{secret}@host/base")
    with pytest.raises(BadInput) as refused:
        postgres_url(f"mysql://user:{secret}@host/base")
    assert secret not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_every_spelling_is_spoken_to_through_one_driver(scheme: str) -> None:
    assert (
        postgres_url(f"{scheme}://u:p%40@h:1/d?sslmode=require") == "postgresql+psycopg2://u:p%40@h:1/d?sslmode=require"
    )


@pytest.mark.parametrize(
    "uri",
    ["postgresql://u:pw@h", "postgresql://u:pw@h:port/d", "u:pw@h/d", "sqlite:///pw", "postgresql+psycopg://u:pw@h/d"],
)
def test_what_is_no_postgresql_url_is_refused_without_being_repeated(uri: str) -> None:
    with pytest.raises(BadInput, match="no PostgreSQL URL") as refused:
        postgres_url(uri)
    assert "pw@" not in str(refused.value)


def test_which_setting_names_the_tracking_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MISS_HOME", str(tmp_path / "home"))
    assert Settings().tracking_uri == f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}"
    Path("miss.env").write_text("MISS_MLFLOW_URI=http://from-the-file:5000\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert Settings().tracking_uri == "http://from-the-file:5000", "the product's own name counts, wherever it stands"
    Path("miss.env").write_text("MLFLOW_TRACKING_URI=http://from-the-file:5000\n")
    assert Settings().tracking_uri == "http://mlflow:5000"
    monkeypatch.setenv("MISS_MLFLOW_URI", "http://ours:5000")
    assert Settings().tracking_uri == "http://ours:5000"
    for name in ("MISS_MLFLOW_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
    Path("miss.env").unlink()
    assert Settings().tracking_uri.startswith("sqlite:///"), "set to nothing is not set"


def test_settings_do_not_show_the_password_when_they_are_printed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISS_DAGSTER_POSTGRES", "postgresql://u:s3cret@h/d")
    settings = Settings()
    assert settings.dagster_postgres.get_secret_value().endswith("s3cret@h/d")
    assert "s3cret" not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(ValidationError) as refused:
        Settings(require_two_people=True, auto_promote=True)
    assert "s3cret" not in str(refused.value)
