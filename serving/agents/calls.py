"""One call of a tool: whose it is, what it costs, how it ends; around every tool alike.

- A call is charged before it is looked at, so that a loop of bad ones ends too; its items are charged when they are known.
- What goes wrong is one sentence with what the session has left; a defect is told without its details.
- Beside the tool's own arguments only those that it has are taken: one that is misspelt must not be dropped in silence.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, ValidationError

from model.errors import BadInput, MissError
from serving.agents.sessions import CallLog, Session, Sessions
from serving.api.shapes import sentence
from serving.limits import Limits

__all__ = ["Call", "Cost", "ToolServer", "current"]

STDIO = "stdio"
"""The session of a connection that is a process of its own: one agent's."""
HEADER = "mcp-session-id"


class Cost(BaseModel):
    """What a call cost, or what is left."""

    calls: int
    results: int


@dataclass(kw_only=True)
class Call:
    """What a tool works with."""

    tool: str
    session: Session
    begun: float = field(default_factory=time.perf_counter)
    results: int = 0

    def wants(self, k: int, most: int) -> int:
        """How many items may be looked for: no more than there are, or than the session has left."""
        return max(min(k, most, self.session.results), 1)

    def spend(self, results: int) -> None:
        """Items are given out."""
        self.results += results
        self.session.results = max(self.session.results - results, 0)

    @property
    def cost(self) -> Cost:
        """Of this call."""
        return Cost(calls=1, results=self.results)

    @property
    def left(self) -> Cost:
        """To the session."""
        return Cost(calls=self.session.calls, results=self.session.results)


_CALL: ContextVar[Call] = ContextVar("miss_agent_call")


def current() -> Call:
    """The call that is being answered."""
    return _CALL.get()


class ToolServer(MCPServer):
    """An MCP server whose tools are asked within a session's budget."""

    def __init__(self, name: str, *, instructions: str, limits: Limits, log: CallLog) -> None:
        super().__init__(name, instructions=instructions, log_level="WARNING", subscriptions=False)
        self.sessions, self._limits, self._log = Sessions(limits), limits, log

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None) -> Any:
        """See `MCPServer.call_tool`. Raises ToolError for everything that goes wrong."""
        try:
            session = self.sessions.of(_named(arguments), _connection(context))
            session.charge()
        except BadInput as error:
            self._log.write(session=None, tool=name[:80], refused=str(error))
            raise ToolError(str(error)) from error
        call = Call(tool=name, session=session)
        token = _CALL.set(call)
        refused: str | None = "it was given up"
        try:
            result = await self._within(name, arguments, context)
            refused = None
        except ToolError as error:
            refused = _sentence(error)
            raise ToolError(
                f"{refused} (session {session.name} has {session.calls} calls and {session.results} results left)"
            ) from error
        else:
            return result
        finally:
            _CALL.reset(token)
            told = {"results": call.results, "ms": round(1000 * (time.perf_counter() - call.begun), 1)}
            left = {"calls_left": session.calls, "results_left": session.results}
            self._log.write(session=session.name, tool=name[:80], **told, **left, refused=refused)

    async def _within(self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None) -> Any:
        tool = self._tool_manager.get_tool(name)
        if tool is None:
            known = ", ".join(each.name for each in self._tool_manager.list_tools())
            raise ToolError(f"there is no tool {name[:80]!r}; there are {known}")
        if odd := sorted(set(arguments) - set(tool.parameters["properties"])):
            raise ToolError(
                f"{name} has no argument {odd[0][:80]!r}; it has {', '.join(tool.parameters['properties'])}"
            )
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await super().call_tool(name, arguments, context)
        except TimeoutError as error:
            raise ToolError(f"no answer within {self._limits.timeout_s:g} s; ask again, or for less") from error


def _named(arguments: dict[str, Any]) -> str | None:
    named = arguments.get("session")
    return named if isinstance(named, str) else None


def _connection(context: Context[Any, Any] | None) -> str | None:
    """What the transport calls the session; None for one without, whose calls come alone."""
    request = None if context is None else context.request_context.request
    return STDIO if request is None else request.headers.get(HEADER)


def _sentence(error: ToolError) -> str:
    """What an agent is told."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return sentence(cause.errors())
    if isinstance(cause, MissError):
        return str(cause)
    return str(error) if type(error) is ToolError else "the service failed at this call; its log says how"
