"""/admin/v1/events: one server-sent event per finished request of any worker, as it ends.

    event: request    data: see `request_reporter.event`; Last-Event-ID resumes the stream for about a minute
    event: ready      the first event: from here on, every request is shown

A team-scoped admin sees only its own team's requests. At most MAX_WATCHERS streams are open per worker. Under overload
a worker keeps the newest events (request_reporter.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from gateway.api.admin.access import team_asked
from gateway.api.admin.guard import GuardedRoute
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError
from gateway.reporting.live_requests import is_live_id
from gateway.reporting.request_reporter import EVERY_S
from gateway.worker.services import Services

router = APIRouter(route_class=GuardedRoute)

MAX_WATCHERS: Final = 50
PING_S: Final = 15
_BATCH_SIZE: Final = 500
_READY_AFTER_S: Final = 2 * EVERY_S  # by then every worker has seen that somebody watches


@router.get("/events", response_class=EventSourceResponse)
async def watch(request: Request, team: str | None = None) -> EventSourceResponse:
    """Finished requests, live. Raises GatewayError `concurrency_exceeded` if too many streams are open."""
    services = services_of(request)
    owner = await team_asked(request, team)
    if services.reporter.watchers >= MAX_WATCHERS:
        raise GatewayError("concurrency_exceeded", f"{MAX_WATCHERS} are watching this worker already.", wait_ms=5000)
    last_id = request.headers.get("last-event-id", "")
    if last_id and not is_live_id(last_id):
        raise GatewayError("invalid_field", "Last-Event-ID is not the id of an event.", param="Last-Event-ID")
    await services.live_requests.request_events()
    start = last_id or await services.live_requests.last_id()
    events = _events(services, start, owner.id if owner else None)
    return EventSourceResponse(events, ping=PING_S, headers={"x-accel-buffering": "no"})


async def _events(services: Services, last_id: str, team_id: str | None) -> AsyncIterator[ServerSentEvent]:
    services.reporter.watchers += 1
    try:
        await asyncio.sleep(_READY_AFTER_S)
        yield ServerSentEvent(event="ready", data="{}", id=last_id)
        while not (services.leaving or services.handler.stopping):
            found: list[tuple[str, dict[str, Any]]] = []
            try:
                await services.live_requests.request_events()
                found = await services.live_requests.after(last_id, _BATCH_SIZE)
            except GatewayError:
                pass  # the store is unavailable; the stream continues when it is back
            for event_id, event in found:
                last_id = event_id
                if team_id is None or event["team_id"] == team_id:
                    yield ServerSentEvent(event="request", data=orjson.dumps(event).decode(), id=event_id)
            if len(found) < _BATCH_SIZE:
                await asyncio.sleep(EVERY_S)
    finally:
        services.reporter.watchers -= 1
