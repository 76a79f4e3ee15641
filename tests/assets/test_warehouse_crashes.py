"""The warehouse under kills, locks and exceptions: what a team would lose if a crash tore it or a lock hung a pipeline."""

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.sources import detect
from assets.stores.warehouse import Warehouse
from model.errors import NotReady

ROOT = Path(__file__).resolve().parents[2]
ROWS = [("u1", "a", 10), ("u1", "b", 20), ("u2", "b", 5), ("u2", "c", 6), ("u2", "a", 7)]


def write(folder: Path, *, rows: list[tuple] = ROWS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item_id": ["a", "b", "c"]}), folder / "items.parquet")
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "behaviors.parquet")
    return folder


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "home" / "warehouse.duckdb")


@pytest.mark.parametrize("at", ["demand", "append"])
def test_killed_in_the_middle_leaves_the_old_state(warehouse: Warehouse, tmp_path: Path, at: str) -> None:
    warehouse.ingest(detect(write(tmp_path / "shop", rows=ROWS[:2])))
    before = warehouse.digests()
    folder, marker = write(tmp_path / "shop"), tmp_path / "reached"
    script = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from assets.stores import contract
from assets.sources import detect
from assets.stores import warehouse
contract.library = lambda: None  # what is validated is not what this is about, and importing takes seconds
contract.judge = lambda *facts: {{"success": True, "rows": {{}}, "expectations": []}}
owner, name = (contract, "demand") if {at!r} == "demand" else (warehouse, "append")
real = getattr(owner, name)
def hang(*args, **kwargs):
    result = real(*args, **kwargs)
    Path({str(marker)!r}).touch()
    time.sleep(120)
    return result
setattr(owner, name, hang)
warehouse.Warehouse(Path({str(warehouse.path)!r})).ingest(detect(Path({str(folder)!r})))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        while not marker.exists() and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None
        # while it holds the file, another one waits for a bounded time and says who it waited for
        with pytest.raises(NotReady, match=rf"warehouse\.duckdb is in use by another process \(PID {process.pid}\)"):
            Warehouse(warehouse.path, wait_s=0.2).counts()
    finally:
        process.kill()
        process.wait()
    assert warehouse.digests() == before
    report = warehouse.ingest(detect(folder))
    assert (report.behaviors_new, report.behaviors_known) == (3, 2)


def test_a_connection_is_closed_after_an_exception(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.ingest(detect(write(tmp_path / "shop")))

    def fail() -> None:
        with warehouse.connect(write=True) as connection:
            connection.execute("DELETE FROM behaviors")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    check = f"import duckdb; print(duckdb.connect({str(warehouse.path)!r}).execute('SELECT count(*) FROM behaviors').fetchall())"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[(5,)]"


def test_a_reader_waits_for_a_writer(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.ingest(detect(write(tmp_path / "shop")))
    script = f"""
import sys, time, duckdb
connection = duckdb.connect({str(warehouse.path)!r})
connection.execute("INSERT INTO behaviors SELECT * FROM behaviors")
print("held", flush=True)
time.sleep(0.5)
connection.close()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert warehouse.counts()["behaviors"] == 10
