"""`miss mcp`: the service's tools over standard input and output, for an agent that starts it as a process of its own.

- The same tools and limits as at `/mcp` of `miss serve`, without an address: who may start the process may ask.
- It follows the champion as the service does. Standard output is the protocol's alone.
"""

from __future__ import annotations

import asyncio

from orchestration.commands.home import say, settings

__all__ = ["CALLS", "mcp"]

CALLS = "agent-calls.jsonl"
"""Log of calls, among the logs of the home."""


def mcp() -> None:
    """Answer until standard input ends."""
    from model.configure import configure
    from orchestration.commands.source import ChampionSource
    from serving.agents.sessions import CallLog
    from serving.agents.tools import tools
    from serving.follow import Follower
    from serving.limits import Limits
    from serving.live import Live
    from serving.metrics import Metrics
    from serving.service import Service

    home = settings()
    limits = configure(Limits, home.serving, where="serving")
    follower = Follower(ChampionSource(home), poll_s=home.follow_seconds, threads=limits.threads, say=say)
    live = Live()
    service = Service(live=live, limits=limits, metrics=Metrics(live), name=home.model_name)
    log = CallLog(home.root / "logs" / CALLS)

    async def answer() -> None:
        async with follower.beside(service):
            await tools(service, log).run_stdio_async()

    follower.look(live)  # so that the first question finds something to answer it
    try:
        asyncio.run(answer())
    finally:
        service.close()
        log.close()
