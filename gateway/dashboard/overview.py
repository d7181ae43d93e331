"""The first page: spend, requests and refusals of a time, of all teams or of one; and its charts.

Usage is the ledger's, by the day, or by the hour for one day. Refusals are counted from those that are kept.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from gateway.dashboard import charts
from gateway.dashboard.guard import PageRoute, Visit, visit_of
from gateway.dashboard.inside import Refused
from gateway.dashboard.render import html
from gateway.ledger.refusals import iso_time

router = APIRouter(route_class=PageRoute)
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
PERIODS: Final[Mapping[str, str]] = MappingProxyType({"1": "24 hours", "7": "7 days", "30": "30 days", "90": "90 days"})
MOST_REFUSALS: Final = 1000
_FIGURES: Final[Mapping[str, str]] = MappingProxyType({"spend": "cost_usd", "requests": "requests"})


@dataclass(frozen=True, slots=True)
class Period:
    """What is looked at: the last `days`, of `team` (an id) or of all that one may see."""

    days: str
    team: str | None

    @property
    def step(self) -> str:
        """How wide a bar is."""
        return "hour" if self.days == "1" else "day"

    @property
    def since(self) -> str:
        """ISO 8601. Today counts as one of the days, this hour as one of the hours."""
        now_ms = time.time_ns() // 1_000_000
        return iso_time(now_ms - (23 * HOUR_MS if self.days == "1" else (int(self.days) - 1) * DAY_MS))

    @property
    def query(self) -> str:
        """The same, for a link."""
        return urlencode({"days": self.days} | ({"team": self.team} if self.team else {}))


def period_of(request: Request) -> Period:
    """The period that the query names; a week otherwise."""
    days = request.query_params.get("days", "7")
    return Period(days if days in PERIODS else "7", request.query_params.get("team") or None)


async def usage(visit: Visit, period: Period, by: str) -> dict[str, Any]:
    """The ledger's usage of a period. Raises Refused."""
    return await visit.api.get("/usage", team=period.team, by=by, step=period.step, **{"from": period.since})


async def refusals(visit: Visit, period: Period) -> list[tuple[str, int]]:
    """How often the gateway said no, by reason, most frequent first."""
    page = await visit.api.get("/requests", team=period.team, outcome="refused", limit=MOST_REFUSALS)
    return Counter(reason(item) for item in page["data"] if item["at"] >= period.since).most_common()


def reason(item: dict[str, Any]) -> str:
    """Why a request was refused, in short: "rate limit exceeded: rpm of the key"."""
    short = str(item["code"] or "").replace("_", " ")
    limit = str(item["limit"] or "").replace("_", " ")
    return f"{short}: {limit} of the {item['scope']}" if limit and item["scope"] else short


@router.get("")
async def show_overview(request: Request) -> Response:
    """Spend, requests, refusals."""
    visit, period = visit_of(request), period_of(request)
    teams, by_model, by_key, why = await asyncio.gather(
        visit.api.get("/teams", limit=1000),
        usage(visit, period, "model"),
        usage(visit, period, "key"),
        refusals(visit, period),
    )
    named = {team["id"]: team["name"] for team in teams["data"]}
    if period.team is not None and period.team not in named:
        raise Refused(404, "team_not_found", f"There is no team {period.team!r}.")
    return html(
        "overview.html",
        visit=visit,
        here="overview",
        period=period,
        periods=PERIODS,
        teams=named,
        total=by_model["total"],
        spend=charts.table(by_model, "cost_usd"),
        requests=charts.table(by_model, "requests"),
        models=by_model["groups"],
        keys=by_key["groups"],
        refusals=why,
    )


@router.get("/charts/{name}.svg")
async def show_chart(request: Request, name: str) -> Response:
    """spend, requests or refusals of a period."""
    visit, period = visit_of(request), period_of(request)
    if name == "refusals":
        return charts.by_name((await refusals(visit, period))[:10])
    if name not in _FIGURES:
        raise Refused(404, "unknown_url", f"There is no chart {name!r}.")
    shown = charts.table(await usage(visit, period, "model"), _FIGURES[name])
    return charts.by_time(shown, period.step, "$" if name == "spend" else "")
