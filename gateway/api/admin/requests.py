"""/admin/v1/requests: the last requests, refused ones included. /admin/v1/requests/{id}: the outcome of one request.

A request's id does not name its team, so every team is searched, many at a time. `?team=` searches only one, and then
also finds expired holds in the team's journal. A refused request is found as long as its refusal is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from gateway.api.admin.access import team_asked
from gateway.api.admin.answers import page_answer
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.query_parameters import After, Limit, every_team_id
from gateway.api.admin.serialization import recent_json, request_json
from gateway.api.dependencies import Services, services_of
from gateway.billing.lifecycle import Outcome
from gateway.errors import GatewayError
from gateway.ledger.journal import Journal
from gateway.reporting.recent_requests import recent
from gateway.reporting.refused_requests import find_refused
from gateway.reporting.request_timings import RequestTimings

router = APIRouter(prefix="/requests", route_class=GuardedRoute)
_BATCH_SIZE: Final = 500
OUTCOMES: Final = (*(outcome.value for outcome in Outcome if outcome is not Outcome.DRY_RUN), "expired")


@router.get("", response_model=dict[str, Any])
async def list_requests(
    request: Request,
    limit: Limit = 100,
    after: After = None,
    team: str | None = None,
    outcome: Annotated[str | None, Query(max_length=64, description='As in the journal, or "refused"')] = None,
) -> Response:
    """The last requests, newest first: settled, voided, expired, refused.

    A page may be slightly longer than `limit`.
    """
    services = services_of(request)
    if outcome is not None and outcome not in OUTCOMES:
        raise GatewayError("invalid_field", f"outcome is one of {', '.join(OUTCOMES)}.", param="outcome")
    owner = await team_asked(request, team)
    ids = [owner.id] if owner is not None else [known async for known in every_team_id(services.accounts)]
    page = await recent(services.store, ids, limit=limit, after=after, outcome=outcome)
    rows = (recent_json(team_id, item) for team_id, item in page.data)
    return await page_answer(services.store, rows, page)


@router.get("/{request_id}")
async def show_request(request: Request, request_id: str, team: str | None = None) -> dict[str, Any]:
    """The outcome of one request.

    `state` is running, settled, voided, expired or refused, with the reason. `timings` and `tried` are kept for recent
    requests.
    """
    services = services_of(request)
    owner = await team_asked(request, team)
    if owner is not None:
        expired = Journal(services.store).find_expired
        found = await _look(services, [owner.id], request_id)
        if found is None and (entry := await expired(owner.id, request_id)) is not None:
            found = request_json(request_id, entry, None)
    else:
        found = await _look_everywhere(services, request_id)
    if found is None:
        raise _not_found(request_id)
    return found


async def _look_everywhere(services: Services, request_id: str) -> dict[str, Any] | None:
    after: str | None = None
    while True:
        ids, after = await services.accounts.team_ids(_BATCH_SIZE, after)
        found = await _look(services, ids, request_id)
        if found is not None or after is None:
            return found


async def _look(services: Services, team_ids: Sequence[str], request_id: str) -> dict[str, Any] | None:
    found = await Journal(services.store).find(team_ids, request_id)
    if found is not None:
        return request_json(request_id, found, await RequestTimings(services.store).find(found.team_id, request_id))
    refused = await find_refused(services.store, team_ids, request_id)
    return None if refused is None else recent_json(refused.team_id, refused)


def _not_found(request_id: str) -> GatewayError:
    return GatewayError(
        "request_not_found",
        f"There is no request {request_id!r}: it is older than the ledger remembers, or its gateway died (then ?team= "
        "finds it), or it was refused before its key was known.",
    )
