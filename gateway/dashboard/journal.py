"""A team's journal: every movement of its credits, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gateway.dashboard import forms
from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import PageRoute, Visit, visit_of
from gateway.dashboard.render import html
from gateway.dashboard.teams import team_path

router = APIRouter(route_class=PageRoute)
PAGE: Final = 50
_MAX_NAMES: Final = 2 * PAGE
TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "grant": "granted",
        "adjust": "adjusted",
        "lapse": "credits expired",
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


async def key_names(visit: Visit, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the names of the keys in these rows. Keys that are gone are missing."""
    ids = list({row["key_id"] for row in rows if row.get("key_id")})[:_MAX_NAMES]

    async def name(key_id: str) -> str | None:
        try:
            return str((await visit.api.get(f"/keys/{forms.segment(key_id)}"))["name"])
        except AdminApiError:
            return None

    names = await asyncio.gather(*map(name, ids))
    return {key_id: found for key_id, found in zip(ids, names, strict=True) if found is not None}
