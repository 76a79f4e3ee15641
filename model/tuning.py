"""Search the options of training with Optuna: the dense path alone, few epochs a trial, judged on the validation item.

- Trial 0 is the configuration one has, under the same budget: what a search gains is read against it. A space always
  holds that configuration; where it does not, it is widened.
- TPE (Bergstra et al., NIPS 2011) after a few random trials; the median rule (Golovin et al., KDD 2017) ends a trial that
  is below the median of the earlier ones after as many epochs.
- The sampler of trial n is seeded with (seed, n): a search that was killed and is started again makes the trials of one
  that was not. Finished trials are not trained again, nor are options that were tried already; a trial that was cut off
  goes on after its last epoch, and fails where it ends the process again and again.
- A trial's score is the dense stage's own: `train_model` with the same options gives the same curve. Trials train on the tree
  they are given, whatever `reassign` says.

Cost: trials x epochs of the dense path, less what is pruned; pruning favours what learns fast, and so does a small budget.
Not covered: options that the dense path does not read, the lifelong path, several processes on one study.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import TypeAdapter, ValidationError

from model.configure import configure, merged
from model.dense_training import train_dense
from model.errors import BadInput
from model.files import digest_json
from model.histories import EvaluationSet, Histories
from model.index_tree import IndexTree
from model.training import TrainingConfig, dense_alone, dense_histories, new_model

__all__ = ["SPACE", "Search", "Tried", "Value", "best_of", "read_space"]

Value = bool | int | float | str

SPACE: dict[str, Any] = {
    "dense.learning_rate": {"low": 5e-4, "high": 5e-3, "log": True},
    "dense.weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "scorer.d": [64, 128],
    "scorer.dropout": {"low": 0.1, "high": 0.4},
    "scorer.layers": {"low": 2, "high": 6},
    "scorer.window": [64, 128, 200],
}
"""The space where none is given: option of `TrainingConfig` -> values, or a range."""

STARTUP = 5
"""Trials before the sampler and the pruner draw on what was tried, the first one included."""
STARTS = 3
"""Times a trial may end the process (memory, most likely) without finishing an epoch."""
_UNREAD = ("beam", "seed", "lifelong", "reassign", "scorer.lifelong", "scorer.hidden", "dense.epochs")
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One finished trial."""

    number: int
    """0 is the configuration one had."""
    options: dict[str, Value]
    """Option ("dense.learning_rate") -> value."""
    state: Literal["done", "pruned", "failed"]
    """Only what is done was trained for the whole budget and may be the best."""
    value: float | None
    """Best validation NDCG@10 of its epochs; None where it failed."""
    curve: dict[int, float]
    """Epoch, from 0 -> validation NDCG@10."""
    seconds: float
    """Training time, of the last start where there were several."""
    note: str = ""
    """What there is to say of it, such as why it failed."""


def best_of(tried: list[Tried]) -> Tried:
    """The best of the trials that are done; the earlier one where two are level. `tried` holds trial 0."""
    return max((each for each in tried if each.state == "done"), key=lambda each: (each.value or 0.0, -each.number))


class _Overflowed(Exception):
    """The parameters are no numbers any more."""


# -- the space -------------------------------------------------------------------------------------------------------------


def _option(name: str) -> Any:
    """Type of an option of `TrainingConfig`, named with dots; BadInput where the dense path has no such option."""
    kind: Any = TrainingConfig
    for part in name.split("."):
        hints = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            raise BadInput(
                f"{name} is no option of training; {kind.__name__} knows {', '.join(sorted(hints)) or 'none'}"
            )
        kind = hints[part]
    if any(f"{name}.".startswith(f"{unread}.") for unread in _UNREAD):
        raise BadInput(
            f"{name} cannot be searched: a trial trains the dense path alone, for a number of epochs that is given"
        )
    if dataclasses.is_dataclass(kind):
        raise BadInput(f"{name} is a group of options; name one of them, such as {name}.{min(get_type_hints(kind))}")
    return kind


