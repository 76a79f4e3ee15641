"""What somebody whose home is not as it should be would lose: being told what is wrong, and the way out."""

from __future__ import annotations

import json
from pathlib import Path

from terminal import Miss


def test_doctor_finds_nothing_wrong(miss: Miss, home: Path) -> None:
    said = miss("doctor", "--json")
    told = json.loads(said.out)
    assert told["ok"] is (said.code == 0)
    by_name = {check["name"]: check for check in told["checks"]}
    assert {name: by_name[name]["status"] for name in ("disk", "mlflow", "champion")} == dict.fromkeys(
        ("disk", "mlflow", "champion"), "ok"
    )
    assert "golden requests answered" in by_name["champion"]["detail"]
    assert by_name["warehouse"]["status"] == by_name["artifacts"]["status"] == "todo"


def test_doctor_tells_of_a_ledger_that_somebody_changed(miss: Miss, home: Path) -> None:
    import duckdb

    assert "ok    ledger" in miss("doctor").out
    with duckdb.connect(str(home / "books.duckdb")) as connection:
        connection.execute("UPDATE ledger SET actor = 'nobody'")
    said = miss("doctor")
    assert said.code == 1
    assert "row 1 (bootstrap of version 1 by nobody)" in next(
        x for x in said.out.splitlines() if x.startswith("bad   ledger")
    )


def test_doctor_tells_of_a_broken_warehouse(miss: Miss, home: Path) -> None:
    (home / "warehouse.duckdb").write_bytes(b"not a database" * 1000)
    said = miss("doctor")
    assert said.code == 1
    assert "not a DuckDB file" in next(line for line in said.out.splitlines() if line.startswith("bad   warehouse"))


def test_what_is_stale() -> None:
    from assets.stores.artifacts import Artifact
    from orchestration.commands.doctor import stale

    def made(asset: str, version: str, **inputs: str) -> Artifact:
        return Artifact(asset=asset, path=Path(), key="", data_version=version, meta={"artifact": {"inputs": inputs}})

    current = {
        each.asset: each
        for each in (
            made("items", "i2", items="w1"),
            made("text", "t1", items="i2"),
            made("tree", "r1", text="t0"),
            made("model", "m1", tree="r1", encoder="e"),
        )
    }
    assert stale(current, {}, {"items": "w1"}) == {}
    assert stale(current, {"t0": "text"}, {"items": "w1"}) == {
        "tree": "made from an older text",
        "model": "made from tree",
    }
    assert set(stale(current, {}, {"items": "w2"})) == {"items", "text"}
