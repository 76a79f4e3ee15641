"""The gate: measured figures in, a verdict for exactly these bytes out (DESIGN 6).

- Pure functions: who measures, stores and promotes is elsewhere. A verdict names the bundle by digest and holds the value, the
  bound and the baseline of every rule, never a bare boolean.
- It fails closed. A value that is missing, NaN or infinite, an empty report, other users than the champion's, a baseline that was
  not evaluated: each fails its rule and says so in the rule's note. `Rule` itself refuses to be passed without a value, and
  `Verdict.passed` is computed from the rules, on the way in from JSON as well.
- Quality is Recall@50. Against the baselines the point estimate must be strictly higher, and the paired interval is noted.
  Against the champion, on the same users: point estimate not below 0, and the lower end of the paired 95 % bootstrap interval
  (2,000 resamples) not below -1 % of the champion's value; no slice of at least 100 users may lose more than 5 %. The bundle that
  is champion already passes.
- Latency has an absolute bound, and one relative to the champion measured in the same run, with a few ms of slack for the clock.
- Not covered here: age of a verdict, who approved, and the checks of the data contract; rules made elsewhere join through `extra`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput, Corrupt
from model.evaluation import Evaluation, paired_bootstrap

__all__ = ["GateConfig", "Measured", "Rule", "Verdict", "judge"]


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The bounds."""

    max_score_error: float = 1e-4
    """Largest difference of a score between torch and ONNX Runtime."""
    min_topk_equal: float = 0.999
    """Least share of histories for which both return the same set of items."""
    parity_histories: int = 1000
    """Histories the comparison must cover, or as many as there are evaluated users."""
    must_beat: tuple[str, ...] = ("popularity", "item-kNN (recency)")
    """Baselines that must have been evaluated, and be beaten."""
    k: int = 50
    """Where recall is compared."""
    max_relative_loss: float = 0.01
    """Share of the champion's recall that the lower end of the interval may lie below it."""
    resamples: int = 2000
    """Bootstrap resamples."""
    seed: int = 0
    """Of the bootstrap."""
    max_latency_ms: float = 250.0
    """95th percentile of one request."""
    max_bundle_bytes: int = 2 * 2**30
    """Size of the bundle."""
    max_growth: float = 1.1
    """Latency and size relative to the champion's."""
    max_slice_loss: float = 0.05
    """Share of the champion's recall that any slice of users may lose."""
    min_slice_users: int = 100
    """Smaller slices make no rule: their recall moves by more than that from one seed to the next."""
    max_table_loss: float = 0.005
    """Share of its recall that a model may lose where its tables are kept narrow."""
    latency_slack_ms: float = 2.0
    """Added to the relative bound: what two measurements of the same bundle differ by."""

    @classmethod
    def for_catalogue(cls, n_items: int) -> GateConfig:
        """On a small catalogue everybody finds the target among fifty: a twentieth of it still tells retrievers apart."""
        return cls(k=min(cls.k, max(5, n_items // 20)))

    def as_fast(self, latency_ms: float, champion_ms: float) -> bool:
        """Whether a latency is within the bound that the champion's sets."""
        return latency_ms <= self.max_growth * champion_ms + self.latency_slack_ms


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one bundle; None for what could not be."""

    evaluation: Evaluation | None
    """Per-user results on the gate's users."""
    latency_ms: float | None
    """95th percentile of one request, milliseconds."""
    bundle_bytes: int | None
    """Size of all files."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule, applied. Raises ValueError where it claims to have passed without a finite value and bound."""

    name: str
    """snake_case."""
    value: float | None
    """What was measured; None where it could not be."""
    bound: float | None
    """What it was held against; None where that could not be told."""
    baseline: float | None
    """The rival's own value, None where there is no rival."""
    passed: bool
    """Whether it holds."""
    note: str = ""
    """How to read it, and why it failed where the figures alone do not tell."""

    def __post_init__(self) -> None:
        for field in ("value", "bound", "baseline"):
            number = getattr(self, field)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"rule {self.name}: {field} = {number}; use None for what is not a number")
        if self.passed and (self.value is None or self.bound is None):
            raise ValueError(f"rule {self.name} cannot have passed without a value and a bound")

    def to_json(self) -> dict[str, Any]:
        """JSON values: {"name", "value", "bound", "baseline", "passed", "note"}."""
        return {
            "name": self.name,
            "value": self.value,
            "bound": self.bound,
            "baseline": self.baseline,
            "passed": self.passed,
            "note": self.note,
        }

    def sentence(self) -> str:
        """For a person: "recall_50_vs_popularity: 0.4 against a bound of 0.5 (note)"."""
        shown = ["nothing measured" if x is None else f"{x:.6g}" for x in (self.value, self.bound)]
        return f"{self.name}: {shown[0]} against a bound of {shown[1]}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate found for one bundle. Raises ValueError where two rules share a name."""

    bundle_digest: str
    """Digest of the bundle it holds for, and for no other."""
    created_at: str
    """ISO 8601 with time zone."""
    champion_digest: str | None
    """Digest of the champion it was compared with; None for a home's first bundle."""
    rules: tuple[Rule, ...]
    """Every rule that was applied."""

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError(f"two rules share a name among {names}")

    @property
    def passed(self) -> bool:
        """Whether there are rules and all of them hold."""
        return bool(self.rules) and all(rule.passed for rule in self.rules)

    @property
    def failed(self) -> tuple[Rule, ...]:
        """The rules that do not hold."""
        return tuple(rule for rule in self.rules if not rule.passed)

    def to_json(self) -> dict[str, Any]:
        """JSON values: {"passed", "bundle_digest", "champion_digest", "created_at", "rules": [...]}."""
        return {
            "passed": self.passed,
            "bundle_digest": self.bundle_digest,
            "champion_digest": self.champion_digest,
            "created_at": self.created_at,
            "rules": [rule.to_json() for rule in self.rules],
        }

    @classmethod
    def from_json(cls, document: Any) -> Verdict:
        """Read `to_json`'s document; `Corrupt` where it has another shape or claims to have passed against its own rules."""
        try:
            rules = tuple(_rule_from_json(entry) for entry in document["rules"])
            digests = (document["bundle_digest"], document["champion_digest"])
            verdict = cls(
                bundle_digest=digests[0], champion_digest=digests[1], created_at=document["created_at"], rules=rules
            )
            claimed = document["passed"]
            texts = [verdict.bundle_digest, verdict.created_at, digests[1] if digests[1] is not None else ""]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Corrupt(f"a stored verdict is not readable ({error}); run the gate again") from error
        if not all(isinstance(text, str) for text in texts):
            raise Corrupt(f"a stored verdict names a bundle by {digests[0]!r}, which is no digest; run the gate again")
        if claimed is not verdict.passed:
            raise Corrupt(
                f"the stored verdict for {verdict.bundle_digest} says passed = {claimed!r}, its rules do not; run the gate again"
            )
        return verdict


def _rule_from_json(entry: Any) -> Rule:
    numbers = {field: entry[field] for field in ("value", "bound", "baseline")}
    if any(x is not None and (isinstance(x, bool) or not isinstance(x, int | float)) for x in numbers.values()):
        raise TypeError(f"rule {entry['name']!r} has a figure that is not a number")
    if not isinstance(entry["passed"], bool) or not isinstance(entry["name"], str):
        raise TypeError(f"rule {entry['name']!r} has no boolean verdict")
    return Rule(name=entry["name"], passed=entry["passed"], note=str(entry.get("note", "")), **numbers)


def _number(value: object, low: float = -math.inf, high: float = math.inf) -> float | None:
    """`value` as a finite float within [low, high]; None for anything else: a figure out of its range was not measured."""
    if value is None or isinstance(value, bool | np.bool_ | str | bytes):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and low <= number <= high else None


def _at_most(name: str, value: float | None, bound: float | None, *, baseline: float | None = None, note: str) -> Rule:
    passed = value is not None and bound is not None and value <= bound
    return Rule(name=name, value=value, bound=bound, baseline=baseline, passed=passed, note=note)


def _at_least(name: str, value: float | None, bound: float | None, *, baseline: float | None = None, note: str) -> Rule:
    passed = value is not None and bound is not None and value >= bound
    return Rule(name=name, value=value, bound=bound, baseline=baseline, passed=passed, note=note)


def _tree_rule(tree: Mapping[str, Any] | None) -> Rule:
    """`index_tree.check_tree`'s report."""
    violations = (tree or {}).get("violations")
    counts = [_number(count, 0) for count in violations.values()] if isinstance(violations, Mapping) else []
    known = [count for count in counts if count is not None]
    total = sum(known) if counts and len(known) == len(counts) else None
    rule = _at_most("tree_invariants", total, 0.0, note="violated invariants of the index tree")
    if rule.passed and (tree or {}).get("passed") is not True:
        return Rule(
            name=rule.name, value=total, bound=0.0, baseline=None, passed=False, note="the tree's report says it failed"
        )
    return rule


def _parity_rules(parity: Mapping[str, Any] | None, users: int, config: GateConfig) -> list[Rule]:
    """`onnx_export.check_parity`'s report."""
    report = parity or {}
    return [
        _at_most(
            "onnx_score_error",
            _number(report.get("max_abs_score_error"), 0),
            config.max_score_error,
            note="largest difference of a score, ONNX Runtime against torch",
        ),
        _at_least(
            "onnx_topk_equal",
            _number(report.get("topk_equal_share"), 0, 1),
            config.min_topk_equal,
            note="share of histories with the same set of items",
        ),
        _at_least(
            "onnx_histories",
            _number(report.get("histories"), 0),
            float(max(1, min(config.parity_histories, users))),
            note="histories compared",
        ),
    ]


def _hits(evaluation: Evaluation | None, k: int) -> NDArray[np.float64] | None:
    return evaluation.hits(k) if evaluation is not None and len(evaluation) else None


def _difference(
    candidate: Evaluation | None, rival: Evaluation | None, config: GateConfig
) -> tuple[dict[str, float] | None, float | None, str]:
    """(paired bootstrap, the rival's recall, note); the first is None where the two cannot be compared."""
    ours, theirs = _hits(candidate, config.k), _hits(rival, config.k)
    baseline = None if theirs is None else float(theirs.mean())
    if ours is None or theirs is None or candidate is None or rival is None:
        return None, baseline, "not evaluated" if theirs is None else "the candidate was not evaluated"
    if candidate.split != rival.split or not np.array_equal(candidate.users, rival.users):
        return None, baseline, "evaluated on other users than the candidate"
    found = paired_bootstrap(ours, theirs, resamples=config.resamples, seed=config.seed)
    interval = f"difference {found['mean_difference']:+.4f}, 95 % [{found['low95']:+.4f}, {found['high95']:+.4f}]"
    return found, baseline, f"Recall@{config.k}, {interval} over {len(ours)} users"


def _slug(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _baseline_rule(candidate: Evaluation | None, name: str, rival: Evaluation | None, config: GateConfig) -> Rule:
    found, baseline, note = _difference(candidate, rival, config)
    ours = _hits(candidate, config.k)
    value = None if ours is None else float(ours.mean())
    passed = found is not None and found["mean_difference"] > 0
    return Rule(name=f"beats_{_slug(name)}", value=value, bound=baseline, baseline=baseline, passed=passed, note=note)


def _champion_rules(candidate: Measured, champion: Measured, config: GateConfig) -> list[Rule]:
    found, baseline, note = _difference(candidate.evaluation, champion.evaluation, config)
    low_bound = None if baseline is None else -config.max_relative_loss * baseline
    latency, size = _number(champion.latency_ms, 0), _number(champion.bundle_bytes, 1)
    return [
        _at_least(
            f"recall_{config.k}_difference",
            None if found is None else found["mean_difference"],
            0.0,
            baseline=baseline,
            note=note,
        ),
        _at_least(
            f"recall_{config.k}_low95",
            None if found is None else found["low95"],
            low_bound,
            baseline=baseline,
            note=note,
        ),
        _at_most(
            "p95_latency_vs_champion_ms",
            _number(candidate.latency_ms, 0),
            None if latency is None else config.max_growth * latency + config.latency_slack_ms,
            baseline=latency,
            note="both measured in this run",
        ),
        _at_most(
            "bundle_vs_champion_bytes",
            _number(candidate.bundle_bytes, 1),
            None if size is None else config.max_growth * size,
            baseline=size,
            note="all files of the bundle",
        ),
    ]


def _slice_rules(
    candidate: Measured, champion: Measured, slices: Mapping[str, NDArray[np.bool_]], config: GateConfig
) -> list[Rule]:
    """No slice of users may lose more than `max_slice_loss` of what the champion finds for it."""
    ours, theirs = (_hits(each.evaluation, config.k) for each in (candidate, champion))
    rules = []
    for name, mask in slices.items():
        users = int(mask.sum())
        if users < config.min_slice_users:
            continue
        whole = ours is not None and theirs is not None and len(ours) == len(theirs) == len(mask)
        value, baseline = (float(each[mask].mean()) if whole and each is not None else None for each in (ours, theirs))
        bound = None if baseline is None else (1 - config.max_slice_loss) * baseline
        note = f"{users} users" if whole else f"{users} users, not those that were evaluated"
        rules.append(_at_least(f"recall_{config.k}_of_{_slug(name)}", value, bound, baseline=baseline, note=note))
    return rules


def judge(
    bundle_digest: str,
    candidate: Measured,
    *,
    created_at: str,
    tree: Mapping[str, Any] | None,
    parity: Mapping[str, Any] | None,
    baselines: Sequence[Evaluation],
    champion_digest: str | None = None,
    champion: Measured | None = None,
    slices: Mapping[str, NDArray[np.bool_]] | None = None,
    extra: Sequence[Rule] = (),
    config: GateConfig | None = None,
) -> Verdict:
    """Apply every rule to what was measured of the bundle `bundle_digest`.

    tree: the report of `index_tree.check_tree`. parity: {"max_abs_score_error", "topk_equal_share", "histories"}. baselines:
    evaluations on the candidate's users; those of `config.must_beat` make rules, others are left to the table.
    champion_digest: None only where the home has no champion; `champion` holds its figures on the same users, in the same run.
    slices: name -> (E,) mask of evaluated users, none of which may lose more than a little against the champion.
    extra: rules applied elsewhere (data contract, fresh process). Raises BadInput for an empty digest.
    """
    config = config or GateConfig()
    if not bundle_digest or champion_digest == "":
        raise BadInput("a verdict needs the digest of the bundle it holds for; publish the bundle first")
    users = 0 if candidate.evaluation is None else len(candidate.evaluation)
    rivals = {evaluation.retriever: evaluation for evaluation in baselines}
    rules = [_tree_rule(tree), *_parity_rules(parity, users, config)]
    rules += [_baseline_rule(candidate.evaluation, name, rivals.get(name), config) for name in config.must_beat]
    rules += [
        _at_most(
            "p95_latency_ms",
            _number(candidate.latency_ms, 0),
            config.max_latency_ms,
            note="95th percentile of one request",
        ),
        _at_most(
            "bundle_bytes",
            _number(candidate.bundle_bytes, 1),
            float(config.max_bundle_bytes),
            note="all files of the bundle",
        ),
    ]
    if champion_digest is not None or champion is not None:
        # a champion that could not be measured is no reason to skip its rules: they fail
        absent = Measured(evaluation=None, latency_ms=None, bundle_bytes=None)
        rules += _champion_rules(candidate, champion or absent, config)
        rules += _slice_rules(candidate, champion or absent, slices or {}, config)
    return Verdict(
        bundle_digest=bundle_digest, created_at=created_at, champion_digest=champion_digest, rules=(*rules, *extra)
    )
