"""`GET /v1/links`: where Dagster and MLflow are, and their pages about the version that answers.

- Answers also while nothing is loaded: who looks for the reason finds the way to the other two.

Not covered: whether they are up, and whether the caller may open them.
"""

from collections.abc import Callable

from fastapi import APIRouter
from pydantic import BaseModel

from serving.api.shapes import ERRORS
from serving.follow import Follower
from serving.service import Service

__all__ = ["Links", "router"]


class Links(BaseModel):
    """Addresses for people; null where there is nothing to show yet."""

    dagster: str
    mlflow: str
    model_version: str | None = None
    mlflow_version: str | None = None
    mlflow_run: str | None = None
    dagster_run: str | None = None


def router(follower: Follower, *, dagster: str, mlflow: str) -> Callable[[Service], APIRouter]:
    """The endpoint over what `follower` serves; dagster, mlflow: where people open these two."""

    def make(_: Service) -> APIRouter:
        api = APIRouter(tags=["model"])

        @api.get("/v1/links", responses={status: ERRORS[status] for status in (401, 504)})
        async def links() -> Links:
            """Dagster, MLflow, and their pages about the version that answers."""
            promoted = follower.promoted
            if promoted is None:
                return Links(dagster=dagster, mlflow=mlflow)
            return Links(dagster=dagster, mlflow=mlflow, model_version=promoted.version, **promoted.links)

        return api

    return make
