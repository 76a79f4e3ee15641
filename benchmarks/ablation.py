"""The quality table: MISS, one step away from it in every direction, TDM, and the baselines, on one data set or more.

    python -m benchmarks.ablation --dataset movielens-1m --seeds 0,1,2

- Every model is trained once and every evaluation made once: both are found again by digests under --home, also after a kill.
- Results go to <out>/quality.json and <out>/quality.md after every row, with pictures of what ours gains over whom, so that a run
  that is stopped leaves what it has; with the default <out> the README's table follows.
- Rows of other retrievers, data sets, splits and budgets (--options) that stand in quality.json already are kept; compared are
  those of one run, so that the last word is one over all of a table.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from assets.environment import quiet_environment
from benchmarks.cold import Cold
from benchmarks.grid import Cell, asked
from benchmarks.material import SOURCES, Material, prepare
from benchmarks.measured import RESULTS, ROOT, meta
from benchmarks.pictures import SWITCHED_OFF, draw
from benchmarks.report import Result, comparisons, gains, row
from benchmarks.rivals import rivals
from benchmarks.runs import Runs
from benchmarks.tables import markdown, part_of, place
from model.errors import BadInput, MissError, NotReady
from model.evaluation import Evaluation, length_slices, level_recall, popularity_slices, slice_rows
from model.files import read_json, write_bytes, write_json
from model.histories import EvaluationSet
from model.index_tree import IndexTree
from model.retriever import Retriever

LEVEL_USERS = 1000
"""Users whose beams are kept, and who are scored on every item: a sample tells the level that loses."""
LEVELS_UP = (1, 3, 6)
BEAMS = (5, 10, 20, 50, 100, 200)
"""Beams that trees are compared at: what lies together matters where little is kept."""


def slices(evaluation: Evaluation, chosen: EvaluationSet, made: Material) -> dict[str, Any]:
    """{"history_length" and "target_popularity": {slice: metrics}}."""
    masks = {
        "history_length": length_slices(chosen),
        "target_popularity": popularity_slices(chosen.targets, made.train.counts()),
    }
    return {
        title: {r.pop("slice"): {k: v for k, v in r.items() if k != "retriever"} for r in slice_rows(evaluation, each)}
        for title, each in masks.items()
    }


def _levels(retriever: Any, chosen: EvaluationSet, tree: IndexTree) -> dict[str, Any]:
    """Recall of the target's ancestor among the nodes kept 1, 3 and 6 levels above the leaves; 1 where nothing is pruned yet."""
    sample = np.random.default_rng(0).permutation(len(chosen))[:LEVEL_USERS]
    kept = level_recall(retriever.beams([chosen.seen[int(u)] for u in sample]), tree.paths()[chosen.targets[sample]])
    told = {f"H-{up}": round(kept.get(tree.depth - up, 1.0), 4) for up in LEVELS_UP}
    return {"recall_by_level": told, "levels_searched": min(kept, default=tree.depth)}


