"""GET /dashboard/static/{name}: the style sheet, the scripts, the icon."""

from __future__ import annotations

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


@router.get("/static/{name}")
async def asset(request: Request, name: str) -> Response:
    """Returns one of the files. Browsers revalidate it each time, so that an upgrade shows at once."""
    del request
    if name not in _FILES:
        raise AdminApiError(404, "unknown_url", f"There is no {name!r} here.")
    return Response(_FILES[name], media_type=_TYPES[name], headers={"cache-control": "no-cache"})
