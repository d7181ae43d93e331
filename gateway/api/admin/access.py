"""Authorisation: one table and one function. A route without a row serves nobody; a test walks all routes.

    scope    who
    all      the root admin key, and admin keys with the scope "all"
    read     admin keys that only read
    team     admin keys of one team: "{team}" in the path and ?team= must be its own, and lists show only that team

`before` names the state that the audit log records before a change. The answer is the state after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

from fastapi import Request

from gateway.accounts.accounts import Team
from gateway.accounts.admin_keys import Admin
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError

EVERYBODY: Final = frozenset({"all", "read", "team"})
READERS: Final = frozenset({"all", "read"})
KEY_MANAGERS: Final = frozenset({"all", "team"})
OPERATORS: Final = frozenset({"all"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `before` is team, key, balance, admin_key, upstream, or "" for an action that creates something."""

    scopes: frozenset[str]
    before: str = ""


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "GET /whoami": Rule(EVERYBODY),
        "GET /openapi.json": Rule(EVERYBODY),
        "DELETE /sign-in": Rule(EVERYBODY),
        "GET /teams": Rule(EVERYBODY),
        "POST /teams": Rule(OPERATORS),
        "GET /teams/{team}": Rule(EVERYBODY),
        "PATCH /teams/{team}": Rule(OPERATORS, "team"),
        "DELETE /teams/{team}": Rule(OPERATORS, "team"),
        "GET /teams/{team}/end-user-limits": Rule(EVERYBODY),
        "GET /teams/{team}/credits": Rule(EVERYBODY),
        "POST /teams/{team}/credits": Rule(OPERATORS, "balance"),
        "GET /teams/{team}/journal": Rule(EVERYBODY),
        "POST /teams/{team}/journal/archived": Rule(OPERATORS),
        "GET /teams/{team}/keys": Rule(EVERYBODY),
        "POST /teams/{team}/keys": Rule(KEY_MANAGERS),
        "GET /teams/{team}/keys/{key}": Rule(EVERYBODY),
        "PATCH /teams/{team}/keys/{key}": Rule(KEY_MANAGERS, "key"),
        "DELETE /teams/{team}/keys/{key}": Rule(KEY_MANAGERS, "key"),
        "POST /teams/{team}/keys/{key}/rotate": Rule(KEY_MANAGERS, "key"),
        "GET /teams/{team}/state": Rule(EVERYBODY),
        "DELETE /teams/{team}/state": Rule(KEY_MANAGERS),
        "GET /keys/{key}": Rule(EVERYBODY),
        "GET /ledger/verify": Rule(READERS),
        "GET /usage": Rule(EVERYBODY),
        "GET /usage/tags": Rule(EVERYBODY),
        "GET /requests": Rule(EVERYBODY),
        "GET /requests/{request_id}": Rule(EVERYBODY),
        "GET /events": Rule(EVERYBODY),
        "GET /audit": Rule(EVERYBODY),
        "GET /admin-keys": Rule(READERS),
        "POST /admin-keys": Rule(OPERATORS),
        "DELETE /admin-keys/{admin_key}": Rule(OPERATORS, "admin_key"),
        "POST /admin-keys/{admin_key}/rotate": Rule(OPERATORS, "admin_key"),
        "GET /upstreams": Rule(READERS),
        "POST /upstreams/{upstream}/disable": Rule(OPERATORS, "upstream"),
        "POST /upstreams/{upstream}/enable": Rule(OPERATORS, "upstream"),
        "GET /notices": Rule(READERS),
        "POST /notices/test": Rule(OPERATORS),
        "GET /prices": Rule(EVERYBODY),
        "GET /prices/explain": Rule(EVERYBODY),
        "GET /config": Rule(READERS),
        "POST /config/reload": Rule(OPERATORS),
    }
)

_ADMIN_FIELD: Final = "gateway.admin"


async def authorise(action: str, request: Request, admin: Admin) -> Rule:
    """Permits an admin to perform an action, and stores the admin for `admin_of`. Raises GatewayError `not_allowed`."""
    rule = RULES.get(action)
    if rule is None or admin.scope not in rule.scopes:
        raise GatewayError("not_allowed", f"An admin key of scope {admin.scope!r} may not {action}.")
    if admin.scope == "team":
        for named in (request.path_params.get("team"), *request.query_params.getlist("team")):
            if named is not None and not await _is_own(request, admin, named):
                raise GatewayError("not_allowed", "This admin key is for another team.")
    request.scope[_ADMIN_FIELD] = admin
    return rule


def admin_of(request: Request) -> Admin:
    """Returns the admin of the request. Valid after `authorise`."""
    return cast("Admin", request.scope[_ADMIN_FIELD])


def is_operator(request: Request) -> bool:
    """Whether the admin may lift restrictions that operators set. A team-scoped admin may not."""
    return admin_of(request).scope != "team"


async def team_asked(request: Request, named: str | None) -> Team | None:
    """Returns the team that a list is about.

    That is the team of `?team=`; without it, the team of a team-scoped admin, or None for all teams.
    """
    own = admin_of(request).team_id or None
    wanted = named if named is not None else own
    return None if wanted is None else await services_of(request).accounts.team(wanted)


def refuse_other_team(request: Request, team_id: str) -> None:
    """Raises GatewayError `not_allowed` if a team-scoped admin has found an object of another team."""
    own = admin_of(request).team_id
    if own and own != team_id:
        raise GatewayError("not_allowed", "This admin key is for another team.")


def refuse_beyond_quota(request: Request, team: Team, limits: Mapping[str, int | None], field: str = "limits") -> None:
    """Raises GatewayError `not_allowed` if a team-scoped admin sets a key's limit above the limit of the team."""
    if admin_of(request).scope != "team":
        return
    for name, value in limits.items():
        team_limit = team.limits.get(name)
        if value is not None and team_limit is not None and value > team_limit:
            raise GatewayError(
                "not_allowed", f"{name} of a key must not exceed the team's own limit.", param=f"{field}.{name}"
            )


async def _is_own(request: Request, admin: Admin, named: str) -> bool:
    try:
        return (await services_of(request).accounts.team(named)).id == admin.team_id
    except GatewayError as error:
        if error.code == "team_not_found":  # the same answer as for a team of somebody else
            return False
        raise
