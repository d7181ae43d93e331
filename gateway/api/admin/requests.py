"""/admin/v1/requests: the last requests, refused ones included. /admin/v1/requests/{id}: the outcome of one request.

A request's id does not name its team, so every team is searched, many at a time. `?team=` searches only one, and then
also finds expired holds in the team's journal. A refused request is found as long as its refusal is kept. The other
ids of a request are found by request_search.py.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from gateway.accounts.accounts import Team
from gateway.api.admin.access import team_asked
from gateway.api.admin.answers import page_answer
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.query_parameters import After, Limit, Since, Until, every_team_id, moment_ms
from gateway.api.admin.serialization import recent_json, request_json
from gateway.api.dependencies import services_of
from gateway.billing.lifecycle import Outcome
from gateway.config.messages import hint
from gateway.errors import GatewayError
from gateway.identity.api_keys import is_id
from gateway.ledger.journal import Entry, Journal
from gateway.reporting.recent_requests import Wanted, recent
from gateway.reporting.refused_requests import RefusedRequest, find_refused
from gateway.reporting.request_search import find_by_other_id
from gateway.reporting.request_timings import RequestTimings
from gateway.routing.model_patterns import is_pattern
from gateway.worker.services import Services

router = APIRouter(prefix="/requests", route_class=GuardedRoute)
_BATCH_SIZE: Final = 500
_STATUS: Final = re.compile(r"[1-5](?:[0-9]{2}|xx)")
MAX_TEAMS_BY_STATUS: Final = 200
"""Teams whose timings are read for one answer."""
NO_END_MS: Final = 2**53
Look = Callable[[Sequence[str]], Awaitable[dict[str, Any] | None]]
OUTCOMES: Final = (*(outcome.value for outcome in Outcome if outcome is not Outcome.DRY_RUN), "expired")


@router.get("", response_model=dict[str, Any])
async def list_requests(  # noqa: PLR0913 - what may be asked for
    request: Request,
    limit: Limit = 100,
    after: After = None,
    *,
    team: str | None = None,
    outcome: Annotated[str | None, Query(max_length=64, description='As in the journal, or "refused"')] = None,
    key: Annotated[str | None, Query(max_length=64, description="A key's id; with `team`, also its label")] = None,
    model: Annotated[str | None, Query(max_length=256, description='An exact id, "provider/*" or "*"')] = None,
    status: Annotated[str | None, Query(max_length=3, description="429, or 4xx for all of them")] = None,
    identifier: Annotated[str | None, Query(alias="id", max_length=256, description="The beginning of an id")] = None,
    since: Since = None,
    until: Until = None,
) -> Response:
    """The last requests, newest first: settled, voided, expired, refused.

    A page may be slightly longer than `limit`, and a page of a filter that matches rarely may be shorter.
    """
    services = services_of(request)
    _check_filters(outcome=outcome, status=status, model=model)
    from_ms, to_ms = moment_ms(since, "from", 0), moment_ms(until, "to", NO_END_MS)
    if from_ms > to_ms:
        raise GatewayError("invalid_field", "from: must not lie after the end.", param="from")
    owner = await team_asked(request, team)
    ids = [owner.id] if owner is not None else [known async for known in every_team_id(services.accounts)]
    timings = RequestTimings(services.store)
    if status is not None and len(ids) > MAX_TEAMS_BY_STATUS:
        raise GatewayError(
            "invalid_field", f"status: {len(ids)} teams are too many to look for it: name one.", param="status"
        )
    took = await timings.of_teams(ids) if status is not None else {}
    wanted = Wanted(
        outcome=outcome,
        key_ids=None if key is None else await _keys_called(services, owner, key),
        model=model,
        identifier=identifier or "",
        status=status or "",
        statuses={name: one["status"] for name, one in took.items()},
        from_ms=from_ms,
        to_ms=to_ms,
    )
    page = await recent(services.store, ids, limit=limit, after=after, wanted=wanted)
    if status is None:
        took = await timings.of_teams(sorted({team_id for team_id, _ in page.data})[:MAX_TEAMS_BY_STATUS])
    rows = [recent_json(team_id, item, took.get(_id_of(item))) for team_id, item in page.data]
    return await page_answer(services.store, await _named(services, rows), page)


@router.get("/{request_id}")
async def show_request(request: Request, request_id: str, team: str | None = None) -> dict[str, Any]:
    """The outcome of one request, found by its id (with or without "req_"), by its response's or its upstream's.

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
    return (await _named(services, [found]))[0]


