"""Drift by day: what has moved since the champion was trained, and whether that asks for another one."""

import warnings
from datetime import date
from typing import Any

import dagster as dg

from assets.behaviors import days_from
from assets.stores.io_manager import picture
from assets.stores.resource import Stores
from model.errors import NotReady
from model.files import digest_json

GROUP = "monitoring"
CHECK = "within_thresholds"


def daily_drift(first: date, condition: dg.AutomationCondition | None = None) -> dg.AssetsDefinition:
    """The asset `drift`, a partition a day (UTC) from `first` to today; condition: what has a day compared by itself."""
    with warnings.catch_warnings():
        # as for `behaviors`: a range of days in one run reads the champion once
        warnings.simplefilter("ignore", dg.BetaWarning)

        @dg.asset(
            partitions_def=days_from(first),
            backfill_policy=dg.BackfillPolicy.single_run(),
            group_name=GROUP,
            deps=["behaviors"],
            automation_condition=condition,
            code_version="1",
            kinds={"numpy", "onnx"},
            check_specs=[
                dg.AssetCheckSpec(
                    CHECK, asset="drift", description="no figure of the newest day is beyond its threshold and chance"
                )
            ],
        )
        def drift(context: dg.AssetExecutionContext, stores: Stores) -> dg.MaterializeResult:
            """Holds these days' logs, catalogue and champion's answers against what the champion was trained on."""
            from assets.release.drift import record

            root, documents = stores.settings.root / "drift", _compared(context, stores)
            for document in documents:
                pictures = record(root, document)
                entries = _metadata(document) | {f"{name}_plot": picture(path) for name, path in pictures.items()}
                context.add_asset_metadata(entries, partition_key=document["day"])
                context.log.info(
                    f"{document['day']}: {document['level']}{' ' * bool(document['why'])}{document['why']}"
                )
            newest = documents[-1]
            return dg.MaterializeResult(
                data_version=dg.DataVersion(digest_json(newest)) if len(documents) == 1 else None,
                check_results=[_check(newest)],
            )

    return drift


def _compared(context: dg.AssetExecutionContext, stores: Stores) -> list[dict[str, Any]]:
    from assets.release.drift import Compare, nothing

    try:
        compare = Compare(stores, log=context.log.info)
    except NotReady as error:
        about = {"champion": {"version": "none", "digest": ""}, "users": 0, "behaviors": 0}
        return [{"day": day} | about | nothing(str(error)) for day in context.partition_keys]
    return [compare.day(day) for day in context.partition_keys]


def _metadata(document: dict[str, Any]) -> dict[str, Any]:
    """Entries of one day; a figure is a number, which Dagster draws over days."""
    from assets.release.drift import reason, table

    figures = document["figures"]
    return {
        "level": document["level"],
        "champion_version": document["champion"]["version"],
        "champion_digest": document["champion"]["digest"],
        "users": document["users"],
        "behaviors": document["behaviors"],
        "acting": dg.MetadataValue.json([each["name"] for each in figures if each["level"] == "act"]),
        "reason": reason(document["day"], figures, least="act") or document["why"],
        "figures": dg.MetadataValue.md(table(document)),
    } | {each["name"]: float(each["value"]) for each in figures}


def _check(document: dict[str, Any]) -> dg.AssetCheckResult:
    worst = document["level"]
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=worst not in ("warn", "act"),
        severity=dg.AssetCheckSeverity.ERROR if worst == "act" else dg.AssetCheckSeverity.WARN,
        description=document["why"] or worst,
        metadata={
            "day": document["day"],
            "level": worst,
            "figures": dg.MetadataValue.json(
                {each["name"]: each["level"] for each in document["figures"] if each["level"] in ("warn", "act")}
            ),
        },
    )
