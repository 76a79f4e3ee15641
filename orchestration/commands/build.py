"""`miss ingest`, `miss materialize`, `miss evaluate`, `miss recommend` and `miss demo`: from logs to answers."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import BadInput, Corrupt, Refused
from model.files import read_json
from orchestration.commands.home import (
    books_of,
    champion_bundle,
    champion_engine,
    print_json,
    registry_of,
    say,
    settings,
    warehouse_of,
)

if TYPE_CHECKING:
    from assets.settings import Settings
    from serving.engine import Engine, Recommended

__all__ = ["demo", "evaluate", "ingest", "materialize", "recommend", "recommend_all_users"]

ROW = ("retriever", "users", "recall@10", "recall@50", "recall@100", "recall@200", "ndcg@10", "seconds")
DEMO_K = 10


def ingest(path: Path, *, as_json: bool) -> None:
    """Add what an export, a folder or one file, holds to the warehouse."""
    from dataclasses import asdict

    from assets.sources import detect

    home = settings()
    source = detect(path)
    say(f"reading {source.location}")
    report = warehouse_of(home).ingest(source)
    if as_json:
        print_json(asdict(report))
    else:
        print(report.sentence())


def materialize(select: str | None) -> None:
    """Run the graph, reuse what is made already, and say where that leaves the home."""
    home = settings()
    warehouse_of(home).catalogue()  # NotReady where there is nothing to make anything from
    _materialize(home, select)
    from assets.release.promotion import status

    now = status(warehouse_of(home), books_of(home), registry_of(home))
    for alias in ("champion", "challenger"):
        if now[alias] is not None:
            print(f"{alias}: version {now[alias]['version']}, bundle {now[alias]['digests']['bundle']}")
    if now["challenger"] is not None:
        version = now["challenger"]["version"]
        print(
            f"the challenger waits for a reviewer: `miss promote {version} --reason ...`, `miss status` shows its rules"
        )


def _materialize(home: Settings, select: str | None) -> None:
    from orchestration.run import materialize as run

    with contextlib.redirect_stdout(sys.stderr):  # what libraries print on the way is no result
        done = run(home, select=select)
    if not done:
        raise Refused(
            "a blocking check failed, so the run stopped there and nothing was promoted; the check is named above, and the "
            "gate's rules are in `miss status`"
        )


def evaluate(*, as_json: bool) -> None:
    """The table of the promoted bundle, model and baselines."""
    _, bundle = champion_bundle(settings())
    report = _report(bundle)
    if not as_json:
        print(_table(report))
        return
    rows = [{name: row.get(name) for name in ROW} for row in report["rows"]]
    print_json({name: report[name] for name in ("dataset", "simulated", "split")} | {"rows": rows})


def _report(bundle: Path) -> dict[str, Any]:
    report = read_json(bundle / "evaluation.json")
    if not isinstance(report, dict) or not {"dataset", "simulated", "split", "rows"} <= set(report):
        raise Corrupt(f"{bundle / 'evaluation.json'} is no evaluation report; run `miss materialize` again")
    return report


def _table(report: dict[str, Any]) -> str:
    from model.evaluation import format_table

    return format_table(report)


def recommend(user: str, k: int, *, as_json: bool) -> None:
    """The k items the promoted model recommends to one user."""
    engine = champion_engine(settings())
    found = recommended(engine, user, k)
    if as_json:
        print_json({"user": user, "version": engine.version, "items": found})
        return
    print(heading(engine, user, len(found)))
    for line in lines(found):
        print(line)


def recommend_all_users(k: int, out: Path | None, *, as_json: bool) -> None:
    """Write the k best items of every user of the promoted bundle, where `MISS_COMPUTE` says; goes on where it was killed."""
    from assets.compute import engine
    from assets.compute.recommending import recommend_all

    home = settings()
    version, bundle = champion_bundle(home)
    target = (out or home.root / "recommendations" / f"{version.version}-{k}").resolve()
    found = recommend_all(engine(home.compute), bundle, target, k=k, version=version.version)
    if as_json:
        print_json(found | {"folder": str(target)})
        return
    users, rows, parts = f"{found['users']:,}", f"{found['rows']:,}", len(found["parts"])
    print(f"{rows} rows for {users} users in {parts} parts at {target}, by version {version.version}")


def recommended(engine: Engine, user: str, k: int) -> list[Recommended]:
    """The answer; BadInput for a user the bundle does not know, and for k out of range."""
    found = engine.recommend_user(user, k)
    if found is None:
        known = engine.histories.examples() if engine.histories is not None else []
        told = (
            f"it knows {len(engine.histories or ()):,}, such as {', '.join(map(repr, known))}"
            if known
            else "it knows none"
        )
        raise BadInput(
            f"the promoted model does not know user {user!r} ({told}); ingest behaviors of that user and run `miss materialize`"
        )
    return found


def heading(engine: Engine, user: str, count: int) -> str:
    """The line above an answer; says where histories are simulated."""
    note = " (simulated histories)" if engine.meta.get("simulated") else ""
    return f"top {count} for {user}{note}, version {engine.version}:"


def lines(found: list[Recommended]) -> list[str]:
    """An answer, one line an item."""
    width = max((len(each["item_id"]) for each in found), default=0)
    return [f"{n:4}  {e['score']:9.4f}  {e['item_id']:<{width}}  {e['title']}" for n, e in enumerate(found, 1)]


def demo() -> None:
    """Everything, on the embedded catalogue: ingest, materialize, and what came of it."""
    from assets.release.promotion import status
    from assets.sources.demo import DemoSource

    home = settings()
    source = DemoSource()
    say("the demo: real emoji with their pictures and names, and simulated histories over them")
    warehouse = warehouse_of(home)
    say(warehouse.ingest(source).sentence())
    _materialize(home, None)
    now = status(warehouse, books_of(home), registry_of(home))
    version, bundle = champion_bundle(home)
    engine = champion_engine(home)
    print(_table(_report(bundle)))
    passed = [
        rule["name"] for rule in ((now["champion"] or {}).get("verdict") or {}).get("rules", []) if rule["passed"]
    ]
    print(f"\npromoted: version {version.version}, which passed {len(passed)} rules of the gate ({', '.join(passed)})")
    for name, digest in (now["champion"] or {}).get("digests", {}).items():
        print(f"  {name:<18} sha256 {digest}")
    user = engine.histories.examples(1) if engine.histories is not None else []
    if user:
        found = recommended(engine, user[0], min(DEMO_K, engine.beam))
        print(f"\n{heading(engine, user[0], len(found))}")
        for line in lines(found):
            print(line)
