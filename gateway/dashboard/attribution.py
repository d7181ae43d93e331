"""Usage by the values of a tag or by end user, per day, for one team or for all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fastapi import APIRouter, Request, Response

from gateway.dashboard.guard import PageRoute, visit_of
from gateway.dashboard.overview import PERIODS, Period, team_names
from gateway.dashboard.render import html

router = APIRouter(prefix="/attribution", route_class=PageRoute)
ROWS: Final = 200
BY_USER: Final = "user"
DAYS: Final[Mapping[str, str]] = MappingProxyType({days: label for days, label in PERIODS.items() if days != "1"})
"""The periods: usage by tag is kept by day."""


def period_of(request: Request) -> Period:
    """Returns the period that the query names, by default a week."""
    days = request.query_params.get("days", "7")
    return Period(days if days in DAYS else "7", request.query_params.get("team") or None)


@router.get("")
async def show_attribution(request: Request) -> Response:
    """Shows usage by what the query names: `by=user`, or `by=tag:NAME`."""
    visit, period = visit_of(request), period_of(request)
    by = request.query_params.get("by") or BY_USER
    asked = {"team": period.team, "from": period.since}
    teams, tags, found = await asyncio.gather(
        team_names(visit, period.team),
        visit.api.get("/usage/tags", **asked),
        visit.api.get("/usage", by=by, limit=ROWS, **asked),
    )
    names = [tag["name"] for tag in tags["data"] if tag["name"]]
    choices = {BY_USER: "End user", **{f"tag:{name}": f"Tag {name}" for name in names}}
    choices.setdefault(by, f"Tag {by.removeprefix('tag:')}")
    return html(
        "attribution.html",
        visit=visit,
        here="attribution",
        period=period,
        periods=DAYS,
        teams=teams,
        by=by,
        choices=choices,
        tags=tags["data"],
        groups=found["groups"],
        others=found["others"],
        total=found["total"],
    )
