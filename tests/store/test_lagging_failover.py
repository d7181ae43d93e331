"""A failover to a replica that lags: what the dead primary had acknowledged is posted again, and holds are back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.billing.settlement import Hold
from gateway.identity.api_keys import ApiKey
from gateway.ledger.replication import Unreplicated
from tests.support.ledgers import LedgerParts, ask, kept_up, open_ledger, settled
from tests.support.servers import valkey_sentinel, valkey_server
from tests.support.waiting import wait_until, wait_until_found

pytestmark = pytest.mark.timeout(150)


async def _settle_until(parts: LedgerParts, key_count: int, done: asyncio.Event) -> dict[str, list[str]]:
    """Requests of several teams, one after the other in each, until the event; the ids that were acknowledged."""
    acknowledged: dict[str, list[str]] = {}

    async def one() -> None:
        key = await parts.new_key(credit=1_000_000)
        ids = acknowledged[key.team_id] = []
        while not done.is_set():
            admission = await parts.ledger.admit(ask(key))
            if await parts.ledger.settle(settled(admission.hold, cost=3)) is not None:
                ids.append(admission.hold.id)

    await asyncio.gather(*(one() for _ in range(key_count)))
    return acknowledged


async def test_no_acknowledged_settlement_is_lost_where_the_replica_lags_by_half_a_second(tmp_path: Path) -> None:
    with valkey_sentinel(lag_s=0.5) as group:
        async with open_ledger(group.url, tmp_path, hold_ttl_s=3000.0) as parts, kept_up(parts.ledger):
            running_key = await parts.new_key(credit=1000, limits={"concurrency": 1})
            group.primary.run("WAIT", 1, 5000)  # teams and credits are an admin's, not a request's
            done = asyncio.Event()
            load = asyncio.create_task(_settle_until(parts, 8, done))
            await asyncio.sleep(2.0)  # several times the lag: some of it is confirmed, some is not
            running = (await parts.ledger.admit(ask(running_key, amount=100))).hold
            done.set()
            acknowledged = await load
            group.die()
            await wait_until(lambda: not parts.store.available, what="the primary is missed")
            await wait_until(lambda: parts.store.available, what="the replica is the primary")

            async def all_there() -> bool:
                for team_id, ids in acknowledged.items():
                    books = await parts.team_books(team_id)
                    if not set(ids) <= set(books.entries("settle")):
                        return False
                return True

            await wait_until_found(all_there, what="what was acknowledged is in the journals")
            assert parts.ledger.upkeep.posted_again > 0, "the replica lagged"
            for team_id, ids in acknowledged.items():
                books = await parts.team_books(team_id)
                books.check()
                assert sorted(books.entries("settle")) == sorted(ids)

            async def hold_is_back() -> bool:
                return (await parts.books(running_key)).holds == {running.id}

            await wait_until_found(hold_is_back, what="the running request has its hold again")
            books = await parts.books(running_key)
            books.check()
            assert books.held == 100
            await parts.ledger.settle(settled(running, cost=7))
            (await parts.books(running_key)).check()


async def test_what_every_replica_has_is_let_go(tmp_path: Path) -> None:
    with valkey_sentinel() as group:
        async with open_ledger(group.url, tmp_path) as parts:
            key = await parts.new_key()
            kept = Unreplicated(parts.store, 100)
            for _ in range(3):
                kept.keep(["k"], [key.team_id], parts.store.epoch)
            group.replica.pause()
            await kept.drop_replicated()
            await parts.ledger.settle(settled((await parts.ledger.admit(ask(key))).hold, cost=1))
            await kept.drop_replicated()
            assert len(kept) == 3, "the replica has said nothing since"
            group.replica.resume()

            async def let_go() -> bool:
                await kept.drop_replicated()
                return len(kept) == 0

            await wait_until_found(let_go, what="the replica has caught up")


async def test_more_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    with valkey_server() as server:
        async with open_ledger(server.url, tmp_path) as parts:
            kept = Unreplicated(parts.store, 2)
            for number in range(5):
                kept.keep([str(number)], [], parts.store.epoch)
            assert (len(kept), kept.dropped) == (2, 3)
            assert kept.take() == [(["0"], []), (["1"], [])]
            assert len(kept) == 0


async def test_a_server_that_is_started_again_without_its_last_second_gets_it_again(tmp_path: Path) -> None:
    with valkey_server() as server:  # it keeps nothing, but what was saved by hand
        async with open_ledger(server.url, tmp_path) as parts, kept_up(parts.ledger):
            key = await parts.new_key(credit=1000)
            server.run("SAVE")
            ids = []
            for _ in range(3):
                hold = (await parts.ledger.admit(ask(key))).hold
                ids.append(hold.id)
                await parts.ledger.settle(settled(hold, cost=5))
            server.restart()
            await wait_until(lambda: parts.ledger.upkeep.posted_again == 3)
            books = await parts.books(key)
            books.check()
            assert (books.spent, sorted(books.entries("settle"))) == (15, sorted(ids))


async def test_offsets_of_a_server_that_was_connected_meanwhile_confirm_nothing(tmp_path: Path) -> None:
    with valkey_sentinel() as group:
        async with open_ledger(group.url, tmp_path) as parts:
            kept = Unreplicated(parts.store, 100)
            kept.keep(["k"], [], parts.store.epoch)
            parts.store.epoch += 1
            control = Unreplicated(parts.store, 100)
            control.keep(["k"], [], parts.store.epoch)

            async def let_go() -> bool:
                await kept.drop_replicated()
                await control.drop_replicated()
                return len(control) == 0

            await wait_until_found(let_go, what="the replica has caught up")
            assert (kept.may_have_lost, len(kept)) == (True, 1)


async def test_what_a_former_primary_acknowledges_after_the_failover_is_posted_at_its_successor(tmp_path: Path) -> None:
    with valkey_sentinel() as group:
        async with open_ledger(group.url, tmp_path, timeout_s=60) as parts, kept_up(parts.ledger):
            key = await parts.new_key(credit=1000)
            hold = (await parts.ledger.admit(ask(key, amount=100))).hold
            group.primary.run("WAIT", 1, 5000)
            before = parts.store.epoch
            group.primary.pause()
            answer = parts.ledger.settle(settled(hold, cost=7))
            await wait_until(lambda: parts.store.epoch > before, what="the replica is the primary")
            assert (await parts.books(key)).holds == {hold.id}
            group.primary.resume()
            assert await answer is not None, "it was acknowledged"

            async def is_posted() -> bool:
                return (await parts.books(key)).entries("settle") == [hold.id]

            await wait_until_found(is_posted)
            (await parts.books(key)).check()


async def test_a_worker_that_stops_in_an_outage_leaves_what_the_store_may_have_lost_in_the_spool(
    tmp_path: Path,
) -> None:
    with valkey_server() as server:  # it keeps nothing, but what was saved by hand
        async with open_ledger(server.url, tmp_path) as parts:
            key = await parts.new_key(credit=1000)
            hold = (await parts.ledger.admit(ask(key))).hold
            server.run("SAVE")
            await parts.ledger.settle(settled(hold, cost=5))
            server.kill()
            await wait_until(lambda: not parts.store.available)
        server.start()
        await _is_settled_once(server.url, tmp_path, key, hold)


async def test_a_worker_that_stops_while_it_posts_again_posts_the_rest_before_its_end(tmp_path: Path) -> None:
    with valkey_server() as server:
        async with open_ledger(server.url, tmp_path, timeout_s=60) as parts:
            key = await parts.new_key(credit=1000)
            hold = (await parts.ledger.admit(ask(key))).hold
            server.run("SAVE")
            await parts.ledger.settle(settled(hold, cost=5))
            before = parts.store.epoch
            server.restart()
            await wait_until(lambda: parts.store.epoch > before)
            server.pause()
            async with kept_up(parts.ledger):
                await wait_until(lambda: parts.ledger.unreplicated == 0, what="it is on the way once more")
            assert parts.ledger.unreplicated == 1
            server.resume()
        await _is_settled_once(server.url, tmp_path, key, hold)


async def _is_settled_once(url: str, directory: Path, key: ApiKey, hold: Hold) -> None:
    """Another worker of the same machine finds the settlement in the store, or puts it there."""
    async with open_ledger(url, directory) as parts, kept_up(parts.ledger):

        async def is_settled() -> bool:
            return (await parts.books(key)).entries("settle") == [hold.id]

        await wait_until_found(is_settled)
        books = await parts.books(key)
        books.check()
        assert books.spent == 5
