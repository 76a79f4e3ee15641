"""A component's options from plain values: frozen dataclasses stay the one place where an option is defined."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from model.errors import BadInput

__all__ = ["configure", "merged"]

T = TypeVar("T")


def _check_names(cls: Any, values: Mapping[str, Any], where: str) -> None:
    known = {field.name for field in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    for name, value in values.items():
        if name not in known:
            raise BadInput(
                f"{where}{name} is no option; {where.rstrip('.') or cls.__name__} knows {', '.join(sorted(known))}"
            )
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            _check_names(hints[name], value, f"{where}{name}.")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, nested mappings merged."""
    result = dict(base)
    for name, value in over.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def configure(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """An instance of the dataclass `cls` with `values` over its defaults; nested mappings for nested dataclasses.

    Text is read as the option's type ("4" is 4). Raises BadInput naming an unknown option or an unusable value.
    """
    _check_names(cls, values, f"{where}." if where else "")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in ([where] if where else []) + list(first["loc"]))
        raise BadInput(f"{option} = {first['input']!r} is not usable: {first['msg'].lower()}") from error