class Benchmark:
    """One data set's part of the table."""

    of = "MISS"

    def __init__(self, made: Material, options: dict[str, Any], split: str) -> None:
        self.made, self.split, self.options = made, split, options
        self.chosen = made.test if split == "test" else made.validation
        self.runs = Runs(made, options, progress=lambda text: typer.echo(text, err=True))

    def cell(self, cell: Cell, seed: int) -> Iterator[Result]:
        """The cell through its tree; for the default also every item scored, retrieve-then-rescore, and its dense path alone."""
        from model.exhaustive import Exhaustive
        from model.rescore import RetrieveThenRescore
        from model.tree_retriever import TreeRetriever

        artifact, tree_artifact = self.runs.model(cell, seed), self.runs.tree(cell.tree, seed)
        inputs = {"model": artifact, "tree": tree_artifact}
        beam = self.runs.config(cell, seed).beam
        tree = IndexTree.load(tree_artifact.path / "tree.npz")

        def through(kind: type, load: Callable[[Cell, int], Any] = self.runs.load) -> Any:
            def make(work: Path) -> Retriever:
                retriever: Retriever = kind(*load(cell, seed), beam=beam)
                return retriever

            return make

        own = {"beam": beam, "lifelong": cell.lifelong}
        found, stored = self.runs.evaluation(
            cell.name,
            inputs,
            through(TreeRetriever),
            split=self.split,
            own=own,
            extra=lambda retriever, chosen: _levels(retriever, chosen, tree),
        )
        seconds = self.runs.train_seconds(cell, seed)
        extra = {k: stored.meta[k] for k in ("recall_by_level", "levels_searched")}
        if cell == Cell():
            sample, _ = self.runs.evaluation(
                "MISS (every item)", inputs, through(Exhaustive), split=self.split, own=own, users=LEVEL_USERS
            )
            extra["beam_against_exhaustive"] = _gap(found, sample)
        if cell in {Cell(tree=cell.tree), Cell(tree=cell.tree, lifelong="none", multi_modal_score=False)}:
            extra["recall@10_by_beam"] = self._by_beam(cell, seed)
        yield self._result(cell.name, seed, found, seconds, asdict(cell), extra)
        if cell == Cell():
            found, _ = self.runs.evaluation(
                "retrieve, then rescore", inputs, through(RetrieveThenRescore), split=self.split, own=own
            )
            yield self._result("retrieve, then rescore", seed, found, seconds, asdict(cell), {})
            dense = self.runs.dense(cell, seed)
            found, _ = self.runs.evaluation(
                SWITCHED_OFF,
                {"model": dense, "tree": tree_artifact},
                through(TreeRetriever, self.runs.load_dense),
                split=self.split,
                own={"beam": beam},
            )
            told = asdict(replace(cell, lifelong="none"))
            yield self._result(SWITCHED_OFF, seed, found, float(dense.meta["train_seconds"]), told, {})

    def _by_beam(self, cell: Cell, seed: int) -> dict[str, float]:
        """Recall@10 of the cell's dense path through its tree at narrower and wider beams, on a sample of users."""
        from model.tree_retriever import TreeRetriever

        found = {}
        for beam in BEAMS:

            def make(work: Path, beam: int = beam) -> Retriever:
                return TreeRetriever(*self.runs.load_dense(cell, seed), beam=beam)

            inputs = {"model": self.runs.dense(cell, seed), "tree": self.runs.tree(cell.tree, seed)}
            sample, _ = self.runs.evaluation(
                "dense path", inputs, make, split=self.split, own={"beam": beam}, users=LEVEL_USERS
            )
            found[str(beam)] = round(sample.recall(10), 5)
        return found

    def baselines(self, seeds: list[int]) -> Iterator[Result]:
        """Every baseline, for every seed where the seed matters; one that refuses the data set is left out and said to be."""
        for rival in rivals(self.made, self.runs.progress):
            for seed in seeds if rival.seeded else [None]:
                try:
                    fitted = self.runs.fitted(rival, seed)
                except (BadInput, NotReady) as error:
                    self.runs.progress(f"{self.made.dataset}: {rival.name} is left out: {error}")
                    break
                for name, view in rival.named():

                    def make(work: Path, rival: Any = rival, view: Any = view, fitted: Any = fitted) -> Retriever:
                        retriever: Retriever = view(rival.load(fitted.path))
                        return retriever

                    found, _ = self.runs.evaluation(name, {"fitted": fitted}, make, split=self.split)
                    yield self._result(
                        name, seed, found, float(fitted.meta.get("train_seconds", fitted.seconds)), {}, {}
                    )

    def _result(
        self,
        name: str,
        seed: int | None,
        found: Evaluation,
        seconds: float,
        cell: dict[str, Any],
        extra: dict[str, Any],
    ) -> Result:
        extra = extra | {"slices": slices(found, self.chosen, self.made)}
        return Result(
            dataset=self.made.dataset,
            retriever=name,
            seed=seed,
            evaluation=found,
            train_seconds=seconds,
            cell=cell,
            options=self.options,
            extra=extra,
        )


def _gap(beam: Evaluation, exhaustive: Evaluation) -> dict[str, Any]:
    """The tree against scoring every item, on the users that both hold."""
    n = len(exhaustive)
    told: dict[str, Any] = {"users": n}
    for metric, ours, theirs in (
        ("recall@10", beam.hits(10)[:n].mean(), exhaustive.recall(10)),
        ("recall@100", beam.hits(100)[:n].mean(), exhaustive.recall(100)),
        ("ndcg@10", beam.gains()[:n].mean(), exhaustive.ndcg()),
    ):
        told[metric] = {"beam": round(float(ours), 5), "exhaustive": round(float(theirs), 5)}
    return told


