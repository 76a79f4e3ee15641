"""dagster.yaml: what a data engineer would lose is a change of theirs, or a second history begun behind their back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from assets.settings import Settings
from model.errors import BadInput, NotReady
from orchestration.dagster_yaml import VARIABLE, check, configuration, prepare

URL = "postgresql://dagster:s3cret@db:5432/dagster"


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv(VARIABLE, "")
    return Settings(home=tmp_path)


@pytest.fixture
def postgres(tmp_path: Path, sqlite: Settings) -> Settings:
    return Settings(home=tmp_path, dagster_postgres=URL)


def test_the_setting_takes_effect_where_nobody_changed_the_file(
    sqlite: Settings, postgres: Settings, tmp_path: Path
) -> None:
    prepare(tmp_path, sqlite)
    before = yaml.safe_load((tmp_path / "dagster.yaml").read_text())
    assert "storage" not in before
    prepare(tmp_path, postgres)
    text = (tmp_path / "dagster.yaml").read_text()
    assert yaml.safe_load(text) == before | {"storage": {"postgres": {"postgres_url": {"env": VARIABLE}}}}
    assert "s3cret" not in text
    assert os.environ[VARIABLE] == URL.replace("postgresql:", "postgresql+psycopg2:"), (
        "for Dagster, which reads the file"
    )
    prepare(tmp_path, postgres)
    assert (tmp_path / "dagster.yaml").read_text() == text
    with pytest.raises(NotReady, match=f"{VARIABLE} is not set; set it, or delete"):
        prepare(tmp_path, sqlite)
    assert (tmp_path / "dagster.yaml").read_text() == text, "a shell without the variable begins no second history"


def test_what_an_earlier_miss_wrote_is_brought_up_to_date(sqlite: Settings, tmp_path: Path) -> None:
    from orchestration import dagster_yaml

    body = "telemetry:\n  enabled: false\n"
    (tmp_path / "dagster.yaml").write_text(f"# written by miss ({dagster_yaml._digest(body)}); or so\n{body}")
    prepare(tmp_path, sqlite)
    assert (tmp_path / "dagster.yaml").read_text() == configuration(postgres=False)


@pytest.mark.parametrize("change", ["python_log_level: DEBUG", "# a comment\n"])
def test_a_changed_file_is_left_alone_and_must_go_together_with_the_setting(
    change: str, sqlite: Settings, postgres: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "dagster.yaml"
    mine = configuration(postgres=False).replace("python_log_level: INFO", change)
    path.write_text(mine)
    prepare(tmp_path, sqlite)
    with pytest.raises(BadInput, match="changed by hand") as refused:
        prepare(tmp_path, postgres)
    assert "s3cret" not in str(refused.value)
    assert path.read_text() == mine
    advice = str(refused.value).split("`")[1]
    path.write_text(f"# {VARIABLE}\n{advice}\n")
    assert yaml.safe_load(advice) == {"storage": {"postgres": {"postgres_url": {"env": VARIABLE}}}}
    assert check(tmp_path, postgres) is False
    prepare(tmp_path, postgres)
    assert path.read_text().endswith(f"{advice}\n")
    path.write_text(f"# storage: {{env: {VARIABLE}}}\n")
    prepare(tmp_path, sqlite)  # a comment asks for nothing


@pytest.mark.parametrize("on_postgres", [False, True])
def test_dagster_takes_what_is_written(on_postgres: bool) -> None:
    from dagster._config import validate_config
    from dagster._core.instance.config import dagster_instance_config_schema

    found = validate_config(dagster_instance_config_schema(), yaml.safe_load(configuration(postgres=on_postgres)))
    assert found.success, found.errors
