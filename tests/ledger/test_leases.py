"""A worker that dies is missed within its lease: its slots come back then, and not when its holds would expire."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.ledger.hold_expiry import expire_holds, reclaim
from gateway.ledger.owners import owner_of
from gateway.store.errors import StoreError
from gateway.store.keyspace import LEASES, REAPER_LOCK, TeamKeys
from tests.support.gateway import simulator
from tests.support.ledgers import LedgerParts, ask, kept_up, open_ledger, settled, voided
from tests.support.processes import GatewayProcess, ask_once, gateway_process
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until, wait_until_found

pytestmark = pytest.mark.timeout(150)

FOR_EVER_S = 600.0  # a hold's life: what comes back sooner comes back by a lease
LONG = {"model": "sim/tokens-1500+slow-10", "input": "hello", "stream": True, "max_output_tokens": 10_000}


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with simulator() as url:
        yield url


@pytest.fixture
def server() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture
async def parts(server: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(server.url, tmp_path / "parts", hold_ttl_s=FOR_EVER_S) as parts:
        yield parts


async def _customer(parts: LedgerParts) -> tuple[str, str]:
    """A team with one slot, and the secret of its key."""
    team_id = (await parts.new_key(credit=10**12, limits={"concurrency": 1})).team_id
    return team_id, await parts.another_secret(team_id)


async def _stream(gateway: GatewayProcess, secret: str) -> bool:
    """Whether a long stream came whole."""
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=90) as client:
        return (await ask_once(client, LONG)).whole


async def test_a_killed_gateway_s_slots_come_back_and_a_living_one_s_stay(
    server: Server, upstream: str, parts: LedgerParts, tmp_path: Path
) -> None:
    dying_team, dying = await _customer(parts)
    living_team, living = await _customer(parts)

    async def runs(team_id: str) -> bool:
        return bool((await parts.team_books(team_id)).holds)

    async def both_run() -> bool:
        return await runs(dying_team) and await runs(living_team)

    async def is_free() -> bool:
        return not await runs(dying_team)

    async def is_settled() -> bool:
        return not await runs(living_team)

    with (
        gateway_process(server.url, upstream, tmp_path / "lives", hold_ttl_s=FOR_EVER_S) as lives,
        gateway_process(server.url, upstream, tmp_path / "dies", hold_ttl_s=FOR_EVER_S) as dies,
    ):
        kept, lost = asyncio.create_task(_stream(lives, living)), asyncio.create_task(_stream(dies, dying))
        await wait_until_found(both_run)
        dies.program.kill()
        assert not await lost
        await wait_until_found(is_free, what="its slot is back")
        assert await runs(living_team), "the living one keeps its own"
        assert await kept
        await wait_until_found(is_settled)
    for team_id, entry in ((dying_team, "expire"), (living_team, "settle")):
        books = await parts.team_books(team_id)
        books.check()
        assert [one["type"] for one in books.journal] == ["grant", entry]


async def test_a_worker_s_death_is_told_to_the_one_in_its_place(
    server: Server, upstream: str, parts: LedgerParts, tmp_path: Path
) -> None:
    team_id, secret = await _customer(parts)

    async def runs() -> bool:
        return bool((await parts.team_books(team_id)).holds)

    async def is_free() -> bool:
        return not await runs()

    lease_s = str(FOR_EVER_S)  # no lease tells of it
    with gateway_process(
        server.url,
        upstream,
        tmp_path / "both",
        workers=2,
        hold_ttl_s=FOR_EVER_S,
        is_fork=False,  # their environment says what the run is called
        ledger__lease_s=lease_s,
    ) as gateway:
        stream = asyncio.create_task(_stream(gateway, secret))
        await wait_until_found(runs)
        [owner] = {hold_id[:12] for hold_id in (await parts.team_books(team_id)).holds}
        pids = {owner_of(gateway.run, pid): pid for pid in gateway.workers}
        os.kill(pids[owner], signal.SIGKILL)
        assert not await stream
        await wait_until_found(is_free, what="its slot is back")
    (await parts.team_books(team_id)).check()


async def test_a_gateway_that_was_only_silent_gets_its_holds_again(server: Server, tmp_path: Path) -> None:
    async with (
        open_ledger(server.url, tmp_path / "silent", lease_s=0.3, hold_ttl_s=FOR_EVER_S) as silent,
        open_ledger(server.url, tmp_path / "other", lease_s=0.3, hold_ttl_s=FOR_EVER_S) as other,
        kept_up(other.ledger),
    ):
        key = await silent.new_key(credit=100)
        request = ask(key, amount=10, request_id=silent.ledger.new_request_id())
        async with kept_up(silent.ledger):
            hold = (await silent.ledger.admit(request)).hold
            await wait_until_found(lambda: _is_leased(silent), what="it has a lease")

        async def is_given_up() -> bool:
            return not (await silent.books(key)).holds

        await wait_until_found(is_given_up, what="it is taken for dead")
        async with kept_up(silent.ledger):
            # Its upkeep begins anew, as after a pause of the process; what it knew of its lease stayed.

            async def is_back() -> bool:
                return (await silent.books(key)).holds == {hold.id}

            await wait_until_found(is_back, what="its running request has its hold again")
            await silent.ledger.settle(settled(hold, cost=7))
        books = await silent.books(key)
        books.check()
        assert (books.spent, books.entries("expire"), books.entries("settle")) == (7, [hold.id], [hold.id])


async def _is_leased(parts: LedgerParts) -> bool:
    return await parts.store.run("ZSCORE", LEASES, parts.ledger.owner) is not None


async def test_a_worker_that_ends_leaves_no_lease_behind(server: Server, tmp_path: Path) -> None:
    async with open_ledger(server.url, tmp_path / "other") as other:
        async with open_ledger(server.url, tmp_path / "ends") as ends:
            async with kept_up(ends.ledger):
                await wait_until_found(lambda: _is_leased(ends))
            owner = ends.ledger.owner
        assert await other.store.run("ZSCORE", LEASES, owner) is None


async def test_a_pause_of_the_store_ends_no_lease(server: Server, tmp_path: Path) -> None:
    async with (
        open_ledger(server.url, tmp_path / "one", lease_s=0.6) as one,
        open_ledger(server.url, tmp_path / "two", lease_s=0.6) as two,
        kept_up(one.ledger),
        kept_up(two.ledger),
    ):
        await wait_until_found(lambda: _is_leased(one))
        await wait_until_found(lambda: _is_leased(two))
        key = await one.new_key()
        hold = (await one.ledger.admit(ask(key, request_id=one.ledger.new_request_id()))).hold
        for _ in range(3):
            server.pause()
            await asyncio.sleep(1.2)  # the pause itself: two leases long
            server.resume()
            await wait_until(lambda: one.store.available and two.store.available)
            await wait_until_found(lambda: _is_leased(one))
        assert (await one.books(key)).entries("expire") == []
        await one.ledger.settle(settled(hold, cost=1))


async def test_a_team_whose_data_is_damaged_stops_the_work_for_no_other_team(
    server: Server, tmp_path: Path, parts: LedgerParts
) -> None:
    keys = [await parts.new_key(credit=100) for _ in range(2)]
    one, other = await asyncio.gather(*(parts.ledger.admit(ask(key)) for key in keys))
    dead = one.hold.id[:4]
    damaged, whole = (TeamKeys(key.team_id) for key in keys)
    server.run("HSET", damaged.state, "window", b"\x9d\xdb")
    with pytest.raises(StoreError):
        await reclaim(parts.store, dead)
    assert (server.run("HLEN", damaged.held), server.run("HLEN", whole.held)) == (1, 0)
    await parts.ledger.settle(voided(other.hold))  # a worker that lives gets the holds of what runs again
    async with kept_up(parts.ledger):
        parts.ledger.upkeep.lost += [dead, "another"]
        await wait_until(lambda: not parts.ledger.upkeep.lost, what="no damage keeps the next dead worker waiting")
    async with open_ledger(server.url, tmp_path / "short", hold_ttl_s=1.0) as short:
        await short.ledger.admit(ask(keys[1]))
        for holds in (damaged.holds, whole.holds):
            [member] = server.run("ZRANGE", holds, "0", "-1")
            server.run("ZADD", holds, str(server.run("TIME")[0] * 1000 - 0.5), member)
        server.run("DEL", REAPER_LOCK)
        with pytest.raises(StoreError):
            await expire_holds(short.store, 0.1, 1.0)
    assert (server.run("HLEN", damaged.held), server.run("HLEN", whole.held)) == (1, 0)
