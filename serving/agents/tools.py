"""The tools: `recommend`, `search_text`, `search_image`, `search_image_region`, `similar_items`, `item`, `start_over`.

- They ask what the HTTP endpoints ask, within the same limits; an answer is of one version of the model.
- A search is refined over a session: items once excluded stay so, weights hold until others are given, and the last picture can be
  searched again, by another part of it or together with words.
- `item` shows an item's picture where that is asked for, so that who can see may look.

Not covered: reasons of a recommendation and the tree, which are for people (`/`).
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from mcp_types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from model.errors import BadInput
from serving.agents.calls import Cost, ToolServer, current
from serving.agents.sessions import CallLog, Session
from serving.api.search import MAX_TEXT, decoded, searcher
from serving.api.shapes import Id, Item, Named, count, ids, named, scored
from serving.service import Asked, Service

__all__ = ["tools"]

INSTRUCTIONS = """Find and recommend items of a catalogue. Every answer holds `session`: give it to the next call, and what you
excluded, the weights and the last picture are carried on. Each session may make so many calls and be given so many items; `cost`
and `left` say what a call took and what remains. Scores order the items of one answer and mean nothing across answers."""
READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
Weights = dict[Literal["text", "image"], Annotated[float, Field(ge=0, le=100)]]
Region = Annotated[
    list[Annotated[float, Field(ge=0, le=1)]],
    Field(min_length=4, max_length=4, description="left, top, right, bottom of the part that is meant, as fractions"),
]
Name = Annotated[str | None, Field(max_length=100, description="of an earlier answer; a new session without")]
Words = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, description="what it is about")]
Picture = Annotated[str, Field(description="JPEG, PNG, WEBP, GIF or BMP in base64")]


class Carried(BaseModel):
    """What the next call of the session starts from."""

    weights: dict[str, float]
    excluded: int
    picture: bool


class Answer(BaseModel):
    """Items, best first."""

    session: str
    model_version: str
    items: list[Item]
    popular: bool = Field(default=False, description="what everybody likes, because nothing is known of the user")
    cost: Cost
    left: Cost
    carried: Carried


class OneItem(BaseModel):
    """An item, and how often it was in the training part of the logs."""

    session: str
    model_version: str
    item: Named
    behaviors: int
    cost: Cost
    left: Cost


class Cleared(BaseModel):
    """A session that carries nothing."""

    session: str
    cost: Cost
    left: Cost


def tools(service: Service, log: CallLog) -> ToolServer:
    """The tools over `service`."""
    limits = service.limits
    server = ToolServer(service.name, instructions=INSTRUCTIONS, limits=limits, log=log)
    tool = server.tool(annotations=READS)
    K = count(limits)
    Excluded = ids(limits, "item ids not to return, in this call and the session's later ones")
    Categories = ids(limits, "only items that have any of these; all where empty")
    Kept = Annotated[Weights | None, Field(description="what text and picture count; 1 each is as learnt")]

    def answer(items: list[Item], version: str, *, popular: bool = False) -> Answer:
        call = current()
        call.spend(len(items))
        carried = _carried(call.session)
        return Answer(
            session=call.session.name,
            model_version=version,
            items=items,
            popular=popular,
            cost=call.cost,
            left=call.left,
            carried=carried,
        )

    async def look(
        *,
        text: str | None,
        image: bytes | None,
        box: list[float] | None,
        k: int,
        weights: Weights | None,
        exclude: Sequence[str],
        categories: Sequence[str],
    ) -> Answer:
        """A search, and the picture kept once it was a good one."""
        engine, call = service.live.engine, current()
        session = call.session
        if image is not None and len(image) > limits.body_bytes:
            raise BadInput(
                f"the picture is over {limits.body_bytes:,} bytes, the most that is read; send a smaller one"
            )
        gone = engine.excluded(session.exclude(engine, exclude, limits.history), categories)
        shares, wanted = session.shares(weights), call.wants(k, engine.n_items)
        part = None if box is None else (box[0], box[1], box[2], box[3])

        def search() -> tuple[np.ndarray, np.ndarray]:
            return searcher(engine).search(text=text, image=image, box=part, shares=shares, k=wanted, exclude=gone)

        found = await service.turns.take(search)
        if image is not None:
            session.picture, session.box = image, part
        return answer(scored(engine.catalogue, engine.catalogue.named(*found)), engine.version)

    @tool
    async def recommend(
        user: Id | None = None,
        history: ids(limits, "item ids that the user took, oldest first; instead of the stored ones") | None = None,
        k: K = 10,
        exclude: Excluded = (),
        categories: Categories = (),
        session: Name = None,
    ) -> Answer:
        """What a user wants next: by the user's id, by a history, or both. Who is not known is offered what is popular."""
        engine, call = service.live.engine, current()
        gone = call.session.exclude(engine, exclude, limits.history)
        wanted = call.wants(k, engine.n_items)
        asked = Asked(user=user, history=history, k=wanted, exclude=gone, categories=categories)
        (found,) = await service.recommend(engine, [asked])
        return answer(scored(engine.catalogue, found.items), engine.version, popular=found.popular)

    @tool
    async def search_text(
        text: Words,
        with_picture: Annotated[
            bool, Field(description="together with the session's last picture, or part of it")
        ] = False,
        k: K = 10,
        weights: Kept = None,
        exclude: Excluded = (),
        categories: Categories = (),
        session: Name = None,
    ) -> Answer:
        """Items that words describe; with the session's last picture too, where that is asked for."""
        last = current().session
        image = _last_picture(last) if with_picture else None
        box = list(last.box) if with_picture and last.box is not None else None
        return await look(text=text, image=image, box=box, k=k, weights=weights, exclude=exclude, categories=categories)

    @tool
    async def search_image(
        image: Picture,
        text: Words | None = None,
        k: K = 10,
        weights: Kept = None,
        exclude: Excluded = (),
        categories: Categories = (),
        session: Name = None,
    ) -> Answer:
        """Items that look like a picture; words beside it count too."""
        return await look(
            text=text, image=decoded(image), box=None, k=k, weights=weights, exclude=exclude, categories=categories
        )

    @tool
    async def search_image_region(
        box: Region,
        image: Annotated[Picture | None, Field(description="in base64; the session's last picture without")] = None,
        text: Words | None = None,
        k: K = 10,
        weights: Kept = None,
        exclude: Excluded = (),
        categories: Categories = (),
        session: Name = None,
    ) -> Answer:
        """Items that look like a part of a picture; words beside it count too."""
        pixels = _last_picture(current().session) if image is None else decoded(image)
        return await look(
            text=text, image=pixels, box=box, k=k, weights=weights, exclude=exclude, categories=categories
        )

    @tool
    async def similar_items(
        item_id: Id,
        k: K = 10,
        exclude: Excluded = (),
        categories: Categories = (),
        session: Name = None,
    ) -> Answer:
        """Items that go with an item, as people's behavior and the items' contents have it."""
        engine, call = service.live.engine, current()
        item = int(engine.to_indices([item_id])[0])
        gone = engine.excluded(call.session.exclude(engine, exclude, limits.history), categories)
        wanted = call.wants(k, engine.n_items)
        found = await service.turns.take(lambda: searcher(engine).similar(item, wanted, exclude=gone))
        return answer(scored(engine.catalogue, engine.catalogue.named(*found)), engine.version)

    @tool
    async def item(
        item_id: Id,
        picture: Annotated[bool, Field(description="whether its picture comes too")] = False,
        session: Name = None,
    ) -> Annotated[CallToolResult, OneItem]:
        """What is known of one item, and its picture where that is asked for."""
        engine, call = service.live.engine, current()
        index = int(engine.to_indices([item_id])[0])
        shown = engine.pictures.read(index) if picture and engine.pictures is not None else None
        call.spend(1)
        told = OneItem(
            session=call.session.name,
            model_version=engine.version,
            item=named(engine.catalogue, index),
            behaviors=int(engine.counts[index]),
            cost=call.cost,
            left=call.left,
        )
        content: list[Any] = [TextContent(text=told.model_dump_json())]
        if shown is not None:
            content.append(ImageContent(data=base64.b64encode(shown).decode(), mime_type="image/webp"))
        return CallToolResult(content=content, structured_content=told.model_dump())

    @tool
    async def start_over(session: Name = None) -> Cleared:
        """Carry nothing on: no exclusions, no weights, no picture. What was used of the budget stays used."""
        call = current()
        call.session.start_over()
        return Cleared(session=call.session.name, cost=call.cost, left=call.left)

    return server


def _carried(session: Session) -> Carried:
    return Carried(weights=session.weights, excluded=len(session.excluded), picture=session.picture is not None)


def _last_picture(session: Session) -> bytes:
    if session.picture is None:
        raise BadInput(f"session {session.name} has no picture yet; send one with search_image or search_image_region")
    return session.picture
