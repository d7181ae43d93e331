"""/admin/v1/teams/{team}/journal and /admin/v1/ledger/verify."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response

from gateway.accounts.accounts import Page
from gateway.accounts.serialization import time_json
from gateway.api.admin.answers import page_answer
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.query_parameters import After, Limit, Since, Until, moment_ms
from gateway.api.admin.request_models import ArchivedPart
from gateway.api.admin.serialization import entry_json, entry_line, verification_json
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError
from gateway.ledger.archived import Part, archive
from gateway.ledger.journal import Journal, check_cursor
from gateway.ledger.missing import find_missing
from gateway.ledger.verification import verify

router = APIRouter(route_class=GuardedRoute)
_NO_END: Final = 10**15
Type = Literal["grant", "adjust", "lapse", "settle", "void", "expire", "attempt"]


@router.get("/teams/{team}/journal", response_model=dict[str, Any])
async def list_entries(
    request: Request,
    team: str,
    limit: Limit = 100,
    after: After = None,
    since: Since = None,
    until: Until = None,
    type_: Annotated[Type | None, Query(alias="type", description="Entries of one type; pages may be short")] = None,
    order: Annotated[Literal["oldest", "newest"], Query(description="Which come first")] = "oldest",
) -> Response:
    """The journal's entries of a period."""
    services = services_of(request)
    check_cursor(after)
    owner = await services.accounts.team(team)
    page = await Journal(services.store).entries(
        owner.id,
        limit=limit,
        after=after,
        from_ms=moment_ms(since, "from", 0),
        to_ms=moment_ms(until, "to", _NO_END),
        type_=type_,
        newest=order == "newest",
    )
    return await page_answer(services.store, map(entry_json, page.data), page)


@router.post("/teams/{team}/journal/archived", response_model=dict[str, Any])
async def archive_entries(request: Request, team: str, body: ArchivedPart) -> dict[str, Any]:
    """Takes the oldest entries out of a journal, if a file has exactly these lines; their sums are carried forward.

    A line is an entry with its fields in alphabetical order, without spaces, and a line feed. What is younger than
    `ledger.resolution_ttl_s` stays.
    """
    services = services_of(request)
    owner = await services.accounts.team(team)
    youngest_ms = time.time_ns() // 1_000_000 - services.settings.ledger.resolution_ttl_s * 1000
    if int(body.through.partition("-")[0]) >= youngest_ms:
        until = time_json(youngest_ms)
        raise GatewayError("invalid_field", f"through: entries since {until} are still needed.", param="through")
    part = Part(body.through, body.entries, body.digest)
    count = await archive(services.store, owner.id, part, entry_line)
    return {"object": "archived", "team_id": owner.id, "through": body.through, "entries": count}


@router.get("/ledger/verify", response_model=dict[str, Any])
async def verify_ledger(request: Request, team: str | None = None, limit: Limit = 100, after: After = None) -> Response:
    """Recomputes balances from the journal, for one team or page by page for all.

    `ok` is true if all of this page agree. The first page of all teams names those that are gone, too.
    """
    services = services_of(request)
    accounts = services.accounts
    page = await accounts.teams(limit, after, ended=True) if team is None else Page((await accounts.team(team),), None)
    found = [(owner.name, await verify(services.store, owner.id)) for owner in page.data]
    if team is None and after is None:
        found += await find_missing(services.store)
    rows = (verification_json(name, verification) for name, verification in found)
    return await page_answer(services.store, rows, page, ok=all(verification.ok for _, verification in found))
