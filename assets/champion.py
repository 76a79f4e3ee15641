"""The champion: what reviewers decided in MLflow is carried out here, and what hands moved without a verdict is put back."""

import dagster as dg

from assets.release.extension import EXTENDS
from assets.release.review import carry_out
from assets.retries import patient
from assets.stores import links
from assets.stores.artifacts import Artifact
from assets.stores.champion import RESTORE
from assets.stores.registry import ModelVersionInfo
from assets.stores.resource import Stores
from model.errors import Refused

CHECK = "promoted_by_the_gate"
ROWS = "ledger_rows"


@dg.asset(
    group_name="promotion",
    code_version="2",
    kinds={"mlflow"},
    deps=["new_items"],
    check_specs=[
        dg.AssetCheckSpec(
            CHECK,
            asset="champion",
            description="since the last look, no alias had to be put back",
        )
    ],
)
@patient
def champion(context: dg.AssetExecutionContext, stores: Stores, candidate: Artifact) -> dg.MaterializeResult:
    """Promotes a home's first candidate that passes the gate, then what reviewers approve; or all that pass, where so set."""
    promotion, registry, log = stores.promotion, stores.registry, context.log
    settled = promotion.reconcile()
    if settled is not None:
        log.info(f"{settled['action']} of version {settled['version']} by {settled['actor']}: {settled['reason']}")
    for answer in carry_out(promotion):
        log.info(f"version {answer['version']} was approved in MLflow: {answer['review']}, {answer['answer']}")
    registered = registry.find(candidate.data_version)
    if registered is None:
        raise dg.Failure(f"the bundle {candidate.data_version[:16]} is not registered; materialize candidate again")
    before = registry.by_alias("champion")
    if before is None:
        promotion.bootstrap(registered.version)
    elif (unasked := _without_reviewer(stores, registered, before)) is not None:
        try:
            promotion.promote(unasked[0], actor="miss", reason=unasked[1])
        except Refused as refused:
            log.warning(str(refused))
    now, waits = registry.by_alias("champion"), registry.by_alias("challenger")
    if waits is not None:
        log.info(
            f"version {waits.version} waits for a reviewer: `miss promote {waits.version}`, or tag review=approved in MLflow"
        )
    if gone := registry.prune(stores.settings.keep_versions):
        log.info(
            f"deleted versions {', '.join(gone)} with their bundles: {stores.settings.keep_versions} newer ones are kept"
        )
    rows, seen = stores.books.ledger(), rows_seen(context.instance)
    put_back = [row for row in rows[seen:] if row["action"] == RESTORE]
    told = [f"{row['at'][:19]}Z version {row['version']} by {row['actor']}: {row['reason']}" for row in put_back]
    return dg.MaterializeResult(
        metadata={
            "champion_version": now.version if now else "none",
            "challenger_waits": waits is not None,
            "bundle_digest": now.digest if now else "",
            ROWS: len(rows),
            **links.metadata(stores.settings, registry, now),
        },
        data_version=dg.DataVersion(now.digest if now else "none"),
        check_results=[
            dg.AssetCheckResult(
                check_name=CHECK,
                passed=not told,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={"put_back": dg.MetadataValue.json(told), "rows_looked_at": len(rows) - seen},
            )
        ],
    )


def _without_reviewer(stores: Stores, registered: ModelVersionInfo, now: ModelVersionInfo) -> tuple[str, str] | None:
    """(version, reason) of what settings promote without anybody; None where nobody set them, or nothing is newer."""
    settings, waits = stores.settings, stores.registry.by_alias("challenger")
    if waits is not None and waits.tags.get(EXTENDS) == now.digest and (settings.auto_extend or settings.auto_promote):
        return waits.version, f"{waits.tags['new_items']} new items, MISS_AUTO_EXTEND is on"
    if settings.auto_promote and int(registered.version) > int(now.version):
        return registered.version, "MISS_AUTO_PROMOTE is on"
    return None


def rows_seen(instance: dg.DagsterInstance) -> int:
    """Rows of the ledger that the newest materialization of `champion` has looked at."""
    last = instance.get_latest_materialization_event(dg.AssetKey("champion"))
    found = last.asset_materialization.metadata.get(ROWS) if last and last.asset_materialization else None
    return int(found.value) if found is not None else 0
