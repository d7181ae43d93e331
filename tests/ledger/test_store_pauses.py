"""A store that stands still for longer than a hold lives, with admissions on their way to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.ledger.admission_call import ADMIT, AdmissionCalls
from gateway.ledger.settlement_call import Resolution
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import ask, kept_up, open_ledger, policy, settled
from tests.support.servers import Server
from tests.support.waiting import wait_until

LIFE_S = 0.9


async def test_admissions_that_waited_in_its_socket_run_nothing_when_it_wakes(
    own_store: Server, tmp_path: Path
) -> None:
    async with (
        open_ledger(own_store.url, tmp_path / "one", hold_ttl_s=LIFE_S, timeout_s=1.5) as one,
        open_ledger(own_store.url, tmp_path / "two", hold_ttl_s=LIFE_S, timeout_s=1.5) as two,
        kept_up(one.ledger),
        kept_up(two.ledger),
    ):
        key = await one.new_key(credit=30, limits={"concurrency": 3})
        running = [(await one.ledger.admit(ask(key, amount=10))).hold for _ in range(3)]
        own_store.pause()
        waiting = [two.ledger.admit(ask(key, amount=10)) for _ in range(3)]
        refused = await asyncio.gather(*waiting, return_exceptions=True)
        assert {error.code for error in refused if isinstance(error, GatewayError)} == {"store_unavailable"}
        await asyncio.sleep(2 * LIFE_S)  # the pause itself
        own_store.resume()
        await wait_until(lambda: one.store.available and two.store.available)
        again = await asyncio.gather(*(two.ledger.admit(ask(key, amount=10)) for _ in range(3)), return_exceptions=True)
        assert {error.code for error in again if isinstance(error, GatewayError)} == {"insufficient_quota"}
        await wait_until(lambda: not two.spool.pending, what="the admissions that were given up are voided")
        for hold in running:
            await one.ledger.settle(settled(hold, cost=10))
        books = await one.books(key)
        books.check()
        assert one.ledger.resolutions[Resolution.APPLIED] == 3, "they had their holds to the end"
        assert (books.available, books.held, books.entries("expire")) == (0, 0, [])


async def test_an_admission_that_comes_too_late_reserves_nothing(own_store: Server, tmp_path: Path) -> None:
    async with open_ledger(own_store.url, tmp_path) as parts:
        key = await parts.new_key()
        before = await parts.books(key)
        keys, args = AdmissionCalls(policy(), parts.store.run_by_ms).call(ask(key))  # as it was sent, long ago
        args[12] = str(int(args[12]) - 3_600_000)
        reply = await parts.store.call(ADMIT, keys, args)
        assert (reply[0], reply[2]) == (0, b"late")
        assert await parts.books(key) == before


@pytest.mark.parametrize("hours", [-960, 960])
async def test_clocks_that_move_apart_cost_no_request(own_store: Server, tmp_path: Path, hours: int) -> None:
    async with open_ledger(own_store.url, tmp_path) as parts:
        key = await parts.new_key()
        name = TeamKeys(key.team_id).team
        parts.store.note_clock(name, int(parts.store.run_by_ms(name)) + hours * 3_600_000)
        await parts.ledger.settle(settled((await parts.ledger.admit(ask(key))).hold, cost=1))
        (await parts.books(key)).check()
