"""A team's journal: every movement of its credits, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fastapi import APIRouter, Request, Response

from gateway.dashboard.guard import PageRoute, visit_of
from gateway.dashboard.render import html
from gateway.dashboard.requests import key_names
from gateway.dashboard.teams import team_path

router = APIRouter(route_class=PageRoute)
PAGE: Final = 50
TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "grant": "granted",
        "adjust": "adjusted",
        "settle": "charged",
        "void": "not charged",
        "expire": "expired",
        "attempt": "attempt",
    }
)
"""The types of entries as text."""


@router.get("/teams/{team}/journal")
async def list_entries(request: Request, team: str) -> Response:
    """One page of the journal, of one type or of all."""
    visit, query = visit_of(request), request.query_params
    kind, after = query.get("type") or None, query.get("after") or None
    owner, page = await asyncio.gather(
        visit.api.get(team_path(team)),
        visit.api.get(team_path(team, "/journal"), order="newest", limit=PAGE, type=kind, after=after),
    )
    return html(
        "journal.html",
        visit=visit,
        here="teams",
        team=owner,
        entries=page["data"],
        next=page["next"],
        kind=kind,
        types=TYPES,
        first=after is None,
        keys=await key_names(visit, page["data"]),
    )
