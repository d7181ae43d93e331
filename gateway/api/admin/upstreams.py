"""/admin/v1/upstreams: the health that each worker sees, and disabling and enabling an upstream on all workers."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request

from gateway.accounts.serialization import time_json
from gateway.api.admin.access import admin_of
from gateway.api.admin.guard import GuardedRoute
from gateway.api.dependencies import Services, services_of
from gateway.errors import GatewayError

router = APIRouter(prefix="/upstreams", route_class=GuardedRoute)


@router.get("")
async def list_upstreams(request: Request) -> dict[str, Any]:
    """All upstreams.

    `healthy` means that some worker would use it now; `workers` shows each worker's breaker and connections.
    """
    services = services_of(request)
    names = services.settings.upstreams
    return {"object": "list", "data": [await upstream_json(services, name) for name in names], "next": None}


@router.post("/{upstream}/disable")
async def disable_upstream(request: Request, upstream: str) -> dict[str, Any]:
    """Disables an upstream: within two seconds no worker sends it new requests. Running requests go on. Idempotent."""
    services = services_of(request)
    _refuse_unknown(services, upstream)
    await services.cluster_state.disable_upstream(upstream, admin_of(request).id, time.time_ns() // 1_000_000)
    await services.control_loop.refresh()
    return await upstream_json(services, upstream)


@router.post("/{upstream}/enable")
async def enable_upstream(request: Request, upstream: str) -> dict[str, Any]:
    """Enables an upstream again. Idempotent."""
    services = services_of(request)
    _refuse_unknown(services, upstream)
    await services.cluster_state.enable_upstream(upstream)
    await services.control_loop.refresh()
    return await upstream_json(services, upstream)


async def upstream_json(services: Services, name: str) -> dict[str, Any]:
    """One upstream. Raises GatewayError `upstream_not_found`."""
    _refuse_unknown(services, name)
    off = (await services.cluster_state.orders()).off.get(name)
    reports = await services.cluster_state.workers()
    workers = [
        {"worker": report["worker"], "host": report["host"], "pid": report["pid"], **report["upstreams"][name]}
        for report in reports
        if name in report["upstreams"]
    ]
    settings = services.settings.upstreams[name]
    return {
        "object": "upstream",
        "name": name,
        "base_url": settings.base_url,
        "enabled": off is None,
        "disabled_by": off["by"] if off else None,
        "disabled_at": time_json(off["at_ms"]) if off else None,
        "healthy": off is None and any(_is_usable(worker) for worker in workers),
        "workers": workers,
    }


def _is_usable(worker: dict[str, Any]) -> bool:
    return worker["breaker"] != "open" and any(key["rests_s"] == 0 for key in worker["keys"])


def _refuse_unknown(services: Services, name: str) -> None:
    if name not in services.settings.upstreams:
        raise GatewayError("upstream_not_found", f"There is no upstream {name!r}.")
