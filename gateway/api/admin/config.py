"""/admin/v1/config: routes, prices and upstreams as in force, and reading them again. /openapi.json: this API."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.openapi.utils import get_openapi

from gateway import __version__
from gateway.api.admin.guard import GuardedRoute
from gateway.api.callers import services_of
from gateway.ledger.shapes import time_shape

router = APIRouter(route_class=GuardedRoute)

SECRET_FIELDS: Final = ("api_keys", "client_key_file", "proxy")
"""Of an upstream; a proxy's URL may hold a password."""


@router.get("/config")
async def show_config(request: Request) -> dict[str, Any]:
    """What requests run on now, without secrets; and which configuration each worker runs."""
    services = services_of(request)
    settings = services.settings
    return {
        "object": "config",
        "generation": services.control.generation,
        "loaded_at": time_shape(services.control.loaded_ms),
        "problem": services.control.problem or None,
        "upstreams": {
            name: {**upstream.model_dump(mode="json", exclude=set(SECRET_FIELDS)), "api_keys": len(upstream.api_keys)}
            for name, upstream in settings.upstreams.items()
        },
        "routes": [route.model_dump(mode="json") for route in settings.routes],
        "aliases": settings.aliases,
        "prices": {pattern: price.model_dump(mode="json") for pattern, price in settings.prices.items()},
        "limits": settings.limits.model_dump(mode="json"),
        "workers": [
            {
                "worker": report["worker"],
                "host": report["host"],
                "pid": report["pid"],
                "started_at": time_shape(report["started_ms"]),
                "loaded_at": time_shape(report["loaded_ms"]),
                "generation": report["generation"],
                "problem": report["problem"] or None,
                "running": report["running"],
            }
            for report in await services.controls.workers()
        ],
    }


@router.post("/config/reload")
async def reload_config(request: Request) -> dict[str, Any]:
    """Reads the configuration again, on every worker. 400 `invalid_config` says what is wrong; then nothing changes."""
    services = services_of(request)
    reloaded = await services.control.reload_all()
    return {
        "object": "reload",
        "generation": services.control.generation,
        "changed": list(reloaded.changed),
        "needs_restart": list(reloaded.needs_restart),
    }


@router.get("/openapi.json")
async def show_openapi(request: Request) -> dict[str, Any]:
    """This API's OpenAPI document."""
    whole = get_openapi(title="OpenResponses gateway: admin API", version=__version__, routes=request.app.routes)
    whole["paths"] = {path: item for path, item in whole["paths"].items() if path.startswith("/admin/v1")}
    return whole
