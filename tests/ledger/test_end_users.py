"""Limits of each end user by itself: what counts, who is refused, that nobody passes them, and nobody else pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.accounts.entities import Changes
from gateway.accounts.limit_names import END_USER, OF_EACH_END_USER, is_limit
from gateway.accounts.overrides import Override
from gateway.ledger import hold_expiry
from gateway.ledger.admissions import AdmissionRefused, hold_of
from gateway.ledger.settlement_call import SETTLE, SettlementCalls
from gateway.ledger.verification import verify
from gateway.protocol.attribution import NOBODY
from gateway.store.keyspace import TeamKeys
from tests.support.end_users import ANA, BOB, EVE, ask, entries, refused
from tests.support.ledgers import LedgerParts, open_ledger, policy, settled, voided
from tests.support.servers import Server
from tests.support.stopped_clock import START_MS, Bench


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path) as parts:
        yield parts


@pytest.mark.parametrize("scope", ["team", "key"])
@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("rpm", 2, "rate_limit_exceeded"),
        ("tpm", 5, "rate_limit_exceeded"),
        ("concurrency", 2, "concurrency_exceeded"),
        ("budget_usd_day", 25, "insufficient_quota"),
        ("budget_usd_7d", 25, "insufficient_quota"),
        ("budget_tokens_hour", 5, "insufficient_quota"),
        ("budget_tokens_month@a/*", 5, "insufficient_quota"),
    ],
)
async def test_each_end_user_is_limited_by_itself(
    parts: LedgerParts, scope: str, name: str, value: int, code: str
) -> None:
    limits = {END_USER + name: value}
    key = await parts.new_key(limits=limits if scope == "team" else {})
    key = await parts.another_key(key.team_id, limits if scope == "key" else {})
    other = await parts.another_key(key.team_id)
    for user in (BOB, EVE, BOB, EVE):
        await parts.ledger.admit(ask(key, user))
    error = await refused(parts, ask(key, BOB))
    assert error.code == code
    assert (error.explain["limit"], error.explain["scope"]) == (name.partition("@")[0], "end_user")
    assert error.message.startswith("This end user ")
    await refused(parts, ask(key, EVE))
    await parts.ledger.admit(ask(key, ANA))
    if scope == "team":
        await refused(parts, ask(other, BOB))
    else:
        await parts.ledger.admit(ask(other, BOB))
    if "@" in name:
        await parts.ledger.admit(ask(key, BOB, model="b/one"))
    assert (await verify(parts.store, key.team_id)).differences == ()


async def test_requests_that_name_nobody_are_one_end_user_or_refused(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"end_user.rpm": 1})
    await parts.ledger.admit(ask(key, NOBODY))
    assert (await refused(parts, ask(key, NOBODY))).explain["scope"] == "end_user"
    error = await refused(parts, ask(key, ""))
    assert (error.code, error.status, error.param) == ("missing_field", 400, "safety_identifier")
    await parts.ledger.admit(ask(key, BOB))
    for limits in ({}, {"end_user.rpm@b/*": 1}):  # where there are no such limits, nobody has to say
        await parts.ledger.admit(ask(await parts.new_key(limits=limits), ""))


async def test_rates_that_are_told_are_those_of_the_end_user_where_least_is_left(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"rpm": 100, "end_user.rpm": 10})
    for left in (9, 8):
        rates = (await parts.ledger.admit(ask(key, BOB))).rates
        assert (rates.requests_limit, rates.requests_left) == (10, left)
    assert (await parts.ledger.admit(ask(key, EVE))).rates.requests_left == 9


async def test_settling_gives_back_what_was_held_for_the_end_user_alone(parts: LedgerParts) -> None:
    key = await parts.new_key(
        limits={"end_user.concurrency": 1, "end_user.budget_usd_day": 30, "end_user.tpm": 1000, "tpm": 10_000}
    )

    async def used(user: str) -> dict[int, int]:
        _, running, meters = (await entries(parts, key))[user]
        found = {meter[0]: meter[1] for meter in meters.values() if isinstance(meter, list)}
        return {0: running, 1: found[3], 2: found[4], 3: -(-found[2] // 60_000)}

    hold = (await parts.ledger.admit(ask(key, BOB, amount=30, tokens=500))).hold
    await parts.ledger.admit(ask(key, EVE, amount=5, tokens=7))
    assert await used(BOB) == {0: 1, 1: 1, 2: 30, 3: 500}
    await parts.ledger.settle(settled(hold, cost=12, tokens=100))
    assert await used(BOB) == {0: 0, 1: 0, 2: 12, 3: 100}
    hold = (await parts.ledger.admit(ask(key, BOB, amount=18, tokens=500))).hold
    await parts.ledger.settle(voided(hold))
    assert (await used(BOB))[2] == 12
    hold = (await parts.ledger.admit(ask(key, BOB, amount=10))).hold
    await parts.expire(key, hold.id)
    assert (await used(BOB))[0] == (await used(BOB))[1] == 0
    assert await hold_expiry.restore(parts.store, [hold], "60000") == 1
    assert (await used(BOB))[0] == (await used(BOB))[1] == 1
    assert (await used(EVE))[0] == (await used(EVE))[1] == 1
    assert (await used(EVE))[2] == 5
    assert (await verify(parts.store, key.team_id)).differences == ()


async def test_a_dead_worker_s_end_users_get_their_slots_back(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"end_user.concurrency": 1})
    request = ask(key, BOB)
    await parts.ledger.admit(request)
    await refused(parts, ask(key, BOB))
    assert await hold_expiry.reclaim(parts.store, request.request_id) == 1
    await parts.ledger.admit(ask(key, BOB))


async def test_an_admission_whose_reply_was_lost_is_given_back_to_its_end_user(parts: LedgerParts) -> None:
    """Its hold names meters that the worker was never told."""
    key = await parts.new_key(limits={"end_user.concurrency": 1})
    request = ask(key, BOB)
    await parts.ledger.admit(request)
    await parts.ledger.settle(voided(hold_of(request, 0)))
    await parts.ledger.admit(ask(key, BOB))


async def test_a_team_without_such_limits_sends_nothing_for_them(parts: LedgerParts) -> None:
    hold = (await parts.ledger.admit(ask(await parts.new_key(limits={"rpm@a/*": 9}), BOB))).hold
    assert (hold.counted != "", hold.end_user) == (True, "")


async def test_a_cost_whose_hold_is_gone_counts_in_the_end_user_s_budget(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"end_user.budget_usd_day": 30, "end_user.budget_usd_day@b/*": 1})
    hold = (await parts.ledger.admit(ask(key, BOB))).hold
    await parts.expire(key, hold.id)
    await parts.ledger.settle(settled(hold, cost=25))
    await refused(parts, ask(key, BOB, amount=6))
    await parts.ledger.admit(ask(key, BOB, amount=5))
    await parts.ledger.admit(ask(key, EVE, amount=30))


async def test_a_line_of_the_spool_from_before_end_users_is_posted(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"end_user.concurrency": 1})
    hold = (await parts.ledger.admit(ask(key, BOB))).hold
    keys, args = SettlementCalls(policy()).call(settled(hold, cost=5))
    assert keys.pop() == TeamKeys(key.team_id).end_users
    parts.spool.add("settle_v7", keys, args[:28])
    await parts.ledger.flush()
    books = await parts.books(key)
    books.check()
    assert books.spent == 5


async def test_an_idempotency_key_and_a_response_keep_their_places_beside_an_end_user(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"end_user.concurrency": 3})
    names, at_ms = TeamKeys(key.team_id), 0
    tags = "3 2 86400000\nt:project=alpha"
    for number, (mark, tagged) in enumerate([(None, ""), ("m1", ""), (None, tags), ("m2", tags)]):
        hold = (await parts.ledger.admit(ask(key, BOB, idempotency_key=mark, tags=tagged))).hold
        at_ms = hold.admitted_ms
        keys, args = SettlementCalls(policy()).call(settled(hold, cost=1))
        response = names.response(f"resp_{number}")
        await parts.store.call(SETTLE, [*keys, response], [*args, "made", "60000"])
        assert await parts.store.run("GET", response) == b"made"
        if mark:
            kept = await parts.store.run("GET", names.idempotency_key(key.key_id, mark))
            assert kept == f"{hold.id} settled".encode()
    assert (await entries(parts, key))[BOB][1] == 0
    assert await parts.store.run("HGET", names.attributed(at_ms), "t:project=alpha") == b"2 0 0 4 2"


async def test_so_many_end_users_are_counted_at_a_time_and_those_who_are_done_make_room(
    store: Server, tmp_path: Path
) -> None:
    async with open_ledger(store.url, tmp_path, max_end_users=2) as parts:
        key = await parts.new_key(limits={"end_user.rpm": 60_000, "end_user.concurrency": 5})
        holds = [(await parts.ledger.admit(ask(key, user))).hold for user in (BOB, EVE)]
        error = await refused(parts, ask(key, ANA))
        assert (error.code, error.explain["limit"], error.explain["limit_value"]) == (
            "rate_limit_exceeded",
            "max_end_users",
            2,
        )
        await parts.ledger.admit(ask(key, BOB))
        await parts.ledger.settle(settled(holds[1], cost=1))
        for _ in range(1000):  # a bucket of 60,000 a minute has drained within a moment
            try:
                await parts.ledger.admit(ask(key, ANA))
                break
            except AdmissionRefused:
                await asyncio.sleep(0)
        assert set(await entries(parts, key)) == {BOB, ANA}, "of those who are done, one that runs stays"


async def test_what_is_counted_is_kept_until_no_period_counts_it(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"end_user.rpm": 10})
    name = TeamKeys(key.team_id).end_users
    await parts.ledger.admit(ask(key, BOB))
    week_ms = 7 * 86_400_000
    assert week_ms - 86_400_000 < await parts.store.run("PTTL", name) <= week_ms + 60_000
    team = await parts.accounts.team(key.team_id)
    await parts.accounts.update_team(team, Changes(limits={"end_user.budget_usd_30d": 100}))
    await parts.ledger.admit(ask(key, BOB))
    assert await parts.store.run("PTTL", name) > 30 * 86_400_000


async def test_the_counters_of_end_users_who_come_one_after_another_expire(bench: Bench) -> None:
    key = await bench.one.new_key(limits={"end_user.rpm": 60})
    for number, user in enumerate((BOB, EVE, ANA)):
        await bench.at(START_MS + number * 61_000)
        admission = await bench.one.ledger.admit(ask(key, user))
        assert await bench.one.store.run("PTTL", TeamKeys(key.team_id).end_users) > 0
        await bench.one.ledger.settle(settled(admission.hold, 1, 1))
        assert list(await entries(bench.one, key)) == [user]


async def test_one_end_user_waits_in_the_queue_behind_nobody_else(parts: LedgerParts) -> None:
    limits = {"end_user.concurrency": 1, "queue_s": 30, "queue_length": 10}
    key = await parts.new_key(limits=limits)
    hold = (await parts.ledger.admit(ask(key, BOB))).hold
    waiting = ask(key, BOB, waits=True)
    assert (await refused(parts, waiting)).queue_s == 30
    assert await parts.store.run("HLEN", TeamKeys(key.team_id).queue) == 1
    await parts.ledger.admit(ask(key, EVE, waits=True))
    later = ask(key, BOB, waits=True)
    assert (await refused(parts, later)).ahead == 1
    await parts.ledger.settle(settled(hold, cost=1))
    assert (await refused(parts, later)).explain["limit"] == "queue_length"
    await parts.ledger.admit(waiting)


async def test_an_end_user_s_limit_may_hold_for_a_while(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"end_user.concurrency": 1})
    team = await parts.accounts.team(key.team_id)
    until_ms = 4_102_444_800_000
    await parts.accounts.update_team(team, Changes(overrides={"end_user.concurrency": Override(2, until_ms)}))
    for _ in range(2):
        await parts.ledger.admit(ask(key, BOB))
    await refused(parts, ask(key, BOB))


@pytest.mark.parametrize("name", [*OF_EACH_END_USER, "end_user.budget_usd_7d", "end_user.rpm@openai/*"])
def test_there_are_limits_of_each_end_user(name: str) -> None:
    assert is_limit(name)


@pytest.mark.parametrize(
    "name", ["budget_usd_total", "queue_s", "queue_length", "max_output_tokens", "end_user.rpm", "nothing", ""]
)
def test_there_is_no_limit_of_an_end_user_that_never_ends_or_has_no_meaning(name: str) -> None:
    assert not is_limit(END_USER + name)


MISCOUNT = """
local until_ms, running, meters = cmsgpack.unpack(redis.call('HGET', KEYS[1], ARGV[1]))
for _, meter in pairs(meters) do
  if type(meter) == 'table' and meter[1] == 3 then meter[2] = meter[2] + 1 end
