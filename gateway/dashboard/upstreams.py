"""Upstreams: the state that each worker reports, and disabling and enabling them. Also the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gateway.dashboard import forms
from gateway.dashboard.audit_entries import audit_entry
from gateway.dashboard.guard import PageRoute, Visit, redirect_to, visit_of
from gateway.dashboard.overview import team_names
from gateway.dashboard.render import html

router = APIRouter(route_class=PageRoute)
PAGE: Final = 50


@router.get("/upstreams")
async def list_upstreams(request: Request) -> Response:
    """The page of all upstreams."""
    return await _page(visit_of(request))


@router.post("/upstreams/{upstream}/disable")
async def disable(request: Request, upstream: str) -> Response:
    """Disables an upstream. The page has asked for confirmation."""
    return await _turn(visit_of(request), upstream, "disable")


@router.post("/upstreams/{upstream}/enable")
async def enable(request: Request, upstream: str) -> Response:
    """Enables an upstream again."""
    return await _turn(visit_of(request), upstream, "enable")


async def _turn(visit: Visit, upstream: str, verb: str) -> Response:
    done = await visit.api.change("POST", f"/upstreams/{forms.segment(upstream)}/{verb}")
    return redirect_to("/dashboard/upstreams") if done["obeyed"] else await _page(visit, done["disobedient"])


async def _page(visit: Visit, behind: Sequence[Mapping[str, Any]] = ()) -> Response:
    upstreams = await visit.api.get("/upstreams")
    return html("upstreams.html", visit=visit, here="upstreams", upstreams=upstreams["data"], behind=behind)


@router.get("/audit")
async def list_actions(request: Request) -> Response:
    """What admins changed, newest first; for one team or for everything."""
    visit, query = visit_of(request), request.query_params
    team = query.get("team") or None
    page, teams = await asyncio.gather(
        visit.api.get("/audit", limit=PAGE, team=team, after=query.get("after") or None), team_names(visit, team)
    )
    entries = [audit_entry(action, teams) for action in page["data"]]
    return html("audit.html", visit=visit, here="audit", entries=entries, next=page["next"], team=team, teams=teams)
