"""The last requests with the reasons of refusals, and finished requests as a live list."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from starlette.types import Message, Receive, Scope, Send

from gateway.dashboard import forms
from gateway.dashboard.admin_client import AdminApiError, AdminClient
from gateway.dashboard.guard import HEADERS, PageRoute, redirect_to, visit_of
from gateway.dashboard.overview import team_names
from gateway.dashboard.render import html

router = APIRouter(route_class=PageRoute)
PAGE: Final = 50
FILTERS: Final = ("team", "key", "model", "status", "outcome", "id", "from", "to")
OUTCOMES: Final = (
    "refused",
    "completed",
    "incomplete",
    "failed",
    "upstream_refused",
    "upstream_unreachable",
    "upstream_timeout",
    "upstream_cut",
    "upstream_stalled",
    "timed_out",
    "client_left",
    "cancelled",
    "invalid_answer",
    "expired",
)
PARTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "received_ms": "the body is received",
        "routed_ms": "reading the body, finding the route",
        "admit_ms": "admission by the ledger",
        "open_ms": "waiting for the provider's answer",
        "first_byte_ms": "the first byte is sent",
        "relayed_ms": "the rest of the answer is sent",
        "total_ms": "settlement by the ledger",
    }
)
"""The times of a request in order, and what happens until each of them."""
LIVE_S: Final = 60.0
"""The browser reconnects after this time and resumes the stream, so that the end of a session takes effect."""


@router.get("/requests")
async def list_requests(request: Request) -> Response:
    """One page of requests, newest first."""
    visit, query = visit_of(request), request.query_params
    asked = {name: query[name].strip() for name in FILTERS if query.get(name, "").strip()}
    team = asked.get("team")
    problem: AdminApiError | None = None
    page: dict[str, Any] = {"data": [], "next": None}
    teams = await team_names(visit, team)
    api_query = {name: forms.moment(text) if name in ("from", "to") else text for name, text in asked.items()}
    try:
        page = await visit.api.get("/requests", limit=PAGE, after=query.get("after") or None, **api_query)
    except AdminApiError as refused:
        problem = refused
    return html(
        "requests.html",
        visit=visit,
        here="requests",
        rows=page["data"],
        next=page["next"],
        first="after" not in query,
        asked=asked,
        query=urlencode(asked),
        refused=problem,
        outcomes=OUTCOMES,
        teams=teams,
    )


@router.get("/requests/find")
async def find_request(request: Request) -> Response:
    """Shows the request with this id: its own, its response's or its upstream's."""
    text = request.query_params.get("find", "").strip()
    return redirect_to(f"/dashboard/requests/{forms.segment(text)}" if text else "/dashboard/requests")


@router.get("/requests/{request_id}")
async def show_request(request: Request, request_id: str) -> Response:
    """One request: why it was refused, or how it was settled and how long it took."""
    visit, team = visit_of(request), request.query_params.get("team") or None
    found = await visit.api.get(f"/requests/{forms.segment(request_id)}", team=team)
    return html("request.html", visit=visit, here="requests", found=found, spans=spans(found))


def spans(found: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Returns the parts of a request as (name, start, end) in ms since its head."""
    timings = found.get("timings") or {}
    out, before = [], 0.0
    for name, what in PARTS.items():
        if name in timings:
            out.append((what, before, timings[name]))
            before = timings[name]
    return out


@router.get("/live")
async def watch(request: Request) -> Response:
    """The API's live events, for the dashboard's page."""
    return _Live(visit_of(request).api)


class _Live(Response):
    """GET /admin/v1/events, forwarded with the dashboard's headers and a maximum duration."""

    def __init__(self, api: AdminClient) -> None:
        super().__init__()
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until LIVE_S have passed, the browser leaves or the gateway stops."""
        del scope
        open_body = False

        async def pass_on(message: Message) -> None:
            nonlocal open_body
            if message["type"] == "http.response.start":
                named = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in named)]
            await send(message)
            open_body = message.get("more_body", True)

        try:
            async with asyncio.timeout(LIVE_S):
                await self._api.forward("/events", receive, pass_on)
        except TimeoutError:
            if open_body:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
