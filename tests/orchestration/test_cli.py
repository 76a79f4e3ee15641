"""What somebody at a terminal, or a script behind one, would lose: JSON of a known shape, exit codes, one sentence for an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminal import Miss
from tiny_bundle import BEAM, ITEM_IDS, N_ITEMS, USER_IDS

from model.errors import BadInput, NotReady, Refused
from model.files import read_json

COMMANDS = [
    "demo",
    "ingest",
    "materialize",
    "backfill",
    "rebuild",
    "tune",
    "evaluate",
    "recommend",
    "status",
    "promote",
    "rollback",
    "history",
    "serve",
    "mcp",
    "up",
    "doctor",
]


# -- help and usage ------------------------------------------------------------------------------------------------------


def test_help_fits_one_screen_and_names_every_command_in_one_line(miss: Miss) -> None:
    said = miss("--help")
    assert said.code == 0
    lines = said.out.splitlines()
    assert len(lines) <= 24
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in COMMANDS] == COMMANDS
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage")]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(miss: Miss, command: str) -> None:
    assert miss(command, "--help").code == 0


def test_help_is_there_at_once() -> None:
    """Somebody who looks up an option waits for an answer no longer than for `git --help`."""
    fastest = 60.0
    for _ in range(7):  # until one is fast enough: other work on the machine is not our business
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "orchestration.cli", "--help"], check=True, capture_output=True)
        fastest = min(fastest, time.perf_counter() - started)
        if fastest < 0.5:
            break
    assert fastest < 0.5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "no such command 'nonsense'"),
        (["recommend"], "give --user ID, or --all-users"),
        (["recommend", "--user", "u", "--all-users"], "give --user ID, or --all-users"),
        (["recommend", "--user", "u", "--out", "x"], "give --user ID, or --all-users"),
        (["recommend", "--user", "u", "-k", "many"], "'many' is not a valid integer"),
        (["promote"], "missing option '--reason'"),
        (["status", "--xml"], "no such option"),
        (["serve", "--port", "99999"], "99999"),
    ],
)
def test_wrong_usage_is_one_sentence(miss: Miss, arguments: list[str], told: str) -> None:
    said = miss(*arguments)
    assert said.code == 2
    assert told in said.sentence()


# -- a home in which nothing was done ------------------------------------------------------------------------------------


def test_status_of_an_empty_home(miss: Miss, empty_home: Path) -> None:
    said = miss("status", "--json")
    empty = {"items": 0, "users": 0, "behaviors": 0}
    assert json.loads(said.out) == {"champion": None, "challenger": None, "warehouse": empty}
    assert "miss ingest DIR" in miss("status").out
    assert miss("history", "--json").out == "[]\n"
    assert not empty_home.exists()


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (["recommend", "--user", "u"], "miss materialize"),
        (["evaluate", "--json"], "miss materialize"),
        (["materialize"], "miss ingest DIR"),
        (["promote", "--reason", "r"], "miss materialize"),
        (["rollback", "--reason", "r"], "miss promote"),
    ],
)
def test_what_needs_more_than_an_empty_home_says_what_to_do(
    miss: Miss, empty_home: Path, arguments: list[str], way_out: str
) -> None:
    said = miss(*arguments)
    assert said.code == NotReady.exit_code
    assert way_out in said.sentence()


@pytest.mark.parametrize("folder", ["absent", "empty folder", "a file"])
def test_what_cannot_be_ingested(miss: Miss, empty_home: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "a file").write_text("")
    said = miss("ingest", tmp_path / folder)
    assert said.code == BadInput.exit_code
    assert folder in said.sentence()
    assert not empty_home.exists()


def test_ingest_reports_and_repeats_nothing(miss: Miss, empty_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my shop"
    folder.mkdir()
    (folder / "items.csv").write_text('item_id,title\na,First\n"it\'s ""b"" ☕",Second\n', encoding="utf-8")
    rows = [f"user {u},a,{1_600_000_000 + u}\n" for u in range(5)]
    (folder / "behaviors.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    first = miss("ingest", folder, "--json")
    assert first.code == 0, first.err
    report = json.loads(first.out)
    assert (report["items_new"], report["behaviors_new"], report["unchanged"]) == (2, 5, False)
    assert json.loads(miss("status", "--json").out)["warehouse"] == {"items": 2, "users": 5, "behaviors": 5}
    assert "nothing to do" in miss("ingest", folder).out
    other = tmp_path / "another"
    folder.rename(other)
    refused = miss("ingest", other)
    assert refused.code == Refused.exit_code
    assert "MISS_HOME" in refused.err


def test_settings_that_cannot_be_used(
    miss: Miss, empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MISS_HOME", str(tmp_path / "file"))
    assert "is a file" in miss("status").sentence()
    monkeypatch.setenv("MISS_HOME", str(empty_home))
    monkeypatch.setenv("MISS_BAD_IMAGES", "explode")
    said = miss("status")
    assert said.code == BadInput.exit_code
    assert "MISS_BAD_IMAGES = 'explode'" in said.sentence()


def test_settings_that_contradict_each_other_are_told(
    miss: Miss, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISS_AUTO_PROMOTE", "1")
    monkeypatch.setenv("MISS_REQUIRE_TWO_PEOPLE", "1")
    said = miss("status")
    assert said.code == BadInput.exit_code
    assert "MISS_AUTO_PROMOTE promotes without anybody, MISS_REQUIRE_TWO_PEOPLE asks for two" in said.sentence()


# -- a home with a champion ----------------------------------------------------------------------------------------------


def test_status_in_the_shape_that_is_promised(miss: Miss, home: Path) -> None:
    told = json.loads(miss("status", "--json").out)
    assert set(told) == {"champion", "challenger", "warehouse"}
    assert (told["champion"]["version"], told["challenger"]["version"]) == ("1", "3")
    for version in (told["champion"], told["challenger"]):
        assert set(version) == {"version", "digests", "verdict"}
        assert len(version["digests"]["bundle"]) == len(version["digests"]["retrieval.onnx"]) == 64
        assert version["verdict"]["passed"] is True
        assert all(set(r) == {"name", "value", "bound", "baseline", "passed"} for r in version["verdict"]["rules"])
    text = miss("status").out
    assert "passed the gate" in text
    assert "beats-popularity" in text


def test_evaluate_in_the_shape_that_is_promised(miss: Miss, home: Path) -> None:
    told = json.loads(miss("evaluate", "--json").out)
    assert (told["dataset"], told["simulated"], told["split"]) == ("tiny", True, "test")
    names = ["retriever", "users", "recall@10", "recall@50", "recall@100", "recall@200", "ndcg@10", "seconds"]
    assert [list(row) for row in told["rows"]] == [names, names]
    text = miss("evaluate").out
    assert "simulated" in text
    assert "popularity" in text


@pytest.mark.parametrize("user", [str(USER_IDS[2]), str(USER_IDS[-1])])
def test_recommend_in_the_shape_that_is_promised(miss: Miss, home: Path, user: str) -> None:
    said = miss("recommend", "--user", user, "-k", 3, "--json")
    told = json.loads(said.out)
    assert (said.code, told["user"], told["version"]) == (0, user, "1")
    assert [set(item) for item in told["items"]] == [{"item_id", "title", "score"}] * 3
    assert {item["item_id"] for item in told["items"]} <= set(ITEM_IDS.tolist())
    text = miss("recommend", "--user", user, "-k", 3).out
    assert all(item["title"] in text for item in told["items"])
    assert "simulated" in text


def test_everybody_is_written_as_parquet(miss: Miss, home: Path, tmp_path: Path) -> None:
    """The same answers as one by one, in a folder that is told."""
    import pyarrow.parquet as pq

    user = str(USER_IDS[-1])
    said = miss("recommend", "--all-users", "-k", 3, "--out", tmp_path / "everybody", "--json")
    told = json.loads(said.out)
    assert (said.code, told["version"], told["users"]) == (0, "1", len(USER_IDS))
    rows = [row for part in told["parts"] for row in pq.read_table(Path(told["folder"]) / part["file"]).to_pylist()]
    alone = json.loads(miss("recommend", "--user", user, "-k", 3, "--json").out)["items"]
    assert [row["item_id"] for row in rows if row["user_id"] == user] == [item["item_id"] for item in alone]
    by_default = miss("recommend", "--all-users", "-k", 3)
    assert str(home / "recommendations" / "1-3") in by_default.out


@pytest.mark.parametrize("k", [0, -1, BEAM + 1, N_ITEMS + 1])
def test_k_out_of_range(miss: Miss, home: Path, k: int) -> None:
    said = miss("recommend", "--user", USER_IDS[2], "-k", k)
    assert said.code == BadInput.exit_code
    assert f"k = {k}" in said.sentence()


def test_a_user_nobody_knows(miss: Miss, home: Path) -> None:
    said = miss("recommend", "--user", "no one's", "--json")
    assert said.code == BadInput.exit_code
    assert f"such as '{USER_IDS[0]}'" in said.sentence()


def test_a_damaged_copy_of_the_bundle_is_fetched_again(miss: Miss, home: Path) -> None:
    before = miss("recommend", "--user", USER_IDS[2], "--json").out
    (bundle,) = (home / "bundles").iterdir()
    (bundle / "retrieval.onnx").write_bytes(b"damaged")
    assert miss("recommend", "--user", USER_IDS[2], "--json").out == before


def test_promote_rollback_and_the_ledger(miss: Miss, home: Path) -> None:
    assert "champion is version 3" in miss("promote", "--reason", "better on the tail").out
    assert json.loads(miss("status", "--json").out)["challenger"] is None
    assert json.loads(miss("recommend", "--user", USER_IDS[2], "--json").out)["version"] == "3"
    back = miss("rollback", "--reason", "complaints")
    assert "champion is version 1" in back.out
    assert "previous is version 3" in back.out
    rows = json.loads(miss("history", "--json").out)
    assert [(row["action"], row["version"]) for row in rows] == [
        ("bootstrap", "1"),
        ("promote", "3"),
        ("rollback", "1"),
    ]
    assert rows[1]["reason"] == "better on the tail"
    assert "complaints" in miss("history").out


def test_what_was_not_judged_is_not_promoted(miss: Miss, home: Path) -> None:
    said = miss("promote", "2", "--reason", "it looks fine")
    assert said.code == Refused.exit_code
    assert "no verdict" in said.sentence()
    assert json.loads(miss("history", "--json").out)[-1]["action"] == "refuse"
    assert miss("promote", "99", "--reason", "typo").code == BadInput.exit_code
    assert miss("promote", "--reason", "  ").code == BadInput.exit_code


def test_an_alias_moved_by_hand_to_what_was_not_judged_is_not_served(miss: Miss, home: Path) -> None:
    from orchestration.commands.home import registry_of, settings

    registry_of(settings()).set_alias("champion", "2")
    said = miss("recommend", "--user", USER_IDS[2], "--json")
    assert json.loads(said.out)["version"] == "1"
    assert "put back" in said.err


# -- defects -------------------------------------------------------------------------------------------------------------


def test_a_defect_is_one_sentence_with_the_place_of_its_traceback(
    miss: Miss, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.commands import release

    def broken(*, as_json: bool) -> None:
        raise ZeroDivisionError("a\ndefect")

    monkeypatch.setattr(release, "status", broken)
    said = miss("status")
    assert said.code == 1
    assert "unexpected ZeroDivisionError: a defect" in said.sentence()
    (log,) = (home / "logs").glob("miss-error-*.log")
    assert str(log) in said.err
    assert "ZeroDivisionError" in log.read_text()
    monkeypatch.setenv("MISS_DEBUG", "1")
    assert "Traceback" in miss("status").err


# -- up ------------------------------------------------------------------------------------------------------------------


def test_children_and_what_they_started_are_stopped(tmp_path: Path) -> None:
    from orchestration.commands.up import Children

    nested = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    nested += "print(p.pid, flush=True); p.wait()"
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    started = time.monotonic()
    with Children(tmp_path) as children, pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestration.commands.up.STOP_WAIT_S", 1.0)
        for name, code in (("nested", nested), ("deaf", deaf)):
            children.start(name, [sys.executable, "-c", code], env=os.environ)
        while not all(children.log(name).read_text() for name in children.running):
            time.sleep(0.05)
        children.check()
        pids = [child.pid for child in children.running.values()] + [int(children.log("nested").read_text())]
        children.stop("deaf", "nested")
    assert time.monotonic() - started < 30
    for pid in pids:
        status = Path(f"/proc/{pid}/stat")
        assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_child_that_ends_by_itself_is_told_with_its_log(tmp_path: Path) -> None:
    from orchestration.commands.up import Children

    with Children(tmp_path) as children:
        children.start("mlflow", [sys.executable, "-c", "raise SystemExit(3)"], env=os.environ)
        children.running["mlflow"].wait(30)
        with pytest.raises(NotReady, match=r"mlflow ended by itself \(exit code 3\); its log is .*mlflow\.log"):
            children.check()


def test_up_refuses_ports_it_cannot_have(miss: Miss, home: Path) -> None:
    said = miss("up", "--port", 8123, "--mlflow-port", 8123)
    assert said.code == BadInput.exit_code
    assert "must differ" in said.sentence()


def test_the_evaluation_in_the_bundle_is_what_was_measured(miss: Miss, home: Path) -> None:
    miss("evaluate")
    (bundle,) = (home / "bundles").iterdir()
    assert read_json(bundle / "evaluation.json")["rows"][0]["recall@10"] == 0.3
