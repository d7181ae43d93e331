"""The configuration in force: upstreams, routes, prices, limits, and what each worker runs. It can be reloaded here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import PageRoute, Visit, visit_of
from gateway.dashboard.render import html

router = APIRouter(prefix="/configuration", route_class=PageRoute)


@router.get("")
async def show_configuration(request: Request) -> Response:
    """Shows the configuration in force."""
    return await _page(visit_of(request))


@router.post("/reload")
async def reload_configuration(request: Request) -> Response:
    """Reloads the configuration on every worker. A bad one changes nothing, and its problems are listed."""
    visit = visit_of(request)
    try:
        return await _page(visit, reloaded=await visit.api.change("POST", "/config/reload"))
    except AdminApiError as refused:
        if refused.code != "invalid_config":
            raise
        return await _page(visit, refused=refused)


async def _page(
    visit: Visit, *, reloaded: Mapping[str, Any] | None = None, refused: AdminApiError | None = None
) -> Response:
    found = await visit.api.get("/config")
    problem = refused.message if refused is not None else found["problem"]
    return html(
        "configuration.html",
        refused.status if refused is not None else 200,
        visit=visit,
        here="configuration",
        config=found,
        reloaded=reloaded,
        problems=problem.split("; ") if problem else [],
        behind=[worker for worker in found["workers"] if worker["problem"]],
    )
