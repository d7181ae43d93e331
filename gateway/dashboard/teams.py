"""Teams with their balances and forecasts; and one team with its keys, limits and credits."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request, Response

from gateway.accounts.entities import ENDED
from gateway.accounts.limit_names import END_USER
from gateway.billing.money import format_usd, parse_usd
from gateway.dashboard import forms
from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.audit_entries import audit_entry
from gateway.dashboard.forecast import DAY_MS, forecast
from gateway.dashboard.guard import PageRoute, Visit, form_of, redirect_to, visit_of
from gateway.dashboard.limit_bars import limit_bars, values
from gateway.dashboard.overview import spend_plot
from gateway.dashboard.render import html
from gateway.dashboard.snippets import snippets
from gateway.protocol.timestamps import iso_time

router = APIRouter(route_class=PageRoute)
NOTICES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "team": "The team was created. Create its first key below.",
        "limits": "The limits apply from the next request on.",
        "status": "Done. The change applies from the next request on.",
        "credits": "The credits were posted.",
        "key": "The key was changed. The change applies from its next request on.",
        "deleted": "The team is deleted for good: its keys are refused, and its name is free. Its journal stays.",
        "key-deleted": "The key is deleted for good. It is refused from now on.",
        "revoked": "The key is revoked permanently. It is refused from now on.",
    }
)
MAX_TEAMS: Final = 1000
PAGE: Final = 100
_LOOK_BACK_MS: Final = 6 * DAY_MS


class KeysShown(NamedTuple):
    """Which keys a team's page shows. `opened` shows one with all its actions; `ended` includes ended keys.

    `end_user`: for whom the page shows what remains of the limits of each end user, or None.
    """

    opened: str = ""
    ended: bool = False
    end_user: str | None = None


EVERY_USABLE_KEY: Final = KeysShown()


def team_path(team: str, rest: str = "") -> str:
    """Returns a team's path, in the admin API and below /dashboard."""
    return f"/teams/{forms.segment(team)}{rest}"


@router.get("/teams")
async def list_teams(request: Request) -> Response:
    """One page of teams. `?find=` searches by name. A team-scoped admin is redirected to its own team."""
    visit, query = visit_of(request), request.query_params
    if not visit.sees_all:
        return redirect_to("/dashboard" + team_path(visit.admin.team_id))
    find = query.get("find", "").strip()
    if find:
        with contextlib.suppress(AdminApiError):
            return redirect_to("/dashboard" + team_path((await visit.api.get(team_path(find)))["id"]))
    return await _list(visit, find=find, after=query.get("after") or None, ended="all" in query)


@router.post("/teams")
async def create_team(request: Request) -> Response:
    """Creates a team with credits and limits."""
    visit, form = visit_of(request), form_of(request)
    body: dict[str, Any] = {"name": form.get("name", ""), "limits": forms.given_limits(form), **forms.periods(form)}
    if "credits_usd" in form:
        body["credits_usd"] = form["credits_usd"].strip().removeprefix("$")
    try:
        team = await visit.api.change("POST", "/teams", body, idempotency_key=form.get("idempotency_key"))
    except AdminApiError as refused:
        return await _list(visit, refused, form)
    return redirect_to("/dashboard" + team_path(team["id"]) + "?done=team")


@router.get("/teams/{team}")
async def show_team(request: Request, team: str) -> Response:
    """One team."""
    query = request.query_params
    return await team_page(
        visit_of(request),
        team,
        notice=NOTICES.get(query.get("done", ""), ""),
        view=KeysShown(query.get("key", ""), ended="all" in query, end_user=query.get("end_user")),
    )


@router.post("/teams/{team}/limits")
async def change_limits(request: Request, team: str) -> Response:
    """Changes the team's limits, models and operations."""
    form = form_of(request)
    body = {"limits": forms.limits(form), **forms.permissions(form), **forms.periods(form)}
    return await changed(visit_of(request), team, team_path(team), body, form, "limits")


