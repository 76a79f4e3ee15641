"""typer is imported before warnings become errors."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():  # typer 0.25 imports names that click 8.5 calls deprecated
    warnings.filterwarnings("ignore", message="'click", category=DeprecationWarning)
    import typer  # noqa: F401
