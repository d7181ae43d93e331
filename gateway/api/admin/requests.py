"""/admin/v1/requests: the last ones, refused ones too. /admin/v1/requests/{id}: what became of a request.

A request's id does not name its team, so every team is asked, many at a time; `?team=` asks one alone, and then finds
holds that expired as well, by the team's journal.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request

from gateway.api.admin.access import team_asked
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.pages import After, Limit, every_team_id
from gateway.api.admin.shapes import page_shape, recent_shape, request_shape
from gateway.api.callers import services_of
from gateway.errors import GatewayError
from gateway.ledger.journal import Journal
from gateway.ledger.recent import recent

router = APIRouter(prefix="/requests", route_class=GuardedRoute)
_AT_ONCE: Final = 500


@router.get("")
async def list_requests(
    request: Request,
    limit: Limit = 100,
    after: After = None,
    team: str | None = None,
    outcome: Annotated[str | None, Query(max_length=64, description='As in the journal, or "refused"')] = None,
) -> dict[str, Any]:
    """The last requests, the newest first: settled, voided, expired, refused. A page may be a little over `limit`."""
    services = services_of(request)
    owner = await team_asked(request, team)
    ids = [owner.id] if owner is not None else [known async for known in every_team_id(services.accounts)]
    page = await recent(services.store, ids, limit=limit, after=after, outcome=outcome)
    return page_shape((recent_shape(team_id, item) for team_id, item in page.data), page)


@router.get("/{request_id}")
async def show_request(request: Request, request_id: str, team: str | None = None) -> dict[str, Any]:
    """How a request was settled, from how its hold ended and its journal entry; `state` "running" for an open one."""
    services = services_of(request)
    accounts, journal = services.accounts, Journal(services.store)
    owner = await team_asked(request, team)
    if owner is not None:
        found = await journal.find([owner.id], request_id) or await journal.find_expired(owner.id, request_id)
        if found is not None:
            return request_shape(request_id, found)
        raise _not_found(request_id)
    after: str | None = None
    while True:
        ids, after = await accounts.team_ids(_AT_ONCE, after)
        found = await journal.find(ids, request_id)
        if found is not None:
            return request_shape(request_id, found)
        if after is None:
            raise _not_found(request_id)


def _not_found(request_id: str) -> GatewayError:
    return GatewayError(
        "request_not_found",
        f"There is no request {request_id!r}: it was refused, is older than the ledger remembers, or its gateway died "
        "(then ?team= finds it).",
    )
