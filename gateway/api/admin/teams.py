"""/admin/v1/teams."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.accounts.accounts import Accounts, Changes, Page, Team
from gateway.accounts.entities import ARCHIVED
from gateway.api.admin.access import team_asked
from gateway.api.admin.answers import page_answer
from gateway.api.admin.feasibility import feasible
from gateway.api.admin.guard import GuardedRoute, idempotency_key_of, version_of
from gateway.api.admin.query_parameters import After, All, Limit
from gateway.api.admin.request_models import NewTeam, TeamPatch
from gateway.api.admin.serialization import team_json
from gateway.api.dependencies import services_of

router = APIRouter(prefix="/teams", route_class=GuardedRoute)


@router.post("", status_code=201)
async def create_team(request: Request, response: Response, body: NewTeam) -> dict[str, Any]:
    """Creates a team and grants its first credits."""
    accounts = services_of(request).accounts
    idempotency_key = idempotency_key_of(request, "team", body.model_dump(mode="json", exclude_unset=True))
    changes = feasible(services_of(request).handler.snapshot, body.changes(), None)
    team = await accounts.create_team(changes, idempotency_key, credits_nano_usd=body.credits_usd)
    return await _shown(accounts, team, response)


@router.get("", response_model=dict[str, Any])
async def list_teams(request: Request, limit: Limit = 100, after: After = None, *, ended: All = False) -> Response:
    """Teams, oldest first; with `all`, deleted ones too. A team-scoped admin sees only its own."""
    accounts = services_of(request).accounts
    own = await team_asked(request, None)
    page = Page((own,), None) if own is not None else await accounts.teams(limit, after, ended=ended)
    views = await accounts.views([(team.id, None) for team in page.data])
    rows = zip(page.data, views, await accounts.queue_lengths(page.data), strict=True)
    shown = ({**team_json(team, view), "waiting": waiting} for team, view, waiting in rows)
    return await page_answer(services_of(request).store, shown, page)


@router.get("/{team}")
async def show_team(request: Request, response: Response, team: str) -> dict[str, Any]:
    """One team."""
    accounts = services_of(request).accounts
    return await _shown(accounts, await accounts.team(team), response)


@router.patch("/{team}")
async def change_team(request: Request, response: Response, team: str, body: TeamPatch) -> dict[str, Any]:
    """Changes a team. The change applies from its next request on."""
    accounts = services_of(request).accounts
    before = await accounts.team(team)
    changes = feasible(services_of(request).handler.snapshot, body.changes(), before)
    changed = await accounts.update_team(before, changes, version=version_of(request))
    return await _shown(accounts, changed, response)


@router.delete("/{team}")
async def delete_team(request: Request, response: Response, team: str) -> dict[str, Any]:
    """Deletes a team for good: its keys are refused from their next request on, and its name is free.

    The team, its journal and its audit log can still be read by its id. Idempotent.
    """
    accounts = services_of(request).accounts
    owner = await accounts.team(team)
    if owner.status != ARCHIVED:
        owner = await accounts.update_team(owner, Changes(status=ARCHIVED), version=version_of(request))
    return await _shown(accounts, owner, response)


async def _shown(accounts: Accounts, team: Team, response: Response) -> dict[str, Any]:
    response.headers["etag"] = f'"{team.version}"'
    [view] = await accounts.views([(team.id, None)])
    [waiting] = await accounts.queue_lengths([team])
    return {**team_json(team, view), "waiting": waiting}
