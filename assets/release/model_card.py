"""What a reviewer reads on a model version in MLflow: the verdict, what changed, gains and losses, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from assets.release.verdict import Judged
from assets.stores import links
from assets.stores.artifacts import Artifact
from assets.stores.champion import EXPIRES_AFTER
from assets.stores.registry import TRAINED_BY
from assets.stores.resource import Stores
from model.evaluation import paired_bootstrap
from model.files import read_json

__all__ = ["card", "changed", "gain", "write_card"]

METRICS = ("recall@10", "recall@50", "recall@100", "recall@200", "ndcg@10")
LINEAGE = "data_version/"


def write_card(stores: Stores, candidate: Artifact, judged: Judged, *, about: str = "") -> str:
    """Put the card, and the picture of gains, where a reviewer of the version finds them; returns the card.

    about: what is special about this version, a paragraph.
    """
    from model.plots import differences

    registry, version = stores.registry, judged.version
    report = read_json(candidate.path / "evaluation.json")
    changes = []
    if judged.champion is not None:
        pairs = [(registry.parameters(each.version), each.tags) for each in (judged.champion, version)]
        changes = changed(pairs[0][0], pairs[1][0]) + changed(*(_lineage(tags) for _, tags in pairs))
    text = card(
        judged,
        report,
        changes=changes,
        about=about,
        run_url=links.dagster_run(stores.settings, version.tags.get("dagster/run_id", "")),
        service_url=stores.settings.service_url,
    )
    found = [gain(judged, name, "recall@50") for name in judged.rivals] + [
        gain(judged, name, "recall@50", mask=label)
        for name in list(judged.rivals)[:1]
        if judged.champion is not None
        for label in judged.slices
    ]
    if found:
        title = f"version {version.version}: what it gains in Recall@50"
        picture = differences(found, title=title, simulated=bool(report["simulated"]))
        registry.run_of(version.version).log_figure_bytes("plots/gains.png", picture)
    registry.describe(version.version, text)
    return text


def card(
    judged: Judged,
    report: Mapping[str, Any],
    *,
    changes: Sequence[str],
    run_url: str,
    service_url: str = "",
    about: str = "",
) -> str:
    """The card in Markdown."""
    verdict, version = judged.document, judged.version
    failed = [rule["name"] for rule in verdict["rules"] if not rule["passed"]]
    until = datetime.fromisoformat(verdict["created_at"]) + EXPIRES_AFTER
    said = (
        f"**The gate failed it** ({', '.join(failed)})"
        if failed
        else f"**It passed the gate** ({len(verdict['rules'])} rules)"
    )
    against = (
        f"champion version {judged.champion.version}"
        if judged.champion
        else "the baselines alone, there was no other champion"
    )
    names = list(judged.rivals)
    lines = [
        f"# Version {version.version}, on {report['dataset']}{' (simulated histories)' if report['simulated'] else ''}",
        f"{said} on {verdict['created_at'][:16]} UTC against {against}. Good until {until:%Y-%m-%d %H:%M}. "
        f"Bundle `{version.digest[:16]}`, trained by {version.tags.get(TRAINED_BY, 'nobody known')}, [run in Dagster]({run_url})"
        f"{f', [the service]({service_url}) answers with the champion' if service_url else ''}.",
        about,
        "To approve: tag `review` = `approved` (and `review_by`, `review_reason`), or give it the alias `champion`."
        if not failed
        else "It cannot be promoted.",
        f"## Gains and losses ({report['split']} item, {len(judged.own):,} users; difference with 95 % interval)",
        str(report.get("protocol", "")),
        _table(["", *METRICS], [["this version", *(f"{_mean(judged, m):.4f}" for m in METRICS)]]),
        _table(["against", *METRICS], [[name, *(_told(gain(judged, name, m)) for m in METRICS)] for name in names]),
        "## What changed since the champion" if judged.champion else "",
        "\n".join(f"- {each}" for each in changes) or ("- nothing" if judged.champion else ""),
        "## The gate, rule by rule",
        _table(["", "rule", "value", "bound", "note"], [_rule(rule) for rule in verdict["rules"]]),
        "## Lineage (data versions)",
        "\n".join(f"- {name}: `{value[:16]}`" for name, value in _lineage(version.tags).items()),
        "## Limits",
        "Items without behaviors are placed by their content alone. A search finds at most `beam` items.",
    ]
    return "\n\n".join(line for line in lines if line)


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """One line for every name whose value is another one, is new or is gone."""
    lines = []
    for name in sorted({*before, *after}):
        old, new = (_short(each.get(name)) for each in (before, after))
        if before.get(name) != after.get(name):
            lines.append(f"{name}: {old} -> {new}")
    return lines


def gain(judged: Judged, rival: str, metric: str, *, mask: str | None = None) -> dict[str, Any]:
    """{"against", "mean_difference", "low95", "high95"} of this version over a rival, of all users or of a slice of them."""
    pick = ... if mask is None else judged.slices[mask]
    ours, theirs = (_per_user(each, metric)[pick] for each in (judged.own, judged.rivals[rival]))
    told = rival if mask is None else f"{rival}: {mask}"
    return {"against": told, **paired_bootstrap(ours, theirs)}


def _per_user(evaluation: Any, metric: str) -> Any:
    name, k = metric.split("@")
    return evaluation.hits(int(k)) if name == "recall" else evaluation.gains(int(k))


def _mean(judged: Judged, metric: str) -> float:
    return float(_per_user(judged.own, metric).mean())


def _told(found: Mapping[str, float]) -> str:
    return f"{found['mean_difference']:+.4f} ({found['low95']:+.4f} to {found['high95']:+.4f})"


def _rule(rule: Mapping[str, Any]) -> list[str]:
    value, bound = ("-" if rule[key] is None else f"{rule[key]:.4g}" for key in ("value", "bound"))
    return ["pass" if rule["passed"] else "**FAIL**", rule["name"], value, bound, str(rule["note"]).replace("|", "/")]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _lineage(tags: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(LINEAGE): value for name, value in sorted(tags.items()) if name.startswith(LINEAGE)}


def _short(value: str | None) -> str:
    return "none" if value is None else f"`{value[:16]}`"
