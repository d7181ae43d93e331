"""Notices: the recipients, the sent, waiting and failed notices, and a test of a recipient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gateway.dashboard.guard import PageRoute, Visit, form_of, visit_of
from gateway.dashboard.render import html

router = APIRouter(prefix="/notices", route_class=PageRoute)
PAGE: Final = 100


@router.get("")
async def show_notices(request: Request) -> Response:
    """The page of recipients and notices."""
    return await _page(visit_of(request))


@router.post("/test")
async def send_test(request: Request) -> Response:
    """Sends a test to a recipient and shows the result."""
    visit = visit_of(request)
    recipient = form_of(request).get("recipient", "")
    return await _page(visit, await visit.api.change("POST", "/notices/test", {"recipient": recipient}))


async def _page(visit: Visit, tested: Mapping[str, Any] | None = None) -> Response:
    found = await visit.api.get("/notices", limit=PAGE)
    return html(
        "notices.html",
        visit=visit,
        here="notices",
        recipients=found["recipients"],
        notices=found["data"],
        tested=tested,
    )
