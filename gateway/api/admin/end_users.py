"""/admin/v1/teams/{team}/end-user-limits: what remains of the limits of each end user for one of them."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request

from gateway.accounts.accounts import Accounts, Key, Team
from gateway.accounts.end_users import EndUserView, limits_end_users, read_end_user
from gateway.accounts.serialization import each_json
from gateway.api.admin.guard import GuardedRoute
from gateway.api.dependencies import services_of
from gateway.protocol.attribution import known_as

router = APIRouter(prefix="/teams", route_class=GuardedRoute)
MAX_KEYS: Final = 100
"""Keys with limits of their own for each end user that one answer shows."""
_MAX_PAGES: Final = 10
_PAGE: Final = 1000
EndUser = Annotated[
    str, Query(max_length=4096, description="As requests name the end user; empty: requests that name none")
]


@router.get("/{team}/end-user-limits")
async def show_end_user_limits(request: Request, team: str, end_user: EndUser = "") -> dict[str, Any]:
    """What remains of each limit for one end user, by the team's own limits and by those of its keys.

    `running` counts its requests that run now. `is_counted` is false if it has used nothing that still counts. `keys`
    has at most 100 keys with such limits; `keys_left_out` says whether there are more.
    """
    services = services_of(request)
    accounts = services.accounts
    owner = await accounts.team(team)
    keys, left_out = await _keys(accounts, owner)
    digests = known_as(end_user, services.handler.snapshot.limits.attribution)
    found = [await read_end_user(services.store, owner, keys, digest, accounts.burst) for digest in digests]
    of_team, of_keys = next((one for one in found if one.is_counted), found[0])
    return {
        "object": "end_user_limits",
        "team_id": owner.id,
        "end_user": end_user or None,
        **_view_json(of_team),
        "keys": [
            {"key_id": key.id, "name": key.name, **_view_json(view)} for key, view in zip(keys, of_keys, strict=True)
        ],
        "keys_left_out": left_out,
    }


def _view_json(view: EndUserView) -> dict[str, Any]:
    return {"is_counted": view.is_counted, "running": view.running, "limits": each_json(view.rules)}


async def _keys(accounts: Accounts, owner: Team) -> tuple[list[Key], bool]:
    """Returns the keys with limits of their own for each end user, and whether some are left out."""
    found: list[Key] = []
    after: str | None = None
    for _ in range(_MAX_PAGES):
        page = await accounts.keys(owner, _PAGE, after)
        found += [key for key in page.data if limits_end_users(key)]
        after = page.next
        if after is None or len(found) > MAX_KEYS:
            break
    return found[:MAX_KEYS], after is not None or len(found) > MAX_KEYS
