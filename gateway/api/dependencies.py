"""The services of the worker that serves a request, and the caller of a route that is not on the hot path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from gateway.accounts.accounts import Key, Team, View
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey, invalid_api_key, key_of_request
from gateway.worker.services import Services


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller whose key is valid, with the enforced limits."""

    team: Team
    key: Key
    view: View


def services_of(request: Request) -> Services:
    """The application's services."""
    return cast("Services", request.app.state.services)


async def caller_of(request: Request) -> Caller:
    """Returns the caller of a request.

    It charges nothing and counts against no limit. Raises GatewayError `invalid_api_key`.
    """
    presented = key_of_request(dict(request.headers.raw))
    accounts = services_of(request).accounts
    try:
        team = await accounts.team(presented.team_id)
        key = await accounts.key(team, presented.key_id)
    except GatewayError as error:
        if error.code in ("team_not_found", "key_not_found"):
            raise invalid_api_key("unknown_team" if error.code == "team_not_found" else "unknown_key") from None
        raise
    view = await accounts.view(team, key.id)
    if not _alive(presented, team, key, view.now_ms):
        raise invalid_api_key()
    return Caller(team, key, view)


def _alive(presented: ApiKey, team: Team, key: Key, now_ms: int) -> bool:
    """Whether the key is valid.

    The rule is the same as in admit_v8, which decides alone for requests that cost money.
    """
    accounts_alive = all(
        account.status == "active" and (not account.expires_ms or now_ms < account.expires_ms)
        for account in (team, key)
    )
    return accounts_alive and any(
        secret.sha256 == presented.secret_hash and (not secret.until_ms or now_ms < secret.until_ms)
        for secret in key.secrets
    )