def _own(name: str, config: TrainingConfig) -> Any:
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _distribution(name: str, given: Any, config: TrainingConfig) -> BaseDistribution:
    kind, own = _option(name), _own(name, config)

    def typed(value: Any) -> Any:
        try:
            return TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise BadInput(f"{name} cannot be {value!r}: {error.errors()[0]['msg'].lower()}") from error

    if isinstance(given, list) and given:
        return CategoricalDistribution(list(dict.fromkeys([*(typed(value) for value in given), own])))
    if not (isinstance(given, Mapping) and {"low", "high"} <= set(given) <= {"low", "high", "log"}):
        raise BadInput(f'{name}: {given!r} is neither a list of values nor {{"low": ..., "high": ..., "log": true}}')
    if kind not in (int, float):
        raise BadInput(f"{name} has no range: give a list of values")
    low, high, log = typed(given["low"]), typed(given["high"]), given.get("log", False)
    if not (
        isinstance(log, bool) and math.isfinite(low) and math.isfinite(high) and low <= high and (low > 0 or not log)
    ):
        raise BadInput(f"{name}: {given!r} is no range; low is at most high, above 0 where log is true")
    if log and own <= 0:
        raise BadInput(
            f"{name} is {own} now, which a log scale does not hold: list values, or leave it out of the space"
        )
    low, high = min(low, own), max(high, own)
    return IntDistribution(low, high, log=log) if kind is int else FloatDistribution(low, high, log=log)


def read_space(given: Any, config: TrainingConfig) -> dict[str, BaseDistribution]:
    """The space of JSON values like `SPACE`, widened to hold `config`; BadInput naming what cannot be searched."""
    if not isinstance(given, Mapping) or not given:
        raise BadInput(f'a space is a JSON object of options, like {{"scorer.layers": [2, 4]}}, not {given!r:.60}')
    return {name: _distribution(name, given[name], config) for name in sorted(given)}


# -- the search ------------------------------------------------------------------------------------------------------------


