"""The routes of an application, as FastAPI keeps them."""

from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute


def routes_below(routes: Any) -> Iterator[APIRoute]:
    """All routes of an application, those of included routers too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif (router := getattr(route, "original_router", None)) is not None:
            yield from routes_below(router.routes)
