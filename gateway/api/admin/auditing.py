"""Writes the audit log's entry for each action that changed something: who, what, before, after, when, which request.

`before` is read as the action starts, and `after` is the action's answer. Secrets are redacted from both
(audit_log.py). A refused action changed nothing and has no entry. If the store does not accept an entry, it goes to the
gateway's own log: the action is complete, and its answer must say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson
import structlog
from fastapi import Request, Response

from gateway.api.admin.access import Rule, admin_of
from gateway.api.admin.serialization import admin_json, credits_json, key_json, team_json
from gateway.api.dependencies import services_of
from gateway.api.middleware import REQUEST_ID
from gateway.errors import GatewayError
from gateway.reporting.audit_log import Action
from gateway.worker.services import Services

_REFUSED: Final = 400


async def audited(
    action: str, rule: Rule, request: Request, handle: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Performs the action and writes an audit entry if it succeeded."""
    services = services_of(request)
    before = await _before(services, rule, request)
    response = await handle(request)
    if response.status_code >= _REFUSED:
        return response
    admin, after = admin_of(request), orjson.loads(response.body) if response.body else None
    entry = Action(
        actor=admin.id,
        actor_name=admin.name,
        action=action,
        subject=_subject(request.path_params, before, after),
        team_id=_team_of(before, after),
        before=before,
        after=after,
        request_id=request.scope[REQUEST_ID],
    )
    try:
        await services.audit_log.write(entry)
    except GatewayError:
        log = structlog.get_logger("gateway.audit")
        log.exception(
            "audit_entry_not_stored", actor=admin.id, action=action, subject=entry.subject, team=entry.team_id
        )
    return response


def _subject(path: Mapping[str, str], before: Any, after: Any) -> str:
    """Returns what the action concerned: what its path names, and what it has created."""
    named = dict(path)
    if before is None and isinstance(after, dict) and isinstance(after.get("name"), str):
        named[str(after.get("object", "name"))] = after["name"]
    return " ".join(f"{kind}={name}" for kind, name in named.items())


async def _before(services: Services, rule: Rule, request: Request) -> Any:
    """Returns the state that the action is about to change, or None if the object does not exist."""
    try:
        return await _READERS[rule.before](services, request.path_params) if rule.before else None
    except GatewayError as error:
        if error.code.endswith("_not_found"):
            return None
        raise


async def _team(services: Services, names: Mapping[str, str]) -> Any:
    team = await services.accounts.team(names["team"])
    [view] = await services.accounts.views([(team.id, None)])
    return team_json(team, view)


async def _key(services: Services, names: Mapping[str, str]) -> Any:
    team = await services.accounts.team(names["team"])
    key = await services.accounts.key(team, names["key"])
    [view] = await services.accounts.views([(team.id, key.id)])
    return key_json(key, view)


async def _balance(services: Services, names: Mapping[str, str]) -> Any:
    team = await services.accounts.team(names["team"])
    return credits_json(team, await services.accounts.view(team))


async def _admin_key(services: Services, names: Mapping[str, str]) -> Any:
    return admin_json(await services.admins.admin(names["admin_key"]))


async def _upstream(services: Services, names: Mapping[str, str]) -> Any:
    return {"name": names["upstream"], "enabled": names["upstream"] not in (await services.cluster_state.orders()).off}


_READERS: Final[Mapping[str, Callable[[Services, Mapping[str, str]], Awaitable[Any]]]] = MappingProxyType(
    {"team": _team, "key": _key, "balance": _balance, "admin_key": _admin_key, "upstream": _upstream}
)


def _team_of(before: Any, after: Any) -> str:
    """Returns the id of the team that an object is or belongs to, or ""."""
    for body in (before, after):
        if isinstance(body, dict):
            found = body.get("id") if body.get("object") == "team" else body.get("team_id")
            if isinstance(found, str):
                return found
    return ""
