"""What somebody at Dagster's UI would lose: the runs that the command line made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from assets.settings import Settings
from model.errors import BadInput
from orchestration.run import dagster_home, instance, materialize


def test_plain_dagster_dev_finds_the_default_home_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MISS_HOME", raising=False)
    dagster_home(Settings())
    assert not Path(".env").exists(), "no workspace here"
    Path("workspace.yaml").touch()
    monkeypatch.setenv("MISS_HOME", str(tmp_path / "another"))
    dagster_home(Settings())
    assert not Path(".env").exists(), "the default home alone is the workspace's"
    monkeypatch.delenv("MISS_HOME")
    home = dagster_home(Settings())
    assert f"DAGSTER_HOME={home}" in Path(".env").read_text().splitlines()
    Path(".env").write_text("MINE=1\n")
    dagster_home(Settings())
    assert Path(".env").read_text() == "MINE=1\n", "somebody's own file is left alone"


def test_dagsters_own_processes_can_load_all_that_there_is() -> None:
    """`dagster dev`, the daemon and launched runs load the repository whole: two things of one name stop all of them."""
    from orchestration.definitions import defs

    repository = defs.get_repository_def()
    repository.load_all_definitions()
    assets = {key.to_user_string() for key in repository.assets_defs_by_key}
    assert not assets & {job.name for job in repository.get_all_jobs()}


def test_the_instance_is_the_homes_own_and_keeps_a_changed_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    settings = Settings(home=tmp_path / "home")
    with instance(settings) as found:
        assert Path(found.root_directory) == settings.root / "dagster"
        assert os.environ["DAGSTER_HOME"] == str(settings.root / "dagster")
    configuration = settings.root / "dagster" / "dagster.yaml"
    configuration.write_text(configuration.read_text() + "\n# mine\n")
    with instance(settings):
        assert configuration.read_text().endswith("# mine\n")


def test_a_selection_that_names_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    with pytest.raises(BadInput, match="no_such_asset"):
        materialize(Settings(home=tmp_path / "home"), select="no_such_asset")


@pytest.mark.parametrize("own", [None, "77"])
def test_threads_do_not_spin_beside_a_busy_neighbour(own: str | None) -> None:
    """torch reads this when it loads: a training beside another process would be twenty times slower. A user's own value stays."""
    program = "from assets.environment import quiet_environment; quiet_environment(); import torch"
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | {"OMP_DISPLAY_ENV": "VERBOSE"}
    environment |= {} if own is None else {"GOMP_SPINCOUNT": own}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert f"GOMP_SPINCOUNT = '{own or 3000}'" in done.stderr
