"""The last requests with their reasons; and those that end now, live."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from starlette.types import Message, Receive, Scope, Send

from gateway.dashboard import forms
from gateway.dashboard.guard import HEADERS, PageRoute, Visit, visit_of
from gateway.dashboard.inside import Inside, Refused
from gateway.dashboard.render import html

router = APIRouter(route_class=PageRoute)
PAGE: Final = 50
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
    "invalid_answer",
    "expired",
)
LIVE_S: Final = 60.0
"""A browser comes back by itself and goes on where it was: so a session that ended is seen within this time."""


@router.get("/requests")
async def list_requests(request: Request) -> Response:
    """A page of them, the newest first."""
    visit, query = visit_of(request), request.query_params
    team, outcome = query.get("team") or None, query.get("outcome") or None
    page, teams = await asyncio.gather(
        visit.api.get("/requests", team=team, outcome=outcome, limit=PAGE, after=query.get("after") or None),
        visit.api.get("/teams", limit=1000),
    )
    return html(
        "requests.html",
        visit=visit,
        here="requests",
        rows=page["data"],
        next=page["next"],
        first="after" not in query,
        team=team,
        outcome=outcome,
        outcomes=OUTCOMES,
        teams={found["id"]: found["name"] for found in teams["data"]},
        keys=await _key_names(visit, page["data"]),
    )


@router.get("/live")
async def watch(request: Request) -> Response:
    """The API's live events, to a page of ours."""
    return _Live(visit_of(request).api)


async def _key_names(visit: Visit, rows: list[dict[str, Any]]) -> dict[str, str]:
    """What the keys of these requests are called; those that are gone are missing."""
    ids = list({row["key_id"] for row in rows if row["key_id"]})[: 2 * PAGE]

    async def name(key_id: str) -> str | None:
        try:
            return str((await visit.api.get(f"/keys/{forms.segment(key_id)}"))["name"])
        except Refused:
            return None

    names = await asyncio.gather(*map(name, ids))
    return {key_id: found for key_id, found in zip(ids, names, strict=True) if found is not None}


class _Live(Response):
    """GET /admin/v1/events, handed over with this page's headers and an end."""

    def __init__(self, api: Inside) -> None:
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
