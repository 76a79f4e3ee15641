"""Trying again where waiting helps, and nowhere else.

A file that another process holds, or a server that does not answer, is `Busy`: the step is tried again after a while. Whatever
else goes wrong would go wrong again, and fails at once. (A run whose process died is started again by Dagster's own `run_retries`.)
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import dagster as dg

from model.errors import Busy

__all__ = ["AGAIN_S", "TIMES", "patient"]

TIMES, AGAIN_S = 3, 20.0
F = TypeVar("F", bound=Callable[..., Any])


def patient(function: F) -> F:
    """Put it under `@dg.asset` or `@dg.op`: the function, whose first argument is its context, is tried up to `TIMES` times more.

    The last `Busy` is raised as it is, with its sentence.
    """

    @functools.wraps(function)
    def tried(context: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return function(context, *args, **kwargs)
        except Busy as error:
            if context.retry_number >= TIMES:
                raise
            context.log.warning(f"tried again in {AGAIN_S:g} s: {error}")
            raise dg.RetryRequested(max_retries=TIMES, seconds_to_wait=AGAIN_S) from error

    return tried  # type: ignore[return-value]
