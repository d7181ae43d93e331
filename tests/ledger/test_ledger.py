"""Holds: reserved whole or not at all, resolved once, renewed while their request runs; on every kind of store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.settlement_call import Resolution
from gateway.store.keyspace import REAPER_LOCK, WITHOUT_TTL, TeamKeys
from tests.support.ledgers import LedgerParts, ask, kept_up, open_ledger, settled, voided
from tests.support.servers import STORES, binary_of, leaked_keys, valkey_cluster, valkey_sentinel, valkey_server
from tests.support.waiting import wait_until, wait_until_found


@pytest.fixture(scope="module", params=[*STORES, "cluster", "sentinel"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cluster":
        with valkey_cluster() as cluster:
            yield cluster.url
    elif request.param == "sentinel":
        with valkey_sentinel(down_after_ms=60_000) as group:
            yield group.url
    else:
        with valkey_server(binary=binary_of(request.param)) as server:
            yield server.url


@pytest.fixture
async def parts(store_url: str, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store_url, tmp_path) as parts:
        yield parts


async def test_a_hold_moves_credits_from_available_to_held_and_its_cost_to_spent(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    admission = await parts.ledger.admit(ask(key, amount=30))
    books = await parts.books(key)
    assert (books.granted, books.available, books.held, books.spent) == (100, 70, 30, 0)
    assert await parts.ledger.settle(settled(admission.hold, cost=12)) == (88, Resolution.APPLIED)
    books = await parts.books(key)
    books.check()
    assert (books.granted, books.available, books.held, books.spent) == (100, 88, 0, 12)


async def test_a_refused_request_reserves_nothing_of_anything(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=5, limits={"rpm": 5, "tpm": 100, "concurrency": 5, "budget_tokens_day": 100})
    before = (await parts.books(key)).state
    with pytest.raises(GatewayError, match="may cost up to"):
        await parts.ledger.admit(ask(key, amount=6))
    assert (await parts.books(key)).state == before
    assert parts.ledger.open_holds == 0


async def test_a_void_gives_everything_back(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100, limits={"concurrency": 1})
    for _ in range(3):
        admission = await parts.ledger.admit(ask(key, amount=100))
        assert await parts.ledger.settle(voided(admission.hold)) == (100, Resolution.APPLIED)
    (await parts.books(key)).check()


async def test_a_replay_changes_nothing_and_a_different_resolution_is_a_conflict(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key))).hold
    assert await parts.ledger.settle(settled(hold, cost=7)) == (93, Resolution.APPLIED)
    books = await parts.books(key)
    assert await parts.ledger.settle(settled(hold, cost=7)) == (93, Resolution.REPLAYED)
    assert await parts.ledger.settle(settled(hold, cost=8)) == (93, Resolution.CONFLICT)
    assert await parts.ledger.settle(voided(hold)) == (93, Resolution.CONFLICT)
    assert await parts.books(key) == books
    assert parts.ledger.resolutions == {Resolution.APPLIED: 1, Resolution.REPLAYED: 1, Resolution.CONFLICT: 2}


async def test_a_cost_beyond_its_hold_is_posted_whole_and_the_next_request_is_refused(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key, amount=100))).hold
    assert await parts.ledger.settle(settled(hold, cost=130)) == (-30, Resolution.APPLIED)
    (await parts.books(key)).check()
    with pytest.raises(GatewayError) as refused:
        await parts.ledger.admit(ask(key, amount=1))
    assert refused.value.code == "insufficient_quota"


async def test_an_admission_voids_no_hold_that_looks_dead(parts: LedgerParts) -> None:
    """After a pause of the store every hold looks dead, and what runs would lose it to what waited in the socket."""
    key = await parts.new_key(credit=100, limits={"concurrency": 1})
    running = (await parts.ledger.admit(ask(key, amount=100))).hold
    await parts.outlive(key, running.id)
    with pytest.raises(GatewayError) as refused:
        await parts.ledger.admit(ask(key, amount=1))
    assert refused.value.explain["limit"] in ("concurrency", "credits")
    assert (await parts.books(key)).holds == {running.id}


async def _expire(parts: LedgerParts, key: ApiKey, *, grace_ms: int = 1000, life_ms: int = 60_000) -> list[int]:
    names = TeamKeys(key.team_id)
    keys = [names.state, names.holds, names.held, names.journal, names.end_users]
    reply: list[int] = await parts.store.call(hold_expiry.EXPIRE, keys, ["200", str(grace_ms), str(life_ms)])
    return reply


async def test_a_hold_that_is_over_gets_a_grace_at_first_sight_and_is_voided_after_it(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.outlive(key, hold.id)
    assert await _expire(parts, key, grace_ms=20) == [0, 1]
    assert (await parts.books(key)).holds == {hold.id}

    async def is_voided() -> bool:
        return (await _expire(parts, key, grace_ms=20))[0] == 1

    await wait_until_found(is_voided, what="the grace is over")
    books = await parts.books(key)
    books.check()
    assert (books.holds, books.entries("expire")) == (set(), [hold.id])


async def test_a_hold_that_is_renewed_in_its_grace_period_stays(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.outlive(key, hold.id)
    assert await _expire(parts, key, grace_ms=20) == [0, 1]
    await hold_expiry.renew(parts.store, [hold], "60000")
    await asyncio.sleep(0.05)  # the grace itself
    assert await _expire(parts, key) == [0, 0]


async def test_a_grace_that_ended_long_ago_is_given_again(parts: LedgerParts) -> None:
    """Nobody looked for all that time: the store stood still, and nobody could renew."""
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.store.run("ZADD", TeamKeys(key.team_id).holds, "XX", "1000.5", hold.id)
    assert await _expire(parts, key) == [0, 1]
    assert (await parts.books(key)).holds == {hold.id}


async def test_a_life_that_ends_later_than_any_can_is_cut(parts: LedgerParts) -> None:
    """The store's clock was set back by 40 days: a dead gateway's hold would stay for as long."""
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key))).hold
    names = TeamKeys(key.team_id)
    expiry = float(await parts.store.run("ZSCORE", names.holds, hold.id))
    await parts.store.run("ZADD", names.holds, "XX", f"{int(expiry) + 40 * 86_400_000}", hold.id)
    assert await _expire(parts, key) == [0, 0]
    assert float(await parts.store.run("ZSCORE", names.holds, hold.id)) < expiry + 120_000


async def test_a_settlement_that_comes_after_its_hold_expired_is_still_charged_once(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key, amount=50))).hold
    await parts.expire(key, hold.id)
    other = (await parts.ledger.admit(ask(key, amount=1))).hold
    assert await parts.ledger.settle(settled(hold, cost=20)) == (80, Resolution.LATE)
    assert await parts.ledger.settle(settled(hold, cost=20)) == (80, Resolution.REPLAYED)
    await parts.ledger.settle(voided(other))
    books = await parts.books(key)
    books.check()
    assert books.spent == 20
    assert parts.ledger.resolutions[Resolution.LATE] == 1


async def test_a_void_without_a_hold_writes_nothing(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.expire(key, hold.id)
    await parts.ledger.settle(voided((await parts.ledger.admit(ask(key))).hold))
    books = await parts.books(key)
    assert await parts.ledger.settle(voided(hold)) == (100, Resolution.LATE)
    assert await parts.books(key) == books


async def test_the_reaper_voids_the_holds_of_idle_teams(parts: LedgerParts, store_url: str, tmp_path: Path) -> None:
    keys = [await parts.new_key(credit=100) for _ in range(3)]
    for key in keys:
        for _ in range(3):
            await parts.outlive(key, (await parts.ledger.admit(ask(key))).hold.id)
    # Another gateway: this one is as good as dead, it renews nothing.
    async with open_ledger(store_url, tmp_path, hold_ttl_s=0.3) as other:
        await other.store.run("DEL", REAPER_LOCK)
        async with kept_up(other.ledger):
            for key in keys:
                await _nothing_held(parts, key.team_id)
    for key in keys:
        books = await parts.books(key)
        books.check()
        assert len(books.entries("expire")) == 3


async def test_a_running_request_keeps_its_hold_beyond_the_holds_life(store_url: str, tmp_path: Path) -> None:
    async with open_ledger(store_url, tmp_path, hold_ttl_s=0.3) as parts:
        key = await parts.new_key(credit=100, limits={"concurrency": 1})
        hold = (await parts.ledger.admit(ask(key))).hold
        expiry = TeamKeys(key.team_id).holds
        first = float(await parts.store.run("ZSCORE", expiry, hold.id))
        async with kept_up(parts.ledger):

            async def renewed() -> bool:
                return float(await parts.store.run("ZSCORE", expiry, hold.id) or 0) > first + 600

            await wait_until_found(renewed)
            with pytest.raises(GatewayError, match="has 1 request running"):
                await parts.ledger.admit(ask(key))
            await parts.ledger.settle(settled(hold, cost=1))
        assert parts.ledger.resolutions == {Resolution.APPLIED: 1}


async def test_a_renewal_does_not_bring_back_a_hold_that_was_voided(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.expire(key, hold.id)
    async with kept_up(parts.ledger):
        await wait_until(lambda: parts.ledger.open_holds == 1)
        assert (await parts.books(key)).holds == set()


async def test_no_interleaving_of_admissions_passes_the_credits(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    asked = [parts.ledger.admit(ask(key, amount=9)) for _ in range(40)]
    admitted = [reply for reply in await asyncio.gather(*asked, return_exceptions=True) if not _refused(reply)]
    assert len(admitted) == 11
    (await parts.books(key)).check()


async def test_an_idempotency_mark_that_has_a_new_owner_stays_its_owners(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    first = (await parts.ledger.admit(ask(key, idempotency_key="mine"))).hold
    await parts.expire(key, first.id)
    second = (await parts.ledger.admit(ask(key, idempotency_key="mine"))).hold
    await parts.ledger.settle(voided(first))
    await parts.ledger.settle(settled(first, cost=1))
    with pytest.raises(GatewayError) as refused:
        await parts.ledger.admit(ask(key, idempotency_key="mine"))
    assert (refused.value.code, refused.value.explain["request_id"]) == ("request_in_progress", second.id)


@pytest.mark.parametrize("name", ["gw:{canary1234}:state", "gw:{team}:done:x", "gw:other", "gw:{reaper}:lock"])
def test_keys_that_must_have_a_ttl_are_none_of_those_that_may_lack_it(name: str) -> None:
    assert not WITHOUT_TTL.fullmatch(name)


def test_a_leaked_key_is_found() -> None:
    with valkey_server() as server:
        server.run("SET", "gw:{team}:done:x", "1")
        server.run("HSET", "gw:{team}:state", "held", "1")
        assert leaked_keys(server) == ["gw:{team}:done:x"]
        server.run("FLUSHALL")


def _refused(reply: object) -> bool:
    if isinstance(reply, BaseException):
        assert isinstance(reply, GatewayError), reply
        return True
    return False


async def _nothing_held(parts: LedgerParts, team_id: str) -> None:
    async def empty() -> bool:
        return bool(await parts.store.run("ZCARD", TeamKeys(team_id).holds) == 0)

    await wait_until_found(empty)
