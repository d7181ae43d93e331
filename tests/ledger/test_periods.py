"""Budgets of weeks, quarters and the last days, and periods in a team's time zone, on a store whose clock jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.accounts.calendars import CALENDAR
from gateway.accounts.entities import Changes
from gateway.accounts.limit_names import read_limit_name
from gateway.accounts.periods import NO_ANCHOR, Calendar, edges, zone_of
from gateway.accounts.serialization import limits_json
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.verification import verify
from gateway.store.keyspace import TeamKeys
from tests.support.effort import effort
from tests.support.ledgers import LedgerParts, ask, open_ledger, settled
from tests.support.servers import Server, valkey_server
from tests.support.shifted_clock import Clock, clock_of

HOUR_S: Final = 3600
DAY_S: Final = 86_400
ZONES: Final = ("", "Asia/Kolkata", "Europe/Berlin", "America/New_York", "Pacific/Chatham", "Australia/Lord_Howe")
LIMITS: Final = (
    *(
        f"budget_{unit}_{period}"
        for unit in ("usd", "tokens")
        for period in ("hour", "day", "week", "month", "quarter")
    ),
    "budget_usd_total",
    "budget_usd_1h",
    "budget_tokens_36h",
    "budget_usd_7d",
)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clock]:
    with clock_of(tmp_path_factory.mktemp("clock")) as clock:
        yield clock


@pytest.fixture(scope="module")
def moving(clock: Clock) -> Iterator[Server]:
    with valkey_server(binary=clock.program) as server:
        yield server


@pytest.fixture
async def parts(moving: Server, clock: Clock, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    clock.ahead_s = 0
    async with open_ledger(moving.url, tmp_path) as parts:
        yield parts
    clock.ahead_s = 0


async def now_ms(parts: LedgerParts) -> int:
    seconds, micros = await parts.store.run("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def refused_by(parts: LedgerParts, key: ApiKey, amount: int = 10, cost: int | None = None) -> GatewayError | None:
    """What refuses a request, or None; what is admitted is settled."""
    try:
        admission = await parts.ledger.admit(ask(key, amount))
    except GatewayError as error:
        return error
    await parts.ledger.settle(settled(admission.hold, cost=amount if cost is None else cost))
    return None


async def jump(parts: LedgerParts, clock: Clock, seconds: int) -> None:
    """Sets the clock, and returns when the server has looked at it: it keeps the time for some milliseconds."""
    before_ms = await now_ms(parts)
    clock.ahead_s += seconds
    while abs(await now_ms(parts) - before_ms - seconds * 1000) > 900:  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0.002)


async def jump_to(parts: LedgerParts, clock: Clock, at_ms: int) -> None:
    await jump(parts, clock, round((at_ms - await now_ms(parts)) / 1000))


def next_edge(name: str, at_ms: int, timezone: str = "", anchor: date = NO_ANCHOR) -> int:
    read = read_limit_name(name)
    assert read is not None
    return edges(read.period, zone_of(timezone), anchor, at_ms, at_ms)[1]


@pytest.mark.parametrize("timezone", ["", "Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("period", ["day", "week", "month", "quarter"])
async def test_a_period_ends_in_the_teams_time_zone(
    parts: LedgerParts, clock: Clock, period: str, timezone: str
) -> None:
    name = f"budget_usd_{period}"
    key = await parts.new_key()
    team = await parts.accounts.team(key.team_id)
    await parts.accounts.update_team(team, Changes(timezone=timezone, limits={name: 25}))
    assert [await refused_by(parts, key) for _ in range(2)] == [None, None]
    at_ms = await now_ms(parts)
    refused = await refused_by(parts, key)
    end_ms = next_edge(name, at_ms, timezone)
    assert refused is not None
    assert refused.explain["limit"] == name
    assert refused.wait_ms is not None
    assert abs(at_ms + refused.wait_ms - end_ms) < 2000
    await jump_to(parts, clock, end_ms - 5000)
    assert await refused_by(parts, key) is not None
    await jump_to(parts, clock, end_ms + 1000)
    assert [await refused_by(parts, key) for _ in range(2)] == [None, None]
    assert await refused_by(parts, key) is not None
    shown = limits_json(await parts.accounts.view(team), "team")[name]
    assert (shown["used_usd"], shown["remaining_usd"]) == ("0.00000002", "0.000000005")
    assert (await verify(parts.store, key.team_id)).differences == ()


async def test_a_month_begins_with_the_day_of_the_anchor(parts: LedgerParts, clock: Clock) -> None:
    anchor = date(2026, 11, 15)
    key = await parts.new_key(limits={"budget_usd_month": 25})
    team = await parts.accounts.team(key.team_id)
    await parts.accounts.update_team(team, Changes(timezone="Asia/Kolkata", anchor=anchor.isoformat()))
    for _ in range(2):
        at_ms = await now_ms(parts)
        assert [await refused_by(parts, key) for _ in range(2)] == [None, None]
        assert await refused_by(parts, key) is not None
        end_ms = next_edge("budget_usd_month", at_ms, "Asia/Kolkata", anchor)
        assert end_ms % (DAY_S * 1000) == 18.5 * HOUR_S * 1000, "midnight in India"
        await jump_to(parts, clock, end_ms + 1000)


@pytest.mark.parametrize("scope", ["team", "key"])
async def test_what_was_spent_in_the_last_days_leaves_a_rolling_budget(
    parts: LedgerParts, clock: Clock, scope: str
) -> None:
    limits = {"budget_usd_7d": 25}
    key = await parts.new_key(limits=limits if scope == "team" else {})
    if scope == "key":
        key = await parts.another_key(key.team_id, limits)
    slot_s = 7 * HOUR_S
    first_ms = await now_ms(parts)
    assert await refused_by(parts, key) is None
    await jump(parts, clock, 2 * DAY_S)
    assert await refused_by(parts, key) is None
    refused = await refused_by(parts, key)
    assert refused is not None
    assert refused.explain["limit"] == "budget_usd_7d"
    assert "in any 7 days" in refused.message
    assert refused.wait_ms is not None
    free_ms = await now_ms(parts) + refused.wait_ms
    assert 7 * DAY_S * 1000 <= free_ms - first_ms <= (7 * DAY_S + slot_s) * 1000
    await jump_to(parts, clock, free_ms - 5000)
    assert await refused_by(parts, key) is not None
    await jump_to(parts, clock, free_ms + 1000)
    assert await refused_by(parts, key) is None, "who waits as told is served"
    assert await refused_by(parts, key) is not None


async def test_a_settlement_counts_in_the_period_of_its_admission(parts: LedgerParts, clock: Clock) -> None:
    limits = {"budget_usd_week": 100, "budget_usd_24h": 100}
    key = await parts.new_key(limits=limits)
    hold = (await parts.ledger.admit(ask(key, amount=60))).hold
    other = (await parts.ledger.admit(ask(key, amount=10))).hold
    await parts.ledger.settle(settled(hold, cost=30))
    team = await parts.accounts.team(key.team_id)
    shown = limits_json(await parts.accounts.view(team), "team")
    assert {name: shown[name]["used_usd"] for name in limits} == dict.fromkeys(limits, "0.00000004")
    await jump_to(parts, clock, next_edge("budget_usd_week", await now_ms(parts)) + 8 * DAY_S * 1000)
    assert await refused_by(parts, key, amount=50) is None
    await parts.ledger.settle(settled(other, cost=7))
    shown = limits_json(await parts.accounts.view(team), "team")
    assert {name: shown[name]["used_usd"] for name in limits} == dict.fromkeys(limits, "0.00000005")


async def test_a_hold_that_is_voided_or_restored_is_counted_back_and_again(parts: LedgerParts) -> None:
    limits = {"budget_usd_week": 100, "budget_tokens_24h": 100}
    key = await parts.new_key(limits=limits)
    hold = (await parts.ledger.admit(ask(key, amount=60, tokens=20))).hold
    team = await parts.accounts.team(key.team_id)

    async def used() -> list[int]:
        return [rule.used for rule in (await parts.accounts.view(team)).team_rules]

    assert await used() == [60, 20]
    await parts.expire(key, hold.id)
    assert await used() == [0, 0]
    assert await hold_expiry.restore(parts.store, [hold], "60000") == 1
    assert await used() == [60, 20]
    await parts.ledger.settle(settled(hold, cost=5, tokens=3))
    assert await used() == [5, 3]


async def test_what_was_admitted_without_the_store_counts_in_every_period(parts: LedgerParts) -> None:
    limits = {"budget_usd_week": 100, "budget_usd_24h": 100, "budget_usd_day": 100}
    key = await parts.new_key(limits=limits)
    team = await parts.accounts.team(key.team_id)
    await parts.accounts.update_team(team, Changes(timezone="Asia/Kolkata"))
    hold = (await parts.ledger.admit(ask(key, amount=10))).hold
    await parts.ledger.settle(settled(hold, cost=10))
    late = hold._replace(id=parts.ledger.new_request_id(), counted="", unchecked_secret=key.secret_hash)
    await parts.ledger.settle(settled(late, cost=40))
    shown = limits_json(await parts.accounts.view(team), "team")
    assert {name: shown[name]["used_usd"] for name in limits} == dict.fromkeys(limits, "0.00000005")


async def test_a_limit_counts_from_when_it_is_set_and_keeps_its_count_while_it_changes(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"budget_usd_month": 1000})
    assert await refused_by(parts, key, amount=50) is None
    team = await parts.accounts.team(key.team_id)
    running = (await parts.ledger.admit(ask(key, amount=30))).hold
    team = await parts.accounts.update_team(team, Changes(limits={"budget_usd_week": 25}))
    assert await refused_by(parts, key, amount=20) is None
    await parts.ledger.settle(settled(running, cost=0))
    assert await refused_by(parts, key, amount=20) is not None, "what ran before gives nothing back"
    team = await parts.accounts.update_team(team, Changes(limits={"budget_usd_week": 45}))
    assert await refused_by(parts, key, amount=20) is None
    assert await refused_by(parts, key, amount=20) is not None
    team = await parts.accounts.update_team(team, Changes(timezone="Asia/Kolkata"))
    assert await refused_by(parts, key, amount=20) is not None, "a change of zone forgives nothing"
    shown = limits_json(await parts.accounts.view(team), "team")
    assert shown["budget_usd_month"]["used_usd"] == "0.00000009", "50, 20 and 20"
    team = await parts.accounts.update_team(team, Changes(limits={"budget_usd_week": None}))
    assert await refused_by(parts, key, amount=500) is None
    assert team.rules == '{"local":["day","month"],"zone":"Asia/Kolkata ","dated":true}'


async def test_a_calendar_that_came_too_late_is_not_stored(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"budget_usd_week": 100})
    team = await parts.accounts.team(key.team_id)
    await parts.accounts.update_team(team, Changes(timezone="Asia/Kolkata"))
    name, found = TeamKeys(team.id).team, Calendar.around(await now_ms(parts), "", "")
    assert await parts.store.call(CALENDAR, [name], ["", "", found.to_json()]) == 0
    assert await parts.store.run("HGET", name, "calendar") is None
    assert await parts.store.call(CALENDAR, [TeamKeys("nobody").team], ["", "", found.to_json()]) == 0
    assert await refused_by(parts, key) is None
    assert b"until_ms" in await parts.store.run("HGET", name, "calendar")


async def test_changes_at_once_lose_no_limit(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"budget_usd_week": 10})
    team = await parts.accounts.team(key.team_id)
    names = [f"budget_usd_{days}d" for days in range(1, 9)]
    await asyncio.gather(*(parts.accounts.update_team(team, Changes(limits={name: 50})) for name in names))
    stored = await parts.accounts.team(key.team_id)
    compiled = {rule[1]: rule[0] for rule in orjson.loads(stored.rules)["rules"]}
    assert set(compiled) == set(stored.limits) == {"budget_usd_week", *names}
    assert len(set(compiled.values())) == len(compiled), "each has an id of its own"
    with pytest.raises(GatewayError) as stale:
        await parts.accounts.update_team(team, Changes(limits={"budget_usd_9d": 50}), version=team.version)
    assert stale.value.code == "version_mismatch"


@dataclass
class Model:
    """What was counted: (admitted_ms, nano-USD, tokens), and since when."""

    timezone: str
    anchor: date
    since_ms: int
    counted: list[tuple[int, int, int]] = field(default_factory=list)

    def used(self, name: str, at_ms: int) -> int:
        read = read_limit_name(name)
        assert read is not None
        index = 1 if read.is_money else 2
        if read.rolling_hours:
            slot_ms = read.rolling_hours * HOUR_S * 1000 // 24
            from_ms = (at_ms // slot_ms - 24) * slot_ms
        elif read.period == "total":
            from_ms = 0
        elif read.period == "hour":
            from_ms = at_ms - at_ms % (HOUR_S * 1000)
        else:
            from_ms = edges(read.period, zone_of(self.timezone), self.anchor, at_ms, at_ms)[0]
        return sum(one[index] for one in self.counted if one[0] >= from_ms)


steps = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "jump", "edge"]),
        st.integers(1, 40),
        st.integers(1, 40),
        st.integers(0, 40 * DAY_S),
        st.sampled_from(LIMITS),
    ),
    min_size=4,
    max_size=16,
)


@given(
    timezone=st.sampled_from(ZONES),
    anchor=st.none() | st.dates(date(2026, 1, 1), date(2027, 12, 31)),
    limits=st.dictionaries(st.sampled_from(LIMITS), st.integers(20, 120), min_size=1, max_size=4),
    of_key=st.booleans(),
    steps=steps,
)
@settings(max_examples=effort(40))
def test_no_budget_is_exceeded_in_any_period_whenever_requests_come(
    moving: Server,
    clock: Clock,
    tmp_path: Path,
    timezone: str,
    anchor: date | None,
    limits: dict[str, int],
    of_key: bool,
    steps: list[tuple[str, int, int, int, str]],
) -> None:
    async def play() -> None:
        clock.ahead_s = 0
        async with open_ledger(moving.url, tmp_path) as parts:
            key = await parts.new_key(limits={} if of_key else limits)
            team = await parts.accounts.team(key.team_id)
            changes = Changes(timezone=timezone, anchor=anchor.isoformat() if anchor else "")
            await parts.accounts.update_team(team, changes)
            key = await parts.another_key(team.id, limits if of_key else {})
            model = Model(timezone, anchor or NO_ANCHOR, await now_ms(parts))
            for step in steps:
                await _play(parts, clock, key, limits, model, step)

    asyncio.run(play())
    clock.ahead_s = 0


async def _play(parts: LedgerParts, clock: Clock, key: ApiKey, limits: dict[str, int], model: Model, step: Any) -> None:
    kind, amount, tokens, seconds, near = step
    read = read_limit_name(near)
    assert read is not None
    if kind == "jump":
        await jump(parts, clock, seconds)
    elif kind == "edge" and read.period in ("day", "week", "month", "quarter"):
        at_ms = await now_ms(parts)
        edge_ms = edges(read.period, zone_of(model.timezone), model.anchor, at_ms, at_ms)[1]
        await jump_to(parts, clock, edge_ms + (1500 if seconds % 2 else -20_000))
    else:
        at_ms = await now_ms(parts)
        over = {
            name
            for name, limit in limits.items()
            if model.used(name, at_ms) + (amount if "usd" in name else tokens) > limit
        }
        request = ask(key, amount, tokens)
        if over:
            with pytest.raises(GatewayError) as refused:
                await parts.ledger.admit(request)
            assert refused.value.explain["limit"] in over
            return
        admission, cost = await parts.ledger.admit(request), min(amount, seconds % 50)
        model.counted.append((admission.hold.admitted_ms, cost, tokens))
        await parts.ledger.settle(settled(admission.hold, cost, tokens))
