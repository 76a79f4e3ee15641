"""What reviewers say in MLflow, and how it is carried out.

- A reviewer approves by the tag `review` = "approved" on a model version, with `review_by` and `review_reason` if they like; or by
  moving the alias `champion` themselves, which `assets.stores.champion` settles.
- The answer stands in the same tags: `review` becomes "promoted", "refused" or "superseded", and `review_answer` says why. To
  ask again, say "approved" again.
"""

from __future__ import annotations

from typing import Any

from assets.release.promotion import Promotion
from assets.stores.champion import MOVES, NOBODY, RESTORE
from assets.stores.registry import CHAMPION, REVIEW, REVIEW_BY, REVIEW_REASON, ModelVersionInfo
from model.errors import Refused

__all__ = ["APPROVED", "REVIEW_ANSWER", "approved", "carry_out", "waiting"]

APPROVED, REVIEW_ANSWER = "approved", "review_answer"


def approved(promotion: Promotion) -> list[ModelVersionInfo]:
    """Versions that a reviewer has approved in MLflow and that have had no answer yet, oldest first."""
    return [each for each in promotion.registry.versions() if each.tags.get(REVIEW, "").strip().lower() == APPROVED]


def waiting(promotion: Promotion, *, seen: int = 0) -> dict[str, Any]:
    """What a run would have to settle, {"reasons": [...], "rows": of the ledger}; changes nothing.

    seen: rows of the ledger that were looked at before; an alias put back since then is a reason too.
    """
    rows, champion = promotion.books.ledger(), promotion.registry.by_alias(CHAMPION)
    moves = [row for row in rows if row["action"] in MOVES]
    told = (str(moves[-1]["version"]), moves[-1]["bundle_digest"]) if moves else None
    reasons = [f"version {each.version} was approved" for each in approved(promotion)]
    if (None if champion is None else (champion.version, champion.digest)) != told:
        reasons.append(f"alias {CHAMPION} is not where the ledger has it")
    reasons += [f"version {row['version']}: {row['reason']}" for row in rows[seen:] if row["action"] == RESTORE]
    return {"reasons": reasons, "rows": len(rows)}


def carry_out(promotion: Promotion) -> list[dict[str, str]]:
    """Do what reviewers said in MLflow; {"version", "review", "answer"} of each version answered.

    The newest approved version is promoted where its verdict is good and fresh; approvals of older ones are superseded.
    """
    answers = []
    with promotion.registry.lock():
        for age, target in enumerate(reversed(approved(promotion))):
            by = target.tags.get(REVIEW_BY, "").strip() or NOBODY
            reason = target.tags.get(REVIEW_REASON, "").strip() or "approved in MLflow"
            try:
                if age:
                    review, answer = "superseded", "a newer version was approved"
                else:
                    promotion.promote(target.version, actor=by, reason=reason)
                    review, answer = "promoted", "it is the champion now"
            except Refused as refused:
                review, answer = "refused", str(refused)
            # in this order: a kill between the two tags leaves "approved", which is asked again and moves nothing
            promotion.registry.set_tags(target.version, {REVIEW_ANSWER: answer, REVIEW: review})
            answers.append({"version": target.version, "review": review, "answer": answer})
    return answers
