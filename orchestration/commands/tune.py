"""`miss tune`: search the options of training on the home's own tree and histories, every trial a run in MLflow.

- A study belongs to the data, the home's options, the space, the epochs and the seed; `tuning/` in the home keeps it, and
  the same command goes on with it. `--trials` counts what was tried before.
- In MLflow a search is one run, in the experiment of the models, and each trial a run nested in it.
- Nothing is changed: what was found is printed as the lines of `miss.env` that would make it the home's setting.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import BadInput, NotReady
from orchestration.commands.home import print_json, registry_of, say, settings

if TYPE_CHECKING:
    from assets.settings import Settings
    from assets.stores.registry import Registry
    from assets.stores.run_log import RunHandle
    from model.tuning import Search, Tried, Value

__all__ = ["environment", "tune"]

SCORE = "validation_ndcg@10"
TRIAL_TAG, LOGGED_TAG, STUDY_TAG = "tuning/trial", "tuning/logged", "tuning/study"


def environment(options: dict[str, Value]) -> dict[str, str]:
    """The variables that make options of training a home's: {"MISS_TRAINING__DENSE__LEARNING_RATE": "0.002"}."""
    return {
        "MISS_TRAINING__" + name.upper().replace(".", "__"): str(value).lower()
        if isinstance(value, bool)
        else str(value)
        for name, value in options.items()
    }


def tune(*, trials: int, epochs: int, seed: int, space: Path | None, as_json: bool) -> None:
    """Search until there are `trials`, then say what is best beside what the home has now."""
    home = settings()
    search, versions = _search(home, epochs=epochs, seed=seed, space=space)
    study = search.identity(**versions)[:16]
    folder, registry = home.root / "tuning" / study, registry_of(home)
    tags = {STUDY_TAG: study} | {f"data_version/{name}": version for name, version in versions.items()}
    tried: list[Tried] = []
    with _alone(folder), contextlib.redirect_stdout(sys.stderr):  # what libraries print on the way is no result
        say(f"study {study}: {epochs} epochs a trial, {len(search.validation):,} validation users")
        parent = registry.find_run(STUDY_TAG, study)
        with registry.run(f"tune {study[:8]}", tags=tags, run_id=parent) as run:
            run.log_params({"epochs": epochs, "seed": seed, "space": {n: str(d) for n, d in search.space.items()}})
            database = home.root / "tuning" / "optuna.db"
            for each, is_new in search.run(trials, database=database, study=study, work=folder):
                tried.append(each)
                _log_trial(registry, run, f"{study}/{each.number}", each)
                if is_new:
                    say(_line(each, tried))
            report = _report(search, study, tried, folder) | {"mlflow_run_id": run.run_id}
            _log_result(run, report, folder)
    if as_json:
        print_json(report)
    else:
        print(_told(report, len(search.validation), folder))


