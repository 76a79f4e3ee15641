"""The Open Inference Protocol, version 2, over REST, so that KServe's and Triton's clients work: `/v2/...`.

- Inputs: `user` (B,) or `history` (B, T), oldest first, or both; BYTES or INT64. INT64 are ids that are whole numbers, not rows of
  a table: an id means the same in every version. "" and -1 fill a shorter history up, on either side.
- Parameters: `k`, 10 where it is not said. Outputs: `items` BYTES (B, k), `scores` FP32 (B, k), `popular` BOOL (B,); where fewer
  than k items are left the rest is "" with the lowest score that FP32 has.
- Tensors come as JSON or as bytes behind it (`Inference-Header-Content-Length`), as Triton's client sends them; answers are JSON.
- Errors are {"error": sentence}, as the protocol has them.

Not covered: gRPC, shared memory, sequences; `exclude` and `categories`, which `/v1/recommend` has.
"""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, HTTPException, Request
from pydantic import BaseModel

from model.errors import BadInput
from serving.api.tensors import Infer, InputTensor, attached, schema, strings
from serving.guard import documented
from serving.service import Answered, Asked, Service

__all__ = ["router"]

LOWEST = float(np.finfo(np.float32).min)
FILLING = ("", "-1")
HeaderLength = Annotated[str | None, Header(description="bytes of JSON in the body, where tensors follow as bytes")]


class Failed(BaseModel):
    """What went wrong, and the way out, as the protocol has it."""

    error: str


