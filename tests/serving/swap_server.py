"""A service in a process of its own that follows a folder: `python swap_server.py ROOT`, until its stdin ends."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from threading import Thread

from fastapi import APIRouter
from folder_source import FolderSource
from http_server import serving

from serving.app import create_app
from serving.follow import Follower
from serving.live import Live
from serving.service import Service


def memory(_: Service) -> APIRouter:
    """`/memory`: [own, resident] bytes after a collection, without what the allocator keeps for later.

    Own: without pages of files (code, the bundle), which the kernel keeps or drops as the rest of the machine has it.
    """
    api = APIRouter()

    @api.get("/memory")
    def held() -> list[int]:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        lines = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        kib = {name: int(value.split()[0]) for name, value in lines if name in ("RssAnon", "VmSwap", "VmRSS")}
        return [1024 * (kib["RssAnon"] + kib["VmSwap"]), 1024 * kib["VmRSS"]]

    return api


def main(root: Path) -> None:
    follower = Follower(FolderSource(root), poll_s=0.1, threads=1, say=lambda text: None)
    with serving(create_app(Live(), routers=[memory], beside=[follower.beside])) as address:
        print(address, flush=True)
        waits = Thread(target=sys.stdin.read)
        waits.start()
        waits.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
