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
    """`/memory`: resident bytes after a collection, without what the allocator keeps for later."""
    api = APIRouter()

    @api.get("/memory")
    def resident() -> int:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

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
