"""GET /dashboard/static/{name}: the style sheet, the scripts, the icon."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from fastapi import APIRouter, Request, Response

from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import OpenRoute

router = APIRouter(route_class=OpenRoute)
_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dashboard.css": "text/css",
        "live.js": "text/javascript",
        "page.js": "text/javascript",
        "icon.svg": "image/svg+xml",
    }
)
_FILES: Final[Mapping[str, bytes]] = MappingProxyType(
    {name: (files("gateway.dashboard") / "assets" / name).read_bytes() for name in _TYPES}
)
_TAGS: Final[Mapping[str, str]] = MappingProxyType(
    {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in _FILES.items()}
)


@router.get("/static/{name}")
async def asset(request: Request, name: str) -> Response:
    """Returns one of the files, or 304 where the browser has it.

    Browsers ask each time, so that an upgrade shows at once. Their `If-None-Match` is what they were given before
    (RFC 9110, 13.1.2); a proxy that compresses may have made a weak tag of it.
    """
    if name not in _FILES:
        raise AdminApiError(404, "unknown_url", f"There is no {name!r} here.")
    headers = {"cache-control": "no-cache", "etag": _TAGS[name]}
    if request.headers.get("if-none-match", "").removeprefix("W/") == _TAGS[name]:
        return Response(status_code=304, headers=headers)
    return Response(_FILES[name], media_type=_TYPES[name], headers=headers)