class Search:
    """Trials over one tree and one set of histories, around `config`.

    epochs: of each trial; seed: of what is tried (training keeps the configuration's own). BadInput where the histories
    are over another catalogue than the tree, or have nobody to validate on.
    """

    def __init__(
        self,
        tree: IndexTree,
        train: Histories,
        validation: EvaluationSet,
        *,
        config: TrainingConfig,
        space: Mapping[str, BaseDistribution],
        epochs: int = 6,
        seed: int = 0,
    ) -> None:
        if train.n_items != tree.n_items:
            raise BadInput(
                f"the tree holds {tree.n_items} items, the histories {train.n_items}; materialize index_tree again"
            )
        if not len(validation):
            raise BadInput(
                "no user has a validation item, so that no option is better than another; ingest more behaviors"
            )
        self.tree, self.train, self.validation = tree, train, validation
        self.config, self.space, self.epochs, self.seed = config, dict(space), epochs, seed
        self.own: dict[str, Value] = {name: _own(name, config) for name in self.space}

    def identity(self, **data_versions: str) -> str:
        """sha256 of all that decides the trials: data, configuration, space, epochs, seed."""
        space = {name: json.loads(optuna.distributions.distribution_to_json(d)) for name, d in self.space.items()}
        own = {"data": data_versions, "config": asdict(self.config), "space": space}
        return digest_json(own | {"epochs": self.epochs, "seed": self.seed, "startup": STARTUP})

    def config_of(self, options: Mapping[str, Value]) -> TrainingConfig:
        """The configuration with `options` over it and the epochs of a trial; BadInput where they do not go together."""
        over: dict[str, Any] = {}
        for name, value in (dict(options) | {"dense.epochs": self.epochs}).items():
            *groups, last = name.split(".")
            inner = over
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = value
        return configure(TrainingConfig, merged(asdict(self.config), over), where="training")

    def run(self, trials: int, *, database: Path, study: str, work: Path) -> Iterator[tuple[Tried, bool]]:
        """Every finished trial of a study in order, and whether it was made now, until there are `trials` of them.

        database: SQLite file of all studies; work: folder of the checkpoint of a trial that is cut off.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        database.parent.mkdir(parents=True, exist_ok=True)
        place = str(database.resolve()).replace("{", "{{").replace("}", "}}")  # Optuna formats the address
        storage = optuna.storages.RDBStorage(f"sqlite:///{place}")
        # no pruning in the first third of the epochs, where the schedule warms up
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=self.epochs // 3)
        try:
            found = optuna.create_study(
                storage=storage, study_name=study, direction="maximize", pruner=pruner, load_if_exists=True
            )
            if not found.trials:
                found.enqueue_trial(self.own)
            finished = found.get_trials(states=_FINISHED)
            yield from ((_tried(each), False) for each in finished)
            for _ in range(len(finished), trials):
                number = self._next(found, work)
                yield _tried(found.trials[number]), True
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def _next(self, study: optuna.Study, work: Path) -> int:
        """Take up the trial that was cut off, or ask for one; train it and say its number."""
        cut_off = study.get_trials(states=(TrialState.RUNNING,))
        number = cut_off[0].number if cut_off else len(study.get_trials(states=_FINISHED))
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        trial = Trial(study, cut_off[0]._trial_id) if cut_off else study.ask()
        options = {name: _suggested(trial, name, each) for name, each in self.space.items()}
        for earlier in study.get_trials(states=_FINISHED):
            if earlier.params == options:
                trial.set_user_attr("note", f"as trial {earlier.number}")
                study.tell(trial, earlier.value if earlier.state is TrialState.COMPLETE else None, earlier.state)
                return trial.number
        checkpoint = work / f"trial-{trial.number}.pt"
        starts = int(trial.user_attrs.get("starts", 0)) + 1
        trial.set_user_attr("starts", starts)
        value, state, note, started = None, TrialState.FAIL, "", time.monotonic()
        try:
            if starts > STARTS:
                raise BadInput(
                    f"it ended the process {STARTS} times; less memory may do: fewer layers, a shorter window"
                )
            value, state = self._train(trial, options, checkpoint), TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except _Overflowed:  # worth knowing to the sampler, which hears nothing of what failed
            value, state, note = 0.0, TrialState.COMPLETE, "its parameters overflowed"
        except BadInput as error:
            if trial.number == 0:
                raise
            note = str(error)
        except KeyboardInterrupt:
            trial.set_user_attr("starts", starts - 1)
            raise
        trial.set_user_attr("note", note)
        trial.set_user_attr("seconds", round(time.monotonic() - started, 3))
        study.tell(trial, value, state)
        checkpoint.unlink(missing_ok=True)
        return trial.number

    def _train(self, trial: Trial, options: Mapping[str, Value], checkpoint: Path) -> float:
        """Best validation NDCG@10 of the dense path with these options."""
        config = self.config_of(options)
        model = new_model(self.tree, dense_alone(config))
        known = trial.study.trials[trial.number].intermediate_values

        def report(epoch: int, value: float) -> None:
            if not all(bool(torch.isfinite(each).all()) for each in model.parameters()):
                raise _Overflowed  # no score of such a model means anything
            if epoch not in known:
                trial.report(value, epoch)
            trial.set_user_attr("starts", 0)
            if epoch + 1 < self.epochs and trial.should_prune():
                raise optuna.TrialPruned

        curve = train_dense(
            model,
            self.tree,
            dense_histories(self.train, config),
            self.validation,
            config.dense,
            seed=config.seed,
            pseudo=config.pseudo_targets,
            checkpoint=checkpoint,
            progress=lambda _: None,
            report=report,
        )
        return max(point["validation_ndcg@10"] for point in curve)


def _suggested(trial: Trial, name: str, distribution: BaseDistribution) -> Value:
    """The trial's value of an option: drawn, or what was drawn before the trial was cut off."""
    match distribution:
        case FloatDistribution():
            return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
        case IntDistribution():
            return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
        case CategoricalDistribution():
            value: Value = trial.suggest_categorical(name, distribution.choices)  # type: ignore[assignment]
            return value
    raise TypeError(f"{name}: no way to draw from {distribution!r}")


def _tried(trial: FrozenTrial) -> Tried:
    states: dict[TrialState, Literal["done", "pruned", "failed"]]
    states = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    curve = dict(sorted(trial.intermediate_values.items()))
    value = trial.value if trial.state is TrialState.COMPLETE else max(curve.values(), default=None)
    return Tried(
        number=trial.number,
        options=dict(trial.params),
        state=states[trial.state],
        value=value,
        curve=curve,
        seconds=float(trial.user_attrs.get("seconds", 0.0)),
        note=str(trial.user_attrs.get("note", "")),
    )