def _search(home: Settings, *, epochs: int, seed: int, space: Path | None) -> tuple[Search, dict[str, str]]:
    """The search over what the home has made, and the data versions it is about; NotReady, BadInput."""
    from assets.stores.artifacts import ArtifactStore

    store = ArtifactStore(home.artifacts)
    tree, histories = store.current("index_tree"), store.current("training_histories")
    given = None if space is None else _json(space)
    from model.configure import configure, merged
    from model.histories import EvaluationSet, Histories
    from model.index_tree import IndexTree
    from model.training import TrainingConfig, options_for
    from model.tuning import SPACE, Search, read_space

    train = Histories.load(histories.path / "train.npz")
    config = configure(TrainingConfig, merged(options_for(len(train.items)), home.training), where="training")
    try:
        searched = read_space(SPACE if given is None else given, config)
    except BadInput as error:
        place = "the default space (--space FILE.json gives another)" if space is None else f"--space {space}"
        raise BadInput(f"{place}: {error}") from error
    search = Search(
        IndexTree.load(tree.path / "tree.npz"),
        train,
        EvaluationSet.load(histories.path / "validation.npz"),
        config=config,
        space=searched,
        epochs=epochs,
        seed=seed,
    )
    return search, {"index_tree": tree.data_version, "training_histories": histories.data_version}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--space {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise BadInput(f"--space {path} is no JSON: {error}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Held while a study is worked on: a trial that is running belongs to somebody then."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise NotReady(
            f"another process works on study {folder.name} ({lock.lock_file}); wait for it to end"
        ) from error
    try:
        yield
    finally:
        lock.release()


# -- what is said and written ------------------------------------------------------------------------------------------------


def _line(each: Tried, tried: list[Tried]) -> str:
    from model.tuning import best_of

    best = best_of(tried)
    score = "" if each.value is None else f" {each.value:.4f}"
    end = f" after epoch {len(each.curve)}" if each.state == "pruned" and each.curve else ""
    note = f" ({each.note})" if each.note else ""
    options = " ".join(f"{name.rpartition('.')[2]}={_short(value)}" for name, value in each.options.items())
    told = f"best {best.value:.4f} by trial {best.number}"
    return f"trial {each.number}: {each.state}{end}{score}{note}, {each.seconds:.0f} s, {told}; {options}"


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _log_trial(registry: Registry, parent: RunHandle, identity: str, each: Tried) -> None:
    """A nested run; nothing where the trial was logged before."""
    if registry.find_run(LOGGED_TAG, identity) is not None:
        return
    tags = {"mlflow.parentRunId": parent.run_id, TRIAL_TAG: identity, "state": each.state}
    earlier = registry.find_run(TRIAL_TAG, identity)
    with registry.run(f"trial {each.number}", tags=tags, run_id=earlier) as run:
        run.log_params(each.options)
        run.log_metrics_series({f"dense/{SCORE}": each.curve})
        run.log_metrics({f"best/{SCORE}": each.value} if each.value is not None else {})
        run.log_metrics({"seconds": each.seconds})
        run.set_tags(({"note": each.note} if each.note else {}) | {LOGGED_TAG: identity})


def _report(search: Search, study: str, tried: list[Tried], folder: Path) -> dict[str, Any]:
    """What was found, JSON values, also as report.json with its picture in `folder`."""
    from model.files import write_bytes, write_json
    from model.tuning import best_of
    from model.tuning_plot import search_history

    best = best_of(tried)
    report: dict[str, Any] = {
        "study": study,
        "metric": SCORE,
        "epochs": search.epochs,
        "seed": search.seed,
        "default": {"trial": 0, "value": tried[0].value, "options": tried[0].options},
        "best": {"trial": best.number, "value": best.value, "options": best.options},
        "environment": environment(best.options),
        "trials": [asdict(each) | {"curve": list(each.curve.values())} for each in tried],
        "picture": str(folder / "history.png"),
    }
    log = [name for name, each in search.space.items() if getattr(each, "log", False)]
    write_bytes(folder / "history.png", search_history(tried, log=log))
    write_json(folder / "report.json", report)
    return report


def _log_result(run: RunHandle, report: dict[str, Any], folder: Path) -> None:
    default, best = report["default"], report["best"]
    scores = {f"default/{SCORE}": default["value"], f"best/{SCORE}": best["value"]}
    run.log_metrics(scores | {"trials": len(report["trials"])})
    run.set_tags({"best_trial": best["trial"]})
    for name in ("history.png", "report.json"):
        run.log_file(folder / name)
    run.log_text("miss.env", "".join(f"{line}\n" for line in _lines(report)))


def _lines(report: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in report["environment"].items()]


def _told(report: dict[str, Any], users: int, folder: Path) -> str:
    default, best = report["default"], report["best"]
    lines = [
        f"default  NDCG@10 {default['value']:.4f}  trial 0: the home's own options, {report['epochs']} epochs of the dense path",
        f"best     NDCG@10 {best['value']:.4f}  trial {best['trial']} of {len(report['trials'])}, "
        f"{best['value'] - default['value']:+.4f} on the same {users:,} validation users",
        f"picture  {report['picture']}",
        "",
    ]
    if best["trial"] == 0:
        return "\n".join([*lines, "nothing that was tried is better than the home's own options; nothing to change"])
    return "\n".join([*lines, "lines for miss.env; `miss materialize` then trains with them:", *_lines(report)])
