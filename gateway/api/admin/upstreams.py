"""/admin/v1/upstreams: the health that each worker sees, and disabling and enabling an upstream on all workers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request

from gateway.accounts.serialization import time_json
from gateway.api.admin.access import admin_of
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.upstream_standing import standing_json
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError
from gateway.worker.services import Services

router = APIRouter(prefix="/upstreams", route_class=GuardedRoute)


@router.get("")
async def list_upstreams(request: Request) -> dict[str, Any]:
    """All upstreams.

    `state` says whether some worker would use it now, and otherwise why not and `until` when; `models_affected` names
    those that it is not asked for. `workers` shows each worker's breaker, keys and connections.
    """
    services = services_of(request)
    names = services.settings.upstreams
    return {"object": "list", "data": [await upstream_json(services, name) for name in names], "next": None}


@router.post("/{upstream}/disable")
async def disable_upstream(request: Request, upstream: str) -> dict[str, Any]:
    """Disables an upstream, and returns when no worker sends it new requests. Running requests go on. Idempotent.

    `obeyed` is false if workers did not say so within three seconds; `disobedient` names them.
    """
    services = services_of(request)
    _refuse_unknown(services, upstream)
    await services.cluster_state.disable_upstream(upstream, admin_of(request).id, time.time_ns() // 1_000_000)
    return await _wait_for_workers(services, upstream, enabled=False)


@router.post("/{upstream}/enable")
async def enable_upstream(request: Request, upstream: str) -> dict[str, Any]:
    """Enables an upstream again, and returns when all workers have; otherwise as `disable` does. Idempotent."""
    services = services_of(request)
    _refuse_unknown(services, upstream)
    await services.cluster_state.enable_upstream(upstream)
    return await _wait_for_workers(services, upstream, enabled=True)


async def _wait_for_workers(services: Services, name: str, *, enabled: bool) -> dict[str, Any]:
    def has_applied(report: Mapping[str, Any]) -> bool:
        # A worker that has no such upstream in its configuration sends it nothing.
        seen = report["upstreams"].get(name)
        return seen is None or seen.get("enabled") is enabled

    await services.control_loop.refresh()
    late = await services.control_loop.workers_behind(has_applied)
    return {**await upstream_json(services, name), **workers_behind_json(late)}


def workers_behind_json(late: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns whether all workers have applied an order, and which have not, with the time since their last report."""
    fields = ("worker", "host", "pid", "silent_s", "problem")
    named = [
        {field: report[field] or None if field == "problem" else report[field] for field in fields} for report in late
    ]
    return {"obeyed": not late, "disobedient": named}


async def upstream_json(services: Services, name: str) -> dict[str, Any]:
    """One upstream. Raises GatewayError `upstream_not_found`."""
    _refuse_unknown(services, name)
    off = (await services.cluster_state.orders()).off.get(name)
    reports = [report for report in await services.cluster_state.workers() if name in report["upstreams"]]
    workers = [
        {"worker": report["worker"], "host": report["host"], "pid": report["pid"], **report["upstreams"][name]}
        for report in reports
    ]
    settings = services.settings.upstreams[name]
    return {
        "object": "upstream",
        "name": name,
        "base_url": settings.base_url,
        "enabled": off is None,
        "disabled_by": off["by"] if off else None,
        "disabled_at": time_json(off["at_ms"]) if off else None,
        **standing_json(name, reports, enabled=off is None),
        "workers": workers,
    }


def _refuse_unknown(services: Services, name: str) -> None:
    if name not in services.settings.upstreams:
        raise GatewayError("upstream_not_found", f"There is no upstream {name!r}.")