def write(out: Path, part: Benchmark | Cold, results: list[Result], command: str) -> None:
    """quality.json and quality.md: these results, and what stands there of other retrievers, data sets, splits and budgets.

    The README follows where `out` is the default.
    """
    path, told = out / "quality.json", {"dataset": part.made.dataset, "split": part.split, "options": part.options}
    own = part_of(told)
    before = read_json(path) if path.is_file() else {}
    made = meta(command)
    new: dict[str, list[dict[str, Any]]] = {
        "made": [told | made],
        "rows": [row(r) for r in results],
        "comparisons": comparisons(results, part.of),
        "gains": gains(results, part.of, length_slices(part.chosen)),
    }
    report: dict[str, Any] = {"meta": made}
    anew = {r.retriever for r in results}
    for name, entries in new.items():
        others = [r for r in before.get(name, []) if part_of(r) != own]
        kept = [r for r in before.get(name, []) if part_of(r) == own and _untouched(r, anew)]
        report[name] = sorted(others + entries + kept, key=_in_order)
    write_json(path, report)
    write_bytes(out / "quality.md", markdown(report).encode())
    draw(out, told, new["comparisons"], new["gains"], simulated=part.made.simulated)
    if out == RESULTS:
        readme = ROOT / "README.md"
        write_bytes(readme, place(readme.read_text(encoding="utf-8"), report).encode())


def _in_order(entry: dict[str, Any]) -> tuple[str, bool, str, int, str]:
    """Parts in an order that does not depend on which was made last: the test item first, the default options before others."""
    dataset, split, options = part_of(entry)
    return dataset, split != "test", split, len(options), options


def _untouched(entry: dict[str, Any], anew: set[str]) -> bool:
    """Whether a row, comparison or gain is about retrievers that were not made anew; False for what tells of a whole part."""
    named = {entry[key] for key in ("retriever", "of", "against") if key in entry}
    return bool(named) and not named & anew


def main(
    dataset: Annotated[list[str], typer.Option(help=f"data set, repeatable: {', '.join(SOURCES)}")],
    seeds: Annotated[str, typer.Option(help="seeds, comma-separated")] = "0",
    cells: Annotated[
        str,
        typer.Option(
            help="star (the default and each step from it), its units or trees, full, default, none; or steps such as lifelong=co"
        ),
    ] = "star",
    baselines: Annotated[bool, typer.Option(help="also fit the baselines")] = True,
    other_seeds: Annotated[
        str,
        typer.Option(help="seeds of all but the default cell: steps from it, baselines; where not those of --seeds"),
    ] = "",
    cold: Annotated[bool, typer.Option(help="also hold items out of training and retrieve them from content")] = False,
    split: Annotated[str, typer.Option(help="test, or validation while tuning")] = "test",
    options: Annotated[str, typer.Option(help="JSON over the default training options, e.g. a smaller budget")] = "{}",
    data: Annotated[Path, typer.Option(help="folder of the data sets")] = ROOT.parent / "shared" / "data",
    home: Annotated[Path, typer.Option(help="where runs are kept")] = ROOT / ".miss-bench",
    out: Annotated[Path, typer.Option(help="where quality.json goes")] = RESULTS,
) -> None:
    """Train and evaluate whatever is not there yet, and write the table."""
    quiet_environment()
    chosen = asked(cells)
    if split not in ("test", "validation"):
        raise BadInput(f"--split {split}: give test or validation")
    if not chosen and not (baselines or cold):
        raise BadInput("--cells none --no-baselines asks for no row; leave one of them out, or add --cold")
    try:
        numbers, over = [int(x) for x in seeds.split(",")], json.loads(options)
        theirs = [int(x) for x in (other_seeds or seeds).split(",")]
    except ValueError as error:
        raise BadInput(
            f"--seeds {seeds} --other-seeds {other_seeds} --options {options}: give whole numbers and a JSON object"
        ) from error
    command = shlex.join(["python", "-m", "benchmarks.ablation", *sys.argv[1:]])
    for name in dataset:
        part = Benchmark(prepare(name, data=data.resolve(), home=home.resolve()), over, split)
        results: list[Result] = []
        for seed in dict.fromkeys([*numbers, *theirs]):
            for cell in chosen:
                if seed in (numbers if cell == Cell() else theirs):
                    results += part.cell(cell, seed)
                    write(out.resolve(), part, results, command)
        if baselines:
            for result in part.baselines(theirs):
                results.append(result)
                write(out.resolve(), part, results, command)
        if cold:
            held_out = Cold(part.made, over, progress=part.runs.progress)
            write(out.resolve(), held_out, list(held_out.rows(numbers)), command)
    typer.echo((out / "quality.md").read_text())


if __name__ == "__main__":
    try:
        typer.run(main)
    except MissError as error:
        sys.exit(f"error: {error}")
