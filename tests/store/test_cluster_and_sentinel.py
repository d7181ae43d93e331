"""The ledger on a cluster that loses a node, and through a Sentinel's failover; and why a request touches one slot.

test_ledger.py, which runs on both, covers what the ledger does on them without failures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.admission_call import AdmissionCalls
from gateway.ledger.settlement_call import Resolution, SettlementCalls
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import LedgerParts, ask, kept_up, open_ledger, policy, settled
from tests.support.servers import Cluster, valkey_cluster, valkey_sentinel
from tests.support.waiting import wait_until, wait_until_found


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with valkey_cluster() as cluster:
        yield cluster


async def test_every_key_that_a_request_touches_lies_in_one_slot(cluster: Cluster, tmp_path: Path) -> None:
    async with open_ledger(cluster.url, tmp_path) as parts:
        key = await parts.new_key()
        request = ask(key, idempotency_key="mine")
        admission = await parts.ledger.admit(request)
        settlement = settled(admission.hold, cost=1)
        calls = (
            AdmissionCalls(policy(), parts.store.run_by_ms).call(request),
            SettlementCalls(policy()).call(settlement),
        )
        touched = [name for keys, _ in calls for name in keys]
        assert len(touched) == 7 + 12
        assert len({cluster.nodes[0].run("CLUSTER", "KEYSLOT", name) for name in touched}) == 1
        await parts.ledger.settle(settlement)
        # No command of it was sent anywhere else: every key of the team is on the slot's node.
        slot = key_slot(touched[0].encode())
        owner = cluster.primary_of(slot, seen_by=cluster.nodes[0])
        for node in cluster.nodes:
            names = node.run("KEYS", f"gw:{{{key.team_id}}}:*")
            assert bool(names) == (node is owner)


async def _key_on(parts: LedgerParts, cluster: Cluster, number: int) -> ApiKey:
    while True:
        key = await parts.new_key(credit=100)
        slot = key_slot(TeamKeys(key.team_id).team.encode())
        if cluster.primary_of(slot, seen_by=cluster.nodes[0]) is cluster.nodes[number]:
            return key


async def test_a_node_that_is_down_takes_its_own_teams_away_and_no_others(cluster: Cluster, tmp_path: Path) -> None:
    async with open_ledger(cluster.url, tmp_path, hold_ttl_s=0.6) as parts, kept_up(parts.ledger):
        lost, safe = await _key_on(parts, cluster, 2), await _key_on(parts, cluster, 1)
        lost_hold = (await parts.ledger.admit(ask(lost))).hold
        safe_hold = (await parts.ledger.admit(ask(safe))).hold
        cluster.nodes[2].pause()
        with pytest.raises(GatewayError) as refused:
            await parts.ledger.admit(ask(lost))
        assert refused.value.code == "store_unavailable"
        assert await parts.ledger.settle(settled(lost_hold, cost=5)) is None
        await parts.ledger.settle(settled((await parts.ledger.admit(ask(safe))).hold, cost=5))
        expiry = TeamKeys(safe.team_id).holds
        first = float(await parts.store.run("ZSCORE", expiry, safe_hold.id))

        async def renewed() -> bool:
            return float(await parts.store.run("ZSCORE", expiry, safe_hold.id) or 0) > first

        await wait_until_found(renewed, what="the other node's holds are renewed all the same")
        cluster.nodes[2].resume()
        await wait_until(lambda: parts.store.available and parts.spool.replayed >= 1)

        async def posted() -> bool:
            return (await parts.books(lost)).spent == 5

        await wait_until_found(posted)
        (await parts.books(lost)).check()
        (await parts.books(safe)).check()


async def test_a_failover_under_load_loses_no_settlement_and_doubles_none(tmp_path: Path) -> None:
    with valkey_sentinel() as group:
        async with open_ledger(group.url, tmp_path, hold_ttl_s=3.0) as parts, kept_up(parts.ledger):
            key = await parts.new_key(credit=1000)
            holds = [(await parts.ledger.admit(ask(key))).hold for _ in range(20)]
            group.primary.run(
                "WAIT", 1, 2000
            )  # replication is asynchronous: what has not arrived dies with the primary
            group.primary.kill()
            assert await asyncio.gather(*(parts.ledger.settle(settled(hold, cost=3)) for hold in holds)) == [None] * 20
            await wait_until(lambda: parts.store.available, what="the replica is the primary")
            await wait_until(lambda: parts.spool.replayed == 20, what="the spool is replayed")
            books = await parts.books(key)
            books.check()
            assert (books.spent, books.held, len(books.entries("settle"))) == (60, 0, 20)
            assert parts.ledger.resolutions[Resolution.APPLIED] + parts.ledger.resolutions[Resolution.LATE] == 20
            await parts.ledger.settle(settled((await parts.ledger.admit(ask(key))).hold, cost=1))
