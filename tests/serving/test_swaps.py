"""What users would see of a promotion: nothing but better answers. Twenty of them under load, over real HTTP."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from folder_source import FolderSource
from tiny_bundle import ITEM_IDS, USER_IDS

SWAPS, REQUESTS, CALLERS, WARM_UP = 20, 10_000, 8, 16


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The service in a process of its own, on version 1; the next ones are there."""
    source = FolderSource(tmp_path)
    for version in range(1, SWAPS + WARM_UP + 2):
        source.make(str(version))
    source.promote("1")
    command = [sys.executable, str(Path(__file__).with_name("swap_server.py")), str(tmp_path)]
    here = Path(__file__).parent
    found = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    given = os.environ | {"PYTHONPATH": found}
    with subprocess.Popen(command, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()
    assert process.returncode == 0


class Load:
    """Callers that ask as fast as they are answered, and look at every answer."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session, self.answers, self.stop = session, 0, False
        self.odd: list[Any] = []

    async def ask(self, number: int) -> tuple[int, Any]:
        """One request: recommendations of a user, or of a history, or an item."""
        kind = number % 3
        if kind == 2:
            async with self.session.get(f"/v1/items/item-{number % 50:02d}") as answer:
                told = await answer.json()
                return answer.status, told | {"items": [told]}
        body = {"user": str(USER_IDS[1 + number % 10])} if kind else {"history": ITEM_IDS[: number % 40].tolist()}
        async with self.session.post("/v1/recommend", json=body) as answer:
            return answer.status, await answer.json()

    async def caller(self, number: int) -> None:
        newest = 0
        while not self.stop:
            status, told = await self.ask(number)
            number += CALLERS
            version = told.get("model_version")
            titles = {item["title"].rpartition(" of version ")[2] for item in told.get("items", [])}
            if status != 200 or titles != {version} or int(version) < newest:
                self.odd.append((status, newest, told))
            newest = int(version or newest)
            self.answers += 1

    async def serves(self, version: int) -> None:
        """Wait until it does."""
        async with asyncio.timeout(60):
            while True:
                async with self.session.get("/v1/model") as answer:
                    if answer.status == 200 and (await answer.json())["model_version"] == str(version):
                        return
                await asyncio.sleep(0.02)

    async def memory(self) -> tuple[int, int]:
        """Bytes of its own, and all that are resident."""
        async with self.session.get("/memory") as answer:
            own, resident = await answer.json()
            return own, resident


async def promotions(address: str, source: FolderSource) -> tuple[Load, list[tuple[int, int]]]:
    """Promote under load; memory at rest before the twenty, and after."""
    async with aiohttp.ClientSession(address) as session:
        load = Load(session)
        await load.serves(1)
        resting = []
        for versions, requests in (
            (range(2, WARM_UP + 2), REQUESTS // 2),
            (range(WARM_UP + 2, WARM_UP + SWAPS + 2), REQUESTS),
        ):
            load.stop, load.answers = False, 0
            callers = [asyncio.create_task(load.caller(number)) for number in range(CALLERS)]
            for done, version in enumerate(versions, 1):
                source.promote(str(version))
                await load.serves(version)
                while load.answers < requests * done / len(versions):
                    await asyncio.sleep(0.01)
            load.stop = True
            await asyncio.gather(*callers)
            await asyncio.sleep(0.3)
            resting.append(await load.memory())
        async with session.get("/metrics") as answer:
            text = await answer.text()
        assert f"miss_swaps_total {SWAPS + WARM_UP + 1}.0" in text
        assert "miss_engines 1.0" in text
        assert "miss_reload_failures_total 0.0" in text
        return load, resting


@pytest.mark.slow
def test_twenty_promotions_under_ten_thousand_requests(address: str, tmp_path: Path) -> None:
    """No request fails, each answer is of one version whole, nobody is sent back, and the memory is what it was."""
    load, ((before, resident), (after, _)) = asyncio.run(promotions(address, FolderSource(tmp_path)))
    print(f"{load.answers} answers; {before / 2**20:.1f} -> {after / 2**20:.1f} MiB of {resident / 2**20:.1f} resident")
    assert not load.odd[:3]
    assert load.answers >= REQUESTS
    assert after - before < 0.05 * resident
