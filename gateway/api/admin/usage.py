"""/admin/v1/usage: who used how much of what, by the hour or the day; the ledger's own figures.

from, to   widened to whole steps; by default the last 24 hours, or with step=day the last 30 days
by         model, key or team: what a row is about; without it, one row a step
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request

from gateway.api.admin.access import team_asked
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.pages import Since, Until, every_team_id, moment_ms
from gateway.api.callers import services_of
from gateway.errors import GatewayError
from gateway.ledger.accounts import Accounts
from gateway.ledger.rollups import Used, used
from gateway.ledger.shapes import time_shape
from gateway.money import format_usd

router = APIRouter(route_class=GuardedRoute)

HOUR_MS: Final = 3_600_000
STEP_MS: Final[Mapping[str, int]] = MappingProxyType({"hour": HOUR_MS, "day": 24 * HOUR_MS})
_DEFAULT_STEPS: Final[Mapping[str, int]] = MappingProxyType({"hour": 24, "day": 30})
MAX_ROWS: Final = 20_000
By = Annotated[Literal["model", "key", "team"] | None, Query(description="What a row is about")]


@dataclass(slots=True)
class _Sum:
    """State that changes: all of it."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0

    def add(self, row: Used) -> None:
        self.requests += row.requests
        self.input_tokens += row.input_tokens
        self.cached_input_tokens += row.cached_input_tokens
        self.output_tokens += row.output_tokens
        self.cost += row.cost

    def shape(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": format_usd(self.cost),
        }


@router.get("/usage")
async def show_usage(
    request: Request,
    team: str | None = None,
    by: By = None,
    since: Since = None,
    until: Until = None,
    step: Literal["hour", "day"] = "hour",
) -> dict[str, Any]:
    """Usage of a team, or of all. Raises GatewayError `invalid_field` for more than can be read at once."""
    services = services_of(request)
    owner = await team_asked(request, team)
    ids = [owner.id] if owner is not None else [known async for known in every_team_id(services.accounts)]
    from_ms, to_ms = _period(since, until, step)
    rows: dict[tuple[int, str, str], _Sum] = {}
    totals: dict[tuple[str, str], _Sum] = {}
    total = _Sum()
    async for row in used(services.store, ids, from_ms, to_ms):
        start = row.hour_ms // STEP_MS[step] * STEP_MS[step]
        group = _group(row, by)
        rows.setdefault((start, *group), _Sum()).add(row)
        totals.setdefault(group, _Sum()).add(row)
        total.add(row)
        if len(rows) > MAX_ROWS:
            raise GatewayError("invalid_field", "That is too much at once: ask for a shorter time.", param="from")
    names = await _names(services.accounts, totals, by)
    return {
        "object": "usage",
        "team_id": owner.id if owner else None,
        "by": by,
        "step": step,
        "from": time_shape(from_ms),
        "to": time_shape(to_ms),
        "total": total.shape(),
        "groups": [
            {**names[group], **totals[group].shape()} for group in sorted(totals, key=lambda g: -totals[g].cost)
        ],
        "data": [
            {"start": time_shape(start), **names[team_id, what], **rows[start, team_id, what].shape()}
            for start, team_id, what in sorted(rows)
        ],
    }


def _period(since: str | None, until: str | None, step: str) -> tuple[int, int]:
    width = STEP_MS[step]
    to_ms = -(-moment_ms(until, "to", time.time_ns() // 1_000_000) // width) * width
    from_ms = moment_ms(since, "from", max(0, to_ms - _DEFAULT_STEPS[step] * width)) // width * width
    if from_ms > to_ms:
        raise GatewayError("invalid_field", "from must not lie after to.", param="from")
    return from_ms, to_ms


def _group(row: Used, by: str | None) -> tuple[str, str]:
    """(team id, what a row is about); "" where it is not of one team."""
    if by == "model":
        return "", row.model
    if by == "key":
        return row.team_id, row.key_id
    return (row.team_id, "") if by == "team" else ("", "")


async def _names(
    accounts: Accounts, groups: Mapping[tuple[str, str], object], by: str | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """What names a group in its rows: its model, or ids with the names of now (null for what is gone)."""
    out: dict[tuple[str, str], dict[str, Any]] = {}
    for team_id, what in groups:
        if by == "model":
            out[team_id, what] = {"model": what}
        elif by is None:
            out[team_id, what] = {}
        else:
            team = await accounts.team(team_id)
            named: dict[str, Any] = {"team_id": team_id, "team": team.name}
            if by == "key":
                try:
                    label = (await accounts.key(team, what)).name
                except GatewayError:
                    label = None
                named |= {"key_id": what, "key": label}
            out[team_id, what] = named
    return out
