"""The page at `/`: a few static files of this package, and nothing from any other host.

- Plain modules of JavaScript as they are in `serving/page`; what a browser may load and run is told by a strict policy.
- Needs no token itself: it asks for one where the endpoints want it, and keeps it for the tab's life.
- Files are known by their digest (ETag), so that a new version of the service is a new page at once.

Not covered: old browsers; it wants what all have had since 2023.
"""

import hashlib
from importlib import resources

from fastapi import APIRouter, Request, Response

from serving.service import Service

__all__ = ["PATHS", "POLICY", "router"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
} | {
    f"/page/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
    for name in ("api", "app", "cards", "crop", "people", "search", "timeline", "tree", "treelayout", "why")
}
PATHS = tuple(FILES)
"""What needs no token."""


def router(service: Service) -> APIRouter:
    """The page; it reaches `service` through the endpoints alone."""
    api = APIRouter(include_in_schema=False)
    folder = resources.files("serving") / "page"
    for path, (name, kind) in FILES.items():
        data = (folder / name).read_bytes()
        api.add_api_route(path, _file(data, kind), methods=["GET"])
    return api


def _file(data: bytes, kind: str):
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "no-cache", "content-security-policy": POLICY}

    async def file(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)

    return file