end
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(until_ms, running - 1, meters))
"""


@pytest.mark.parametrize("of_key", [False, True], ids=["team", "key"])
async def test_verification_compares_what_runs_for_each_end_user_with_the_holds(
    parts: LedgerParts, store: Server, of_key: bool
) -> None:
    limits = {"end_user.concurrency": 9, "end_user.rpm@a/*": 9}
    key = await parts.new_key(limits={} if of_key else limits)
    key = await parts.another_key(key.team_id, limits if of_key else {})
    for user in (BOB, BOB, EVE):
        await parts.ledger.admit(ask(key, user))
    assert (await verify(parts.store, key.team_id)).differences == ()
    name = TeamKeys(key.team_id).end_users
    field = f"{key.key_id}:{BOB}" if of_key else BOB
    store.run("EVAL", MISCOUNT, 1, name, field)
    found = {one.name: (one.expected, one.found) for one in (await verify(parts.store, key.team_id)).differences}
    (rule,) = (one for one in found if " " in one)
    assert found == {f"end_user:{field}": (2, 1), rule: (2, 3)}
    assert rule.startswith(f"end_user:{field} ")
    store.run("HSET", name, field, "x")
    found = {one.name: (one.expected, one.found) for one in (await verify(parts.store, key.team_id)).differences}
    assert found[f"end_user:{field}"][0] == 2
    store.run("HDEL", name, field)
    found = {one.name: (one.expected, one.found) for one in (await verify(parts.store, key.team_id)).differences}
    assert found == {f"end_user:{field}": (2, 0)}
    store.run("DEL", name)
    store.run("SET", name, "another type")
    assert [one.name for one in (await verify(parts.store, key.team_id)).differences] == ["unreadable:end-users"]
    store.run("DEL", name)


async def test_verification_reads_many_end_users_page_by_page(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"end_user.concurrency": 9})
    users = [f"{number:032x}" for number in range(900)]
    for start in range(0, len(users), 100):  # all at once, the last one would wait for longer than a call may
        await asyncio.gather(*(parts.ledger.admit(ask(key, user)) for user in users[start : start + 100]))
    assert (await verify(parts.store, key.team_id)).differences == ()
