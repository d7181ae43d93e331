"""/admin/v1/teams/{team}/keys. Only the answer to its creation contains the text of a key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.accounts.accounts import Accounts, Changes, Key, Team
from gateway.accounts.entities import ARCHIVED
from gateway.api.admin.access import is_operator, refuse_beyond_quota
from gateway.api.admin.answers import page_answer
from gateway.api.admin.feasibility import feasible
from gateway.api.admin.guard import GuardedRoute, idempotency_key_of, version_of
from gateway.api.admin.query_parameters import After, All, Limit
from gateway.api.admin.request_models import KeyPatch, NewKey
from gateway.api.admin.serialization import key_json
from gateway.api.dependencies import services_of

router = APIRouter(prefix="/teams/{team}/keys", route_class=GuardedRoute)


@router.post("", status_code=201)
async def create_key(request: Request, response: Response, team: str, body: NewKey) -> dict[str, Any]:
    """Creates a key. `key` is null for a repeat after the key's secret, or the root admin key, was replaced."""
    accounts = services_of(request).accounts
    owner = await accounts.team(team)
    refuse_beyond_quota(request, owner, body.limits.changes())
    idempotency_key = idempotency_key_of(request, "key", owner.id, body.model_dump(mode="json", exclude_unset=True))
    changes = feasible(services_of(request).handler.snapshot, body.changes(), None, owner)
    key, text = await accounts.create_key(owner, changes, idempotency_key, by_operator=is_operator(request))
    response.headers["cache-control"] = "no-store"
    return {**await _shown(accounts, owner, key, response), "key": text or None}


@router.get("", response_model=dict[str, Any])
async def list_keys(
    request: Request, team: str, limit: Limit = 100, after: After = None, *, ended: All = False
) -> Response:
    """A team's keys, oldest first; with `all`, revoked and deleted ones too."""
    accounts = services_of(request).accounts
    page = await accounts.keys(await accounts.team(team), limit, after, ended=ended)
    views = await accounts.views([(key.team_id, key.id) for key in page.data])
    return await page_answer(services_of(request).store, map(key_json, page.data, views), page)


@router.get("/{key}")
async def show_key(request: Request, response: Response, team: str, key: str) -> dict[str, Any]:
    """One key."""
    accounts = services_of(request).accounts
    owner = await accounts.team(team)
    return await _shown(accounts, owner, await accounts.key(owner, key), response)


@router.patch("/{key}")
async def change_key(request: Request, response: Response, team: str, key: str, body: KeyPatch) -> dict[str, Any]:
    """Changes a key. The change applies from its next request on, on every worker."""
    accounts = services_of(request).accounts
    owner = await accounts.team(team)
    by_operator = is_operator(request)
    changes = body.changes(by_operator=by_operator)
    refuse_beyond_quota(request, owner, changes.limits)
    for_a_while = {name: one.value for name, one in changes.overrides.items() if one is not None}
    refuse_beyond_quota(request, owner, for_a_while, "overrides")
    before = await accounts.key(owner, key)
    changes = feasible(services_of(request).handler.snapshot, changes, before, owner)
    changed = await accounts.update_key(owner, before, changes, version=version_of(request), by_operator=by_operator)
    return await _shown(accounts, owner, changed, response)


@router.delete("/{key}")
async def delete_key(request: Request, response: Response, team: str, key: str) -> dict[str, Any]:
    """Deletes a key for good: it is refused from its next request on. By its id it can still be read. Idempotent."""
    accounts = services_of(request).accounts
    owner = await accounts.team(team)
    found = await accounts.key(owner, key)
    if found.status != ARCHIVED:
        found = await accounts.update_key(
            owner,
            found,
            Changes(status=ARCHIVED),
            version=version_of(request),
            by_operator=is_operator(request),
        )
    return await _shown(accounts, owner, found, response)


async def _shown(accounts: Accounts, team: Team, key: Key, response: Response) -> dict[str, Any]:
    response.headers["etag"] = f'"{key.version}"'
    [view] = await accounts.views([(team.id, key.id)])
    return key_json(key, view)
