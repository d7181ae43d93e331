"""/admin/v1/usage: who used how much of which model, by the hour or the day. The figures are the ledger's own.

For one team, days and times are those of its time zone. For all teams, a row adds up each team's own day.

from, to   rounded outwards to whole steps; the default is the last 24 hours, or the last 30 days with step=day
by         groups rows: model, key, team, user (end users) or tag:NAME; without it, one row per step
limit      the number of groups that are listed, the most expensive first; `others` adds up all the rest, or is null

Besides usage: `outcomes` of admitted requests, `refused` and `refusals` by reason, and the durations of settled
requests. `total_ms` is the time to the end, and `first_byte_ms` the time to the first byte of streams; each is
{requests, median, p95}. Durations come from fixed buckets (latency_buckets.py) and differ from the exact values by at
most a third. They are not counted by key, tag or end user.

Usage by tag and by end user is kept by day. `kind` of a group is `value`, `none` (requests without a value) or `other`
(values beyond `attribution.max_values` of the day). Together the groups are the usage of all requests.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple, cast

from fastapi import APIRouter, Query, Request, Response

from gateway.accounts.accounts import Accounts, Team
from gateway.accounts.periods import zone_of
from gateway.api.admin.access import team_asked
from gateway.api.admin.answers import large_answer
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.query_parameters import Since, Until, every_team_id, moment_ms
from gateway.api.admin.usage_totals import MAX_ROWS, By, Group, UsageSum, UsageTotals
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError
from gateway.protocol.attribution import END_USER, TAG
from gateway.reporting.attributed_usage import NONE, OTHER, Sums, by_value, tag_names
from gateway.reporting.outcome_rollups import OutcomeCounts
from gateway.reporting.report_steps import ReportSteps
from gateway.reporting.usage_rollups import UsageRow, rolled_up
from gateway.store import keyspace
from gateway.store.keyspace import Step
from gateway.store.replies import gather
from gateway.store.store import Store
from gateway.worker.services import Services

router = APIRouter(route_class=GuardedRoute)

MAX_READS: Final = 450_000
"""The largest product of steps and teams:

10,000 teams for six weeks of days. A month of them takes one core about four seconds.
"""
_BY: Final = r"^(model|key|team|user|tag:[A-Za-z0-9_.-]{1,64})$"
_WITH_OUTCOMES: Final = (None, "model", "team")
_DEFAULT_STEPS: Final[Mapping[str, int]] = MappingProxyType({"hour": 24, "day": 30})


@router.get("/usage", response_model=dict[str, Any])
async def show_usage(
    request: Request,
    team: str | None = None,
    by: Annotated[
        str | None, Query(pattern=_BY, description="What a row is about: model, key, team, user or tag:NAME")
    ] = None,
    since: Since = None,
    until: Until = None,
    step: Annotated[Step | None, Query(description="The width of a step of time; by tag and user: day")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS, description="How many groups are listed separately")] = MAX_ROWS,
) -> Response:
    """`total` of the period, its `groups`, the most expensive first, and `data`: one row per step and group."""
    services = services_of(request)
    owner = await team_asked(request, team)
    about = _about(by)
    step = _step(step, about)
    steps = ReportSteps(step, zone_of(owner.timezone if owner is not None else ""))
    starts = _period(since, until, steps, await _now_ms(services.store))
    ahead = until is None and owner is None and step == "day"  # another time zone may already have the next day
    starts = range(starts.start, starts.stop + steps.width_ms * ahead, steps.width_ms)
    await _refuse_too_much(services.accounts, owner, starts)
    with_outcomes = about.by in _WITH_OUTCOMES
    totals = UsageTotals(about.by, limit)
    teams = _one(owner) if owner is not None else every_team_id(services.accounts)
    async for row in _rows(services.store, teams, starts, step, about):
        totals.add(row)
    totals.end()
    if ahead and not totals.has_step(starts[-1]):
        starts = starts[:-1]
    order = totals.order()
    names = dict(zip(order, await _names(services, order, about), strict=True))
    body = {
        "object": "usage",
        "team_id": owner.id if owner else None,
        "by": by,
        "step": step,
        "timezone": getattr(steps.zone, "key", "UTC"),
        "from": steps.begin(starts.start),
        "to": steps.begin(starts.stop),
        "total": totals.total.to_json(with_outcomes=with_outcomes),
        "groups": (
            {**names[group], **totals.groups[group].total.to_json(with_outcomes=with_outcomes)} for group in order
        ),
        "others": _others_json(totals, steps, with_outcomes=with_outcomes) if totals.merged else None,
        "data": (
            {"start": steps.begin(start_ms), **names[group], **found.to_json(with_outcomes=with_outcomes)}
            for start_ms, group, found in totals.rows()
        ),
    }
    return await large_answer(services.store, body, "groups", "data")


class _About(NamedTuple):
    """By what rows are grouped. `name`: the ledger's name of it, if it has values. `tag`: the name of a tag."""

    by: By | None
    name: str = ""
    tag: str = ""


