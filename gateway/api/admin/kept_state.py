"""/admin/v1/teams/{team}/state: how much is stored of a team's responses and conversations, and deleting it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.accounts.accounts import Team
from gateway.api.admin.guard import GuardedRoute
from gateway.api.dependencies import services_of
from gateway.state.housekeeping import Housekeeping, StateUsage

router = APIRouter(prefix="/teams/{team}/state", route_class=GuardedRoute)


@router.get("")
async def show_state(request: Request, team: str) -> dict[str, Any]:
    """How much is kept of a team."""
    owner = await services_of(request).accounts.team(team)
    return _shown(owner, await _housekeeping(request).usage(owner.id))


@router.delete("")
async def purge_state(request: Request, team: str) -> dict[str, Any]:
    """Deletes all of it, cancels what runs in the background, and says what was there."""
    owner = await services_of(request).accounts.team(team)
    return _shown(owner, await _housekeeping(request).purge(owner.id))


def _housekeeping(request: Request) -> Housekeeping:
    turns = services_of(request).handler.turns
    if turns is None:
        raise RuntimeError("a worker has turns from its start on")
    return turns.housekeeping


def _shown(team: Team, usage: StateUsage) -> dict[str, Any]:
    return {"object": "state", "team": team.name, "team_id": team.id, **usage._asdict()}
