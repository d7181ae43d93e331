"""The first page: spend, requests, refusals and durations of a period, for one team or all; and its charts.

All of it comes from GET /usage, by the day, or by the hour for a period of one day. Charts, tables and tiles show the
same rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from gateway.dashboard import charts, forms, plots
from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import PageRoute, Visit, visit_of
from gateway.dashboard.render import html, limit_label, words
from gateway.protocol.timestamps import iso_time

router = APIRouter(route_class=PageRoute)
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
PERIODS: Final[Mapping[str, str]] = MappingProxyType({"1": "24 hours", "7": "7 days", "30": "30 days", "90": "90 days"})
MAX_KEYS: Final = 20
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
    return f"{limit_label(limit)}{', of the ' + words(refused['scope']) if refused['scope'] else ''}"


TABLES: Final[Mapping[str, Callable[[dict[str, Any]], charts.Table | charts.Times]]] = MappingProxyType(
    {
        "spend": lambda found: charts.table(found, "cost_usd"),
        "requests": lambda found: charts.table(found, "requests"),
        "latency": charts.times,
        "refusals": lambda found: charts.refusals(found, reason),
    }
)
"""The data of each chart, of GET /usage?by=model."""


@router.get("")
async def show_overview(request: Request) -> Response:
    """Shows spend, requests, refusals, durations."""
    visit, period = visit_of(request), period_of(request)
    teams, by_model, by_key = await asyncio.gather(
        team_names(visit, period.team), usage(visit, period, "model"), usage(visit, period, "key", MAX_KEYS)
    )
    total = by_model["total"]
    tables = {name: make(by_model) for name, make in TABLES.items()}
    colours = await model_colours(visit)
    return html(
        "overview.html",
        visit=visit,
        here="overview",
        period=period,
        periods=PERIODS,
        teams=teams,
        total=total,
        timezone=by_model["timezone"],
        unanswered=sum(count for outcome, count in total["outcomes"].items() if outcome not in _ANSWERED),
        spend=tables["spend"],
        requests=tables["requests"],
        times=tables["latency"],
        refused=tables["refusals"],
        plots={name: _plot(name, shown, period, colours) for name, shown in tables.items()},
        colours=colours,
        models=by_model["groups"],
        keys=by_key["groups"],
        other_keys=by_key["others"],
        reasons=[(reason(refused), refused["requests"]) for refused in total["refusals"]],
    )


@router.get("/charts/{name}.svg")
async def show_chart(request: Request, name: str) -> Response:
    """Draws one of TABLES for a period."""
    visit, period = visit_of(request), period_of(request)
    if name not in TABLES:
        raise AdminApiError(404, "unknown_url", f"There is no chart {name!r}.")
    found, colours = await asyncio.gather(usage(visit, period, "model"), model_colours(visit))
    return plots.as_image(_plot(name, TABLES[name](found), period, colours))


async def model_colours(visit: Visit) -> Mapping[str, str]:
    """Returns the colours of all models that the visitor sees used in 90 days: the same on every page and period."""
    found = await usage(visit, Period("90", None), "model")
    return charts.colours(group["model"] for group in found["groups"])


async def spend_plot(visit: Visit, team: str, days: str) -> plots.Plot:
    """Draws the spend of a team by model, for its page."""
    period = Period(days, team)
    found, colours = await asyncio.gather(usage(visit, period, "model"), model_colours(visit))
    return _plot("spend", charts.table(found, "cost_usd"), period, colours)


def _plot(name: str, shown: charts.Table | charts.Times, period: Period, colours: Mapping[str, str]) -> plots.Plot:
    if isinstance(shown, charts.Times):
        return plots.lines(shown, period.step, colours)
    chosen = charts.colours(shown.columns) if name == "refusals" else colours
    return plots.bars(shown, period.step, chosen, money=name == "spend")


async def team_names(visit: Visit, chosen: str | None) -> dict[str, str]:
    """Returns names by id of the teams to choose from: the first 1,000 and the chosen one. Raises AdminApiError."""
    page = await visit.api.get("/teams", limit=1000, all="true")
    named = {team["id"]: team["name"] for team in page["data"]}
    if chosen is not None and chosen not in named:
        found = await visit.api.get(f"/teams/{forms.segment(chosen)}")
        named[found["id"]] = found["name"]
    return named
