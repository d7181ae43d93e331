"""/admin/v1/config: the routes, prices and upstreams in force, and reloading them. /openapi.json describes this API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from gateway import __version__
from gateway.accounts.serialization import time_json
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.upstreams import workers_behind_json
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError

router = APIRouter(route_class=GuardedRoute)

SECRET_FIELDS: Final = ("api_keys", "client_key_file", "proxy")
"""The secret settings of an upstream. The URL of a proxy may contain a password."""


@router.get("/config")
async def show_config(request: Request) -> dict[str, Any]:
    """The configuration in force without secrets, and the configuration that each worker runs."""
    services = services_of(request)
    settings = services.settings
    return {
        "object": "config",
        "generation": services.control_loop.generation,
        "loaded_at": time_json(services.control_loop.loaded_ms),
        "problem": services.control_loop.problem or None,
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
                "started_at": time_json(report["started_ms"]),
                "loaded_at": time_json(report["loaded_ms"]),
                "generation": report["generation"],
                "problem": report["problem"] or None,
                "running": report["running"],
                "sockets": report.get("sockets", 0),  # workers of earlier versions do not say so
                "socket_turns": report.get("socket_turns", 0),
            }
            for report in await services.cluster_state.workers()
        ],
    }


@router.post("/config/reload")
async def reload_config(request: Request) -> dict[str, Any]:
    """Reloads the configuration, and returns when every worker has. 400 `invalid_config` says what is wrong.

    Then nothing changes. `obeyed` is false if workers could not, or did not say so within three seconds; `disobedient`
    names them.
    """
    services = services_of(request)
    reloaded = await services.control_loop.reload_all()
    wanted = services.control_loop.generation
    late = await services.control_loop.workers_behind(
        lambda report: report["generation"] >= wanted and not report["problem"]
    )
    return {
        "object": "reload",
        "generation": wanted,
        "changed": list(reloaded.changed),
        "needs_restart": list(reloaded.needs_restart),
        **workers_behind_json(late),
    }


@router.get("/openapi.json")
def show_openapi(request: Request) -> dict[str, Any]:
    """This API's OpenAPI document. It is made in a thread, because that takes a tenth of a second."""
    return admin_openapi(request.app.routes)


def admin_openapi(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Returns the OpenAPI document of the admin API's routes, with its real errors and its authentication."""
    document = get_openapi(title="OpenResponses gateway: admin API", version=__version__, routes=routes)
    paths = {path: item for path, item in document["paths"].items() if path.startswith("/admin/v1")}
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own form of errors, which is never sent
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    refusal = {"description": "Refused; `code` says why", "content": {"application/json": {"schema": _ERROR_REF}}}
    for item in paths.values():
        for operation in item.values():
            operation["responses"].pop("422", None)
            operation["responses"]["4XX"] = refusal
            operation["security"] = [{"admin_key": []}]
    document["components"]["securitySchemes"] = {"admin_key": {"type": "http", "scheme": "bearer"}}
    return {**document, "paths": paths}


_ERROR_REF: Final[Mapping[str, Any]] = {"$ref": "#/components/schemas/Error"}
_ERROR: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": "string"},
                "code": {"type": ["string", "integer"]},
            },
        }
    },
    "examples": [GatewayError("team_not_found", "There is no team 'search'.").body()],
}