def _check_filters(*, outcome: str | None, status: str | None, model: str | None) -> None:
    """Raises GatewayError `invalid_field` for a filter that nothing can fit."""
    wrong = {}
    if outcome is not None and outcome not in OUTCOMES:
        wrong["outcome"] = f"one of {', '.join(OUTCOMES)}{hint(outcome, OUTCOMES)}"
    if status is not None and _STATUS.fullmatch(status) is None:
        wrong["status"] = "such as 429, or 4xx for all of them"
    if model is not None and not is_pattern(model):
        wrong["model"] = 'an exact id, "provider/*" or "*"'
    for param, needed in wrong.items():
        raise GatewayError("invalid_field", f"{param}: {needed}.", param=param)


async def _named(services: Services, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Adds the present names of teams and keys."""
    subjects = [(row["team_id"], None) for row in rows] + [(row["team_id"], row["key_id"]) for row in rows]
    distinct = list(dict.fromkeys(subjects))
    named = dict(zip(distinct, await services.accounts.names(distinct), strict=True))
    for row in rows:
        row["team"] = named[row["team_id"], None]
        row["key"] = named[row["team_id"], row["key_id"]] if row["key_id"] else None
    return rows


async def _keys_called(services: Services, owner: Team | None, name: str) -> frozenset[str]:
    """Returns the ids of the keys with this name. Raises GatewayError `key_not_found`."""
    if is_id(name):
        return frozenset({name})
    if owner is None:
        raise GatewayError("invalid_field", "A key's label needs its team: name it, or give the key's id.", param="key")
    after, found = None, set[str]()
    while True:
        page = await services.accounts.keys(owner, 1000, after, ended=True)
        found |= {key.id for key in page.data if key.name == name}
        after = page.next
        if after is None:
            break
    if not found:
        raise GatewayError("key_not_found", f"The team {owner.name!r} has no key {name!r}.")
    return frozenset(found)


def _id_of(item: Entry | RefusedRequest) -> str:
    return item.request_id if isinstance(item, RefusedRequest) else item.ref


async def _look_everywhere(services: Services, text: str) -> dict[str, Any] | None:
    by_id = await _in_batches(services, lambda ids: _by_id(services, ids, text))
    return by_id or await _in_batches(services, lambda ids: _by_other_id(services, ids, text))


async def _in_batches(services: Services, look: Look) -> dict[str, Any] | None:
    after: str | None = None
    while True:
        ids, after = await services.accounts.team_ids(_BATCH_SIZE, after)
        found = await look(ids)
        if found is not None or after is None:
            return found


async def _look(services: Services, team_ids: Sequence[str], text: str) -> dict[str, Any] | None:
    return await _by_id(services, team_ids, text) or await _by_other_id(services, team_ids, text)


async def _by_other_id(services: Services, team_ids: Sequence[str], text: str) -> dict[str, Any] | None:
    other = await find_by_other_id(
        services.store, team_ids, text, remembered_s=services.settings.ledger.resolution_ttl_s
    )
    return None if other is None else await _by_id(services, [other[0]], other[1])


async def _by_id(services: Services, team_ids: Sequence[str], text: str) -> dict[str, Any] | None:
    """Finds a request by its own id, with or without "req_"."""
    for request_id in (text,) if text.startswith("req_") else (text, f"req_{text}"):
        found = await Journal(services.store).find(
            team_ids, request_id, remembered_s=services.settings.ledger.resolution_ttl_s
        )
        if found is not None:
            took = await RequestTimings(services.store).find(found.team_id, request_id)
            return request_json(request_id, found, took)
        refused = await find_refused(services.store, team_ids, request_id)
        if refused is not None:
            return recent_json(refused.team_id, refused)
    return None


def _not_found(request_id: str) -> GatewayError:
    return GatewayError(
        "request_not_found",
        f"There is no request {request_id!r}: it is older than the ledger remembers, or its gateway died (then it is "
        "found if its team is named), or it was refused before its key was known, or as one of many while the store was"
        " away: the gateway's log has all of them. An upstream's own id is known of a team's last requests only.",
    )