@router.post("/teams/{team}/overrides")
async def change_overrides(request: Request, team: str) -> Response:
    """Sets overrides, or ends one of them."""
    form = form_of(request)
    body = {"overrides": forms.overrides(form)}
    return await changed(visit_of(request), team, team_path(team), body, form, "limits", "while")


@router.post("/teams/{team}/status")
async def change_status(request: Request, team: str) -> Response:
    """Enables or disables the team. The page has asked for confirmation."""
    visit, form = visit_of(request), form_of(request)
    return await changed(visit, team, team_path(team), {"status": form.get("status")}, form, "status")


@router.post("/teams/{team}/delete")
async def delete_team(request: Request, team: str) -> Response:
    """Deletes the team, if its name was typed."""
    visit, form = visit_of(request), form_of(request)
    found = await visit.api.get(team_path(team))
    problem = unconfirmed(form, found["name"], "delete this team")
    if problem is not None and visit.may_change_all:
        return await team_page(visit, team, refused=problem, form=form, sent="delete")
    path = team_path(found["id"])
    return await changed(visit, found["id"], path, None, form, "deleted", "delete", method="DELETE")


def unconfirmed(form: Mapping[str, str], name: str, what: str) -> AdminApiError | None:
    """Returns the error for a form in which the name was not typed as a confirmation."""
    if form.get("confirm", "").strip() == name:
        return None
    return AdminApiError(400, "invalid_field", f"To {what}, type its name: {name}", "confirm")


@router.post("/teams/{team}/resume")
async def resume(request: Request, team: str) -> Response:
    """Resumes a paused team."""
    return await changed(visit_of(request), team, team_path(team), {"paused": False}, form_of(request), "status")


@router.post("/teams/{team}/credits")
async def move_credits(request: Request, team: str) -> Response:
    """Grants or adjusts credits."""
    visit, form = visit_of(request), form_of(request)
    body = {
        "kind": form.get("kind", "grant"),
        "amount_usd": form.get("amount_usd", "").strip().removeprefix("$"),
        "note": form.get("note", ""),
        "expires_at": forms.expiry(form),
    }
    try:
        await visit.api.change("POST", team_path(team, "/credits"), body, idempotency_key=form.get("idempotency_key"))
    except AdminApiError as refused:
        return await team_page(visit, team, refused=refused, form=form, sent="credits")
    return redirect_to("/dashboard" + team_path(team) + "?done=credits")


async def changed(
    visit: Visit,
    team: str,
    path: str,
    body: Mapping[str, Any] | None,
    form: Mapping[str, str],
    done: str,
    sent: str = "",
    *,
    method: str = "PATCH",
) -> Response:
    """Sends a change and returns to the team's page, which shows the error and the form again if it was refused."""
    try:
        await visit.api.change(method, path, body, version=form.get("version"))
    except AdminApiError as refused:
        return await team_page(visit, team, refused=refused, form=form, sent=sent or done)
    return redirect_to("/dashboard" + team_path(team) + f"?done={done}")