class Tensor(BaseModel):
    """A tensor that the model takes or gives; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class Described(BaseModel):
    """The model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class Server(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the process answers."""

    live: bool


class ServerReady(BaseModel):
    """Whether there is something to answer with."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a model can be asked."""

    name: str
    ready: bool


class Output(Tensor):
    """A tensor of an answer, flat, row by row."""

    data: list[Any]


class Inferred(BaseModel):
    """An answer."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[Output]


INPUTS = [Tensor(name="user", datatype="BYTES", shape=[-1]), Tensor(name="history", datatype="BYTES", shape=[-1, -1])]
OUTPUTS = [
    Tensor(name="items", datatype="BYTES", shape=[-1, -1]),
    Tensor(name="scores", datatype="FP32", shape=[-1, -1]),
    Tensor(name="popular", datatype="BOOL", shape=[-1]),
]


def router(service: Service) -> APIRouter:
    """The endpoints over `service`."""
    failed = {"model": Failed}
    errors = {status: told | failed for status, told in documented(401, 404, 413, 422, 503, 504).items()}
    api = APIRouter(tags=["Open Inference Protocol"], responses=errors)
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema()}}}}

    def serving(name: str, version: str | None):
        """The engine, if that is what is asked for."""
        engine = service.live.engine
        if name != service.name or version not in (None, engine.version):
            asked = name if version is None else f"{name}, version {version}"
            raise HTTPException(
                404, f"there is no model {asked!r:.200}; {service.name}, version {engine.version}, serves"
            )
        return engine

    @api.get("/v2")
    async def server() -> Server:
        """What this is."""
        return Server(name="miss", version="2", extensions=[])

    @api.get("/v2/health/live")
    async def live() -> ServerLive:
        """The process answers."""
        return ServerLive(live=True)

    @api.get("/v2/health/ready")
    async def ready() -> ServerReady:
        """There is a bundle to answer with; 503 where not."""
        return ServerReady(ready=bool(service.live.engine.n_items))

    @api.get("/v2/models/{name}/versions/{version}")
    async def described_version(name: str, version: str) -> Described:
        """The tensors that the model takes and gives, if this version serves."""
        return await described(name, version)

    @api.get("/v2/models/{name}")
    async def described_model(name: str) -> Described:
        """The tensors that the model takes and gives."""
        return await described(name, None)

    async def described(name: str, version: str | None) -> Described:
        engine = serving(name, version)
        return Described(
            name=name, versions=[engine.version], platform="onnxruntime_onnx", inputs=INPUTS, outputs=OUTPUTS
        )

    @api.get("/v2/models/{name}/versions/{version}/ready")
    async def version_ready(name: str, version: str) -> ModelReady:
        """Whether this version can be asked."""
        serving(name, version)
        return ModelReady(name=name, ready=True)

    @api.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> ModelReady:
        """Whether the model can be asked."""
        serving(name, None)
        return ModelReady(name=name, ready=True)

    @api.post("/v2/models/{name}/versions/{version}/infer", openapi_extra=body)
    async def infer_version(
        request: Request, name: str, version: str, inference_header_content_length: HeaderLength = None
    ) -> Inferred:
        """The best items of up to a batch of users, if this version serves."""
        return await infer(request, name, version, inference_header_content_length)

    @api.post("/v2/models/{name}/infer", openapi_extra=body)
    async def infer_model(
        request: Request, name: str, inference_header_content_length: HeaderLength = None
    ) -> Inferred:
        """The best items of up to a batch of users."""
        return await infer(request, name, None, inference_header_content_length)

    async def infer(request: Request, name: str, version: str | None, header_length: str | None) -> Inferred:
        engine = serving(name, version)
        wanted = attached(await request.body(), header_length)
        names = {each.name for each in wanted.outputs} or {each.name for each in OUTPUTS}
        if unknown := names - {each.name for each in OUTPUTS}:
            raise BadInput(f"there is no output {min(unknown)!r:.80}; ask for items, scores or popular")
        asked = questions(service, wanted)
        found = await service.recommend(engine, asked)
        outputs = [each for each in tensors(found, asked[0].k if asked else 0) if each.name in names]
        return Inferred(model_name=name, model_version=engine.version, id=wanted.id or "", outputs=outputs)

    return api


def questions(service: Service, wanted: Infer) -> list[Asked]:
    """A question a row. Raises BadInput for tensors that do not belong together, and for more than the limits allow."""
    limits, given = service.limits, {each.name: each for each in wanted.inputs}
    if not given or len(given) != len(wanted.inputs) or set(given) - {"user", "history"}:
        raise BadInput(
            f"inputs are {[each.name[:40] for each in wanted.inputs[:5]]}; send `user`, `history` or both, once"
        )
    k = wanted.parameters.get("k", 10)
    if type(k) is not int or not 1 <= k <= limits.k:
        raise BadInput(f"k = {k!r:.40} is not usable; send a whole number from 1 to {limits.k}")
    rows = {name: strings(_within(tensor, limits.batch, limits.history)) for name, tensor in given.items()}
    sizes = {len(each) for each in rows.values()}
    if len(sizes) != 1:
        raise BadInput(f"`user` and `history` are of {min(sizes)} and {max(sizes)} rows; give one each")
    users = [row[0] if len(row) == 1 else None for row in rows.get("user", [[""]] * sizes.pop())]
    if None in users:
        raise BadInput("`user` has several columns; send one user a row")
    if "history" not in rows:
        return [Asked(user=user or None, k=k) for user in users]
    told = [[item for item in row if item not in FILLING] for row in rows["history"]]
    # a row of filling beside a user is a history that was not given; without one it is the history of somebody new
    return [
        Asked(user=user or None, history=None if user and not history else history, k=k)
        for user, history in zip(users, told, strict=True)
    ]


def _within(tensor: InputTensor, batch: int, history: int) -> InputTensor:
    if tensor.shape[0] > batch:
        raise BadInput(f"input {tensor.name!r} has {tensor.shape[0]} rows; send at most {batch} at a time")
    if max(tensor.shape[1:], default=0) > history:
        raise BadInput(f"input {tensor.name!r} has {tensor.shape[1]} columns; a history is at most {history} behaviors")
    return tensor


def tensors(found: list[Answered], k: int) -> list[Output]:
    """items (B, k), scores (B, k) and popular (B,)."""
    shape = [len(found), k]
    items, scores = [], []
    for each in found:
        missing = k - len(each.items)
        items += [item["item_id"] for item in each.items] + [""] * missing
        scores += [item["score"] for item in each.items] + [LOWEST] * missing
    popular = [each.popular for each in found]
    return [
        Output(name="items", datatype="BYTES", shape=shape, data=items),
        Output(name="scores", datatype="FP32", shape=shape, data=scores),
        Output(name="popular", datatype="BOOL", shape=[len(found)], data=popular),
    ]
