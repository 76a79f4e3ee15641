"""Tensors of the Open Inference Protocol: a request as JSON, or JSON with the tensors' bytes behind it.

- `attached` puts the bytes behind the JSON where JSON would have had them, so that everything after it knows one form only.
- BYTES are texts, each behind its length in four bytes, little-endian; INT64 are eight bytes, little-endian.

Not covered: other datatypes, which no input here has; tensors of more than two dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from model.errors import BadInput

__all__ = ["Infer", "InputTensor", "attached", "schema", "strings"]

DEPTH = 2


class InputTensor(BaseModel):
    """One input, row by row; `data` may be nested as the shape is, or flat."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=DEPTH)
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class Wanted(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Infer(BaseModel):
    """A request."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[InputTensor]
    outputs: list[Wanted] = []


def schema() -> dict[str, Any]:
    """JSON schema of a request, for OpenAPI, whose references go elsewhere than pydantic's: here there are none."""
    told = Infer.model_json_schema()
    parts = told.pop("$defs")

    def inlined(value: Any) -> Any:
        if isinstance(value, list):
            return [inlined(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return inlined(parts[value["$ref"].rpartition("/")[2]])
        return {name: inlined(each) for name, each in value.items()}

    return inlined(told)


def attached(body: bytes, header_length: str | None) -> Infer:
    """The request in `body`, whose first `header_length` bytes are JSON; all of them where None.

    Raises BadInput for what is no request, or where the bytes behind it are not those it tells of.
    """
    if header_length is None:
        size = len(body)
    elif header_length.isascii() and header_length.isdigit() and int(header_length) <= len(body):
        size = int(header_length)
    else:
        raise BadInput(f"Inference-Header-Content-Length = {header_length[:40]!r} is not within the body; leave it out")
    try:
        request = Infer.model_validate_json(body[:size])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise BadInput(f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
    rest = body[size:]
    for each in request.inputs:
        length = each.parameters.get("binary_data_size")
        if length is None:
            continue
        if type(length) is not int or not 0 <= length <= len(rest) or each.data is not None:
            raise BadInput(
                f"input {each.name[:80]!r} tells of {length!r:.40} bytes that are not there; send them behind the JSON"
            )
        each.data, rest = _decoded(each, rest[:length]), rest[length:]
    if rest:
        raise BadInput(f"{len(rest)} bytes behind the JSON belong to no input; say whose they are by binary_data_size")
    return request


def strings(tensor: InputTensor) -> list[list[str]]:
    """(rows, columns) texts of a tensor of one or two dimensions, one column where it has one; whole numbers as decimal text.

    Raises BadInput where the data is not of the datatype, or not of the shape.
    """
    wanted = {"BYTES": str, "INT64": int}.get(tensor.datatype)
    if wanted is None:
        raise BadInput(f"input {tensor.name[:80]!r} is {tensor.datatype[:40]!r}; send BYTES or INT64")
    flat = list(_flat(tensor.data or []))
    if len(flat) != math.prod(tensor.shape):
        raise BadInput(f"input {tensor.name[:80]!r} has {len(flat)} values, not those of the shape {tensor.shape}")
    for value in flat:
        if type(value) is not wanted:
            raise BadInput(f"input {tensor.name[:80]!r} holds {value!r:.80}, which is no {tensor.datatype}")
    rows = tensor.shape[0]
    columns = tensor.shape[1] if len(tensor.shape) > 1 else 1
    texts = [str(value) for value in flat]
    return [texts[row * columns : (row + 1) * columns] for row in range(rows)]


def _flat(data: list[Any], depth: int = DEPTH) -> Iterator[Any]:
    for each in data:
        if isinstance(each, list) and depth > 1:
            yield from _flat(each, depth - 1)
        else:
            yield each


def _decoded(tensor: InputTensor, raw: bytes) -> list[Any]:
    if tensor.datatype == "INT64":
        if len(raw) % 8:
            raise BadInput(f"input {tensor.name[:80]!r} is {len(raw)} bytes, no multiple of the 8 of INT64")
        return np.frombuffer(raw, dtype="<i8").tolist()
    found, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if len(raw) < at + 4 or end > len(raw):
            raise BadInput(f"input {tensor.name[:80]!r} ends within a text; send each behind its length in four bytes")
        try:
            found.append(raw[at + 4 : end].decode())
        except UnicodeDecodeError as error:
            raise BadInput(f"input {tensor.name[:80]!r} holds what is no UTF-8; ids are text") from error
        at = end
    return found