def _about(by: str | None) -> _About:
    if by == "user":
        return _About("value", END_USER)
    if by is not None and by.startswith("tag:"):
        tag = by.removeprefix("tag:")
        return _About("value", TAG + tag, tag)
    return _About(cast("By | None", by))


def _step(step: Step | None, about: _About) -> Step:
    if about.name and step == "hour":
        raise GatewayError("invalid_field", "Usage by tag and by end user is kept by day.", param="step")
    return step or ("day" if about.name else "hour")


def _rows(
    store: Store, teams: AsyncIterator[str], starts: Sequence[int], step: Step, about: _About
) -> AsyncIterator[UsageRow | OutcomeCounts]:
    if about.name:
        return by_value(store, teams, starts, about.name)
    return rolled_up(store, teams, starts, step, with_outcomes=about.by in _WITH_OUTCOMES)


@router.get("/usage/tags")
async def list_tags(request: Request, team: str | None = None, since: Since = None, until: Until = None) -> Any:
    """The names of tags in a period, by default of the last 30 days, the most expensive first.

    `values` is how many the name had on the day with most. `name` is null for names that were too many for a day to
    tell apart (`attribution.max_names`).
    """
    services = services_of(request)
    owner = await team_asked(request, team)
    steps = ReportSteps("day", zone_of(owner.timezone if owner is not None else ""))
    starts = _period(since, until, steps, await _now_ms(services.store))
    await _refuse_too_much(services.accounts, owner, starts)
    teams = _one(owner) if owner is not None else every_team_id(services.accounts)
    found = await tag_names(services.store, teams, starts)
    order = sorted(found.items(), key=lambda pair: (-pair[1].sums[-1], pair[0]))
    data = [
        {
            "name": None if name == OTHER else name,
            "values": use.values,
            **_sums_json(use.sums),
        }
        for name, use in order
    ]
    return {
        "object": "list",
        "from": steps.begin(starts.start),
        "to": steps.begin(starts.stop),
        "data": data,
        "next": None,
    }


def _sums_json(sums: Sums) -> dict[str, Any]:
    requests, read, cached, made, cost = sums
    return UsageSum(requests, read, cached, made, cost).to_json(with_outcomes=False)


def _others_json(totals: UsageTotals, steps: ReportSteps, *, with_outcomes: bool) -> dict[str, Any]:
    others = totals.others
    return {
        "groups": totals.merged,
        **others.total.to_json(with_outcomes=with_outcomes),
        "data": [
            {"start": steps.begin(start_ms), **others.steps[start_ms].to_json(with_outcomes=with_outcomes)}
            for start_ms in sorted(others.steps)
        ],
    }


async def _now_ms(store: Store) -> int:
    """Returns the later time of this machine and the store, by whose clock requests count: it may be ahead."""
    seconds, micros = (await gather([store.run("TIME", key=keyspace.ADMINS)]))[0]
    return max(time.time_ns() // 1_000_000, int(seconds) * 1000 + int(micros) // 1000)


def _period(since: str | None, until: str | None, steps: ReportSteps, now_ms: int) -> range:
    """Returns the labels of the steps."""
    width = steps.width_ms
    to = steps.label_from(moment_ms(until, "to", now_ms, steps.zone))
    start = max(0, to - _DEFAULT_STEPS[steps.step] * width)
    if since is not None:
        start = steps.label(moment_ms(since, "from", 0, steps.zone))
    if start > to:
        raise GatewayError("invalid_field", "from: must not lie after the end.", param="from")
    return range(start, to, width)


async def _refuse_too_much(accounts: Accounts, owner: Team | None, starts: Sequence[int]) -> None:
    teams = 1 if owner is not None else await accounts.count()
    if len(starts) * teams > MAX_READS:
        asked = f"{len(starts)} steps of {teams} teams"
        raise GatewayError(
            "invalid_field",
            f"{asked} exceed what one query may read: ask for a shorter time, step=day or one team.",
            param="from",
        )


async def _one(team: Team) -> AsyncIterator[str]:
    yield team.id


async def _names(services: Services, groups: Sequence[Group], about: _About) -> list[dict[str, Any]]:
    """Returns the fields that name each group: its model, or ids with their present names (null if deleted)."""
    by = about.by
    if by is None:
        return [{} for _ in groups]
    if by == "model":
        return [{"model": model} for _, model in groups]
    teams = await services.accounts.names([(team_id, None) for team_id, _ in groups])
    named = [{"team_id": team_id, "team": name} for (team_id, _), name in zip(groups, teams, strict=True)]
    if by == "team":
        return named
    if by == "value":
        return [{**row, **_value_json(value, about)} for row, (_, value) in zip(named, groups, strict=True)]
    keys = await services.accounts.names(groups)
    return [{**row, "key_id": key_id, "key": name} for row, (_, key_id), name in zip(named, groups, keys, strict=True)]


_KINDS: Final[Mapping[str, str]] = MappingProxyType({NONE: "none", OTHER: "other"})


def _value_json(value: str, about: _About) -> dict[str, Any]:
    """Returns the fields that name a value of a tag or an end user."""
    shown = {"kind": _KINDS.get(value, "value"), "value": None if value in _KINDS else value}
    return {"tag": about.tag, **shown} if about.tag else shown