async def team_page(
    visit: Visit,
    team: str,
    *,
    notice: str = "",
    refused: AdminApiError | None = None,
    form: Mapping[str, str] = MappingProxyType({}),
    sent: str = "",
    created: Mapping[str, Any] | None = None,
    view: KeysShown = EVERY_USABLE_KEY,
) -> Response:
    """Renders a team's page. `created`: a new key, whose text is shown once. `sent`: the refused form, as in `form`."""
    found = await visit.api.get(team_path(team))
    plot = await spend_plot(visit, found["id"], "30")
    keys, spent, refused_requests, actions = await asyncio.gather(
        visit.api.get(team_path(team, "/keys"), limit=1000, all="true"),
        visit.api.get("/usage", team=found["id"], by="key", step="day"),
        visit.api.get("/requests", team=found["id"], outcome="refused", limit=10),
        visit.api.get("/audit", team=found["id"], limit=10),
    )
    recent = await _spent(visit, found["id"])
    one_user = None if view.end_user is None else await _of_end_user(visit, found["id"], view.end_user)
    shown = [key for key in keys["data"] if view.ended or key["status"] not in ENDED]
    return html(
        "team.html",
        refused.status if refused is not None else 200,
        visit=visit,
        here="teams",
        team=_with_forecast(found, recent),
        keys=[{**key, "bars": limit_bars(key["limits"]), "set": values(key["limits"])} for key in shown],
        ended=len(keys["data"]) - len(shown),
        ended_shown=view.ended,
        opened=view.opened or sent.partition("-")[2] or (created or {}).get("id"),
        plot=plot,
        snippets=snippets(visit.base_url, str(created["key"])) if created and created.get("key") else (),
        usage={group["key_id"]: group for group in spent["groups"]},
        total=spent["total"],
        refusals=refused_requests["data"],
        entries=[audit_entry(action, {found["id"]: found["name"]}) for action in actions["data"]],
        names={key["id"]: key["name"] for key in keys["data"]},
        limits_end_users=any(name.startswith(END_USER) for one in (found, *keys["data"]) for name in one["limits"]),
        one_user=one_user,
        notice=notice,
        refused=refused,
        form=form,
        sent=sent,
        created=created,
        idempotency_key=secrets.token_hex(16),
    )


async def _of_end_user(visit: Visit, team: str, end_user: str) -> dict[str, Any]:
    """Returns what remains for one end user, as bars of the team and of its keys that have such limits."""
    found = await visit.api.get(team_path(team, "/end-user-limits"), end_user=end_user)
    parts = [("Of the team", found), *((f"Of the key {key['name']}", key) for key in found["keys"])]
    return {**found, "parts": [(whose, limit_bars(one["limits"])) for whose, one in parts if one["limits"]]}


async def _list(
    visit: Visit,
    refused: AdminApiError | None = None,
    form: Mapping[str, str] = MappingProxyType({}),
    *,
    find: str = "",
    after: str | None = None,
    ended: bool = False,
) -> Response:
    page = await visit.api.get("/teams", limit=MAX_TEAMS if find else PAGE, after=after, all="true" if ended else None)
    shown = [team for team in page["data"] if find.casefold() in team["name"].casefold()][:PAGE]
    spent = await asyncio.gather(*(_spent(visit, team["id"]) for team in shown))
    return html(
        "teams.html",
        refused.status if refused is not None else 200,
        visit=visit,
        here="teams",
        teams=list(map(_with_forecast, shown, spent)),
        next=None if find else page["next"],
        first=after is None,
        find=find,
        ended=ended,
        refused=refused,
        form=form,
        idempotency_key=secrets.token_hex(16),
    )


async def _spent(visit: Visit, team: str) -> dict[str, Any]:
    since = iso_time(time.time_ns() // 1_000_000 - _LOOK_BACK_MS)
    return await visit.api.get("/usage", team=team, by="key", step="day", **{"from": since})


def _with_forecast(team: dict[str, Any], spent: dict[str, Any]) -> dict[str, Any]:
    """Adds a team's bars, its spend per day, and when its balance ends at that rate."""
    balance = team["balance"]
    if team["fault"]:
        return {**team, "bars": limit_bars(team["limits"]), "set": values(team["limits"])}
    found = forecast(
        available=parse_usd(balance["available_usd"]),
        spent=parse_usd(spent["total"]["cost_usd"]),
        from_ms=_ms(spent["from"]),
        created_ms=_ms(team["created_at"]),
        now_ms=time.time_ns() // 1_000_000,
        expiring=[(_ms(lot["expires_at"]), parse_usd(lot["available_usd"])) for lot in balance["expiring"]],
    )
    # inexact, which is enough for the length of a bar
    granted, available = float(balance["granted_usd"]), float(balance["available_usd"])
    return {
        **team,
        "bars": limit_bars(team["limits"]),
        "set": values(team["limits"]),
        "left": min(1.0, max(0.0, round(available / granted, 4))) if granted > 0 else 0.0,
        "a_day_usd": format_usd(found.a_day),
        "ends_at": iso_time(found.ends_ms) if found.ends_ms and team["metered"] else None,
    }


def _ms(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000)
