"""The first page: spend, requests, refusals and durations of a period, for one team or all; and its charts.

All of it comes from GET /usage, by the day, or by the hour for a period of one day. Charts, tables and tiles show the
same rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from gateway.dashboard import charts, forms
from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import PageRoute, Visit, visit_of
from gateway.dashboard.render import WHY, html, words
from gateway.protocol.timestamps import iso_time

router = APIRouter(route_class=PageRoute)
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
PERIODS: Final[Mapping[str, str]] = MappingProxyType({"1": "24 hours", "7": "7 days", "30": "30 days", "90": "90 days"})
MAX_KEYS: Final = 20
CHARTS: Final = ("spend", "requests", "latency", "refusals")
_ANSWERED: Final = frozenset({"completed", "incomplete"})


@dataclass(frozen=True, slots=True)
class Period:
    """The period that is shown: the last `days`, of `team` (an id) or of all visible teams."""

    days: str
    team: str | None

    @property
    def step(self) -> str:
        """The width of a bar."""
        return "hour" if self.days == "1" else "day"

    @property
    def since(self) -> str:
        """The start in ISO 8601. Today counts as one of the days, this hour as one of the hours."""
        now_ms = time.time_ns() // 1_000_000
        return iso_time(now_ms - (23 * HOUR_MS if self.days == "1" else (int(self.days) - 1) * DAY_MS))

    @property
    def query(self) -> str:
        """The period as the query of a link."""
        return urlencode({"days": self.days} | ({"team": self.team} if self.team else {}))


def period_of(request: Request) -> Period:
    """Returns the period that the query names, by default a week."""
    days = request.query_params.get("days", "7")
    return Period(days if days in PERIODS else "7", request.query_params.get("team") or None)


async def usage(visit: Visit, period: Period, by: str, limit: int | None = None) -> dict[str, Any]:
    """Returns the ledger's usage of a period. Raises AdminApiError."""
    return await visit.api.get(
        "/usage", team=period.team, by=by, step=period.step, limit=limit, **{"from": period.since}
    )


def reason(refused: Mapping[str, Any]) -> str:
    """Returns a short reason for refusals: "requests per minute, of the key"."""
    limit = refused["limit"]
    if not limit:
        return words(refused["code"])
    return f"{WHY.get(limit, words(limit))}{', of the ' + refused['scope'] if refused['scope'] else ''}"


@router.get("")
async def show_overview(request: Request) -> Response:
    """Shows spend, requests, refusals, durations."""
    visit, period = visit_of(request), period_of(request)
    teams, by_model, by_key = await asyncio.gather(
        team_names(visit, period.team), usage(visit, period, "model"), usage(visit, period, "key", MAX_KEYS)
    )
    total = by_model["total"]
    return html(
        "overview.html",
        visit=visit,
        here="overview",
        period=period,
        periods=PERIODS,
        teams=teams,
        total=total,
        unanswered=sum(count for outcome, count in total["outcomes"].items() if outcome not in _ANSWERED),
        spend=charts.table(by_model, "cost_usd"),
        requests=charts.table(by_model, "requests"),
        times=charts.times(by_model),
        refused=charts.refusals(by_model, reason),
        models=by_model["groups"],
        keys=by_key["groups"],
        other_keys=by_key["others"],
        reasons=[(reason(refused), refused["requests"]) for refused in total["refusals"]],
    )


@router.get("/charts/{name}.svg")
async def show_chart(request: Request, name: str) -> Response:
    """Draws one of CHARTS for a period."""
    visit, period = visit_of(request), period_of(request)
    if name not in CHARTS:
        raise AdminApiError(404, "unknown_url", f"There is no chart {name!r}.")
    found = await usage(visit, period, "model")
    if name == "latency":
        return charts.medians(charts.times(found), period.step)
    if name == "refusals":
        return charts.by_time(charts.refusals(found, reason), period.step)
    if name == "spend":
        return charts.by_time(charts.table(found, "cost_usd"), period.step, "$")
    return charts.by_time(charts.table(found, "requests"), period.step)


async def team_names(visit: Visit, chosen: str | None) -> dict[str, str]:
    """Returns names by id of the teams to choose from: the first 1,000 and the chosen one. Raises AdminApiError."""
    page = await visit.api.get("/teams", limit=1000, all="true")
    named = {team["id"]: team["name"] for team in page["data"]}
    if chosen is not None and chosen not in named:
        found = await visit.api.get(f"/teams/{forms.segment(chosen)}")
        named[found["id"]] = found["name"]
    return named
