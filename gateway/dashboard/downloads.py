"""The rows of each page as CSV, for spreadsheets. They come from the admin API, like those of the page.

A download has the newest MAX_ROWS rows; `gateway ledger export` and `gateway usage --csv` write everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request, Response

from gateway.dashboard import forms
from gateway.dashboard.admin_client import AdminApiError, AdminClient
from gateway.dashboard.guard import PageRoute, visit_of
from gateway.dashboard.overview import period_of
from gateway.reporting.csv_text import lines

router = APIRouter(prefix="/download", route_class=PageRoute)
MAX_ROWS: Final = 10_000
_PAGE: Final = 1000
_FILTERS: Final = ("by", "outcome", "type", "key", "model", "status", "from", "to", "id", "q")


class Download(NamedTuple):
    """The source of a file: a path of the API, its query, and how an answer gives rows."""

    path: str
    rows: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda answer: answer["data"]
    query: Mapping[str, str] = MappingProxyType({})
    is_list: bool = True


def _groups(answer: dict[str, Any]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = answer["groups"]
    return groups


def _prices(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"model": pattern, **row} for pattern, row in answer["data"].items()]


DOWNLOADS: Final[Mapping[str, Download]] = MappingProxyType(
    {
        "usage": Download("/usage", query={"by": "model"}, is_list=False),
        "usage-by-key": Download("/usage", _groups, {"by": "key"}, is_list=False),
        "attribution": Download("/usage", _groups, {"step": "day", "by": "user"}, is_list=False),
        "teams": Download("/teams"),
        "keys": Download("/teams/{team}/keys", query={"all": "true"}),
        "journal": Download("/teams/{team}/journal", query={"order": "newest"}),
        "requests": Download("/requests"),
        "request": Download("/requests/{id}", lambda answer: [answer], is_list=False),
        "upstreams": Download("/upstreams", is_list=False),
        "notices": Download("/notices", query={"limit": "1000"}, is_list=False),
        "prices": Download("/prices", _prices, is_list=False),
        "audit": Download("/audit"),
        "admin-keys": Download("/admin-keys"),
        "configuration": Download("/config", lambda answer: answer["routes"], is_list=False),
    }
)
"""The downloads by the name of their file."""


@router.get("/{name}.csv")
async def download(request: Request, name: str) -> Response:
    """Returns the rows of a page as a file."""
    visit, query = visit_of(request), request.query_params
    found = DOWNLOADS.get(name)
    if found is None:
        raise AdminApiError(404, "unknown_url", f"There is no download {name!r}.")
    named = {part: forms.segment(query.get(part, "")) for part in ("team", "id")}
    asked = {part: forms.moment(query[part]) for part in _FILTERS if query.get(part)}
    if found.path == "/usage":
        period = period_of(request)
        asked |= {"from": period.since, "step": found.query.get("step", period.step)}
    if "{team}" not in found.path and query.get("team"):
        asked["team"] = query["team"]
    rows = await _rows(visit.api, found, found.path.format(**named), {**found.query, **asked})
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return Response(lines(rows), media_type="text/csv", headers=headers)


async def _rows(api: AdminClient, found: Download, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
    if not found.is_list:
        return found.rows(await api.get(path, **query))
    rows: list[dict[str, Any]] = []
    after: str | None = None
    while len(rows) < MAX_ROWS:
        page = await api.get(path, limit=_PAGE, after=after, **query)
        rows += found.rows(page)
        after = page.get("next")
        if after is None:
            break
        await asyncio.sleep(0)
    return rows[:MAX_ROWS]
