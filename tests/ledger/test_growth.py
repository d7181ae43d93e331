"""What the store keeps of each request: little, in as many keys as before, and all that settlement must remember."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import Hold, Settlement
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.journal import Journal
from gateway.ledger.known_responses import KnownResponses
from gateway.ledger.settlement_call import Resolution
from gateway.ledger.verification import verify
from gateway.protocol.quantities import Usage
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import DAY_S, LedgerParts, ask, open_ledger, settled, voided
from tests.support.servers import Server, valkey_server

REQUESTS = 6_000
MAX_BYTES_PER_REQUEST = 150
RATES = "3f9a01c2 1000000000 100000000 10000000000 10000000000"
TOKENS_COST = 13_100
"""What three input tokens, a cached one and one of output cost by these rates, in nano-USD."""
LINES = '{"price":"3f9a01c2","lines":[["input","1","token","5"]]}'


@pytest.fixture
async def parts(own_store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    """A ledger on a store of its own: some of these books do not agree, as others' must."""
    async with open_ledger(own_store.url, tmp_path) as parts:
        yield parts


def answered(hold: Hold, response_id: str, tokens: int = 500, bill: str = RATES, cost: int | None = None) -> Settlement:
    """A settlement as an ordinary answer gives it."""
    usage = Usage(4 * tokens, tokens, tokens, tokens // 3, 5 * tokens, None)
    charged = TOKENS_COST * tokens if cost is None else cost
    return Settlement(
        hold, "settle", charged, usage, "usage", Outcome.COMPLETED, "p/m", "upstream", bill, response_id=response_id
    )


async def ask_and_settle(parts: LedgerParts, known: KnownResponses, key: ApiKey, number: int) -> str:
    response_id = f"resp_{os.urandom(25).hex()}"
    request_id = parts.ledger.new_request_id()
    hold = (await parts.ledger.admit(ask(key, 40_000_000, 4_000, request_id=request_id))).hold
    settlement = answered(hold, response_id, 100 + number % 4_000)
    await parts.ledger.settle(settlement, known.memory(response_id, "8f3a9c01"))
    return response_id


def names_in(server: Server) -> set[str]:
    """The store's keys. Those of a time have another name in the next hour, day or week."""
    return {re.sub(r":\d+$", ":time", name.decode()) for name in server.run("KEYS", "*")}


def memory_of_keys(server: Server) -> int:
    """The bytes of all keys with their values. The server's own memory has a script's garbage besides."""
    return sum(server.run("MEMORY", "USAGE", name, "SAMPLES", 0) for name in server.run("KEYS", "*"))


async def test_a_request_leaves_at_most_150_bytes_and_no_key(tmp_path: Path) -> None:
    with valkey_server() as server:
        async with open_ledger(server.url, tmp_path) as parts:
            key = await parts.new_key(credit=10**15)
            ids = [await ask_and_settle(parts, KnownResponses(parts.store, DAY_S), key, 0)]
        keys, memory = names_in(server), memory_of_keys(server)
        async with open_ledger(server.url, tmp_path) as parts:
            known = KnownResponses(parts.store, DAY_S)
            for at in range(0, REQUESTS, 50):
                some = (ask_and_settle(parts, known, key, number) for number in range(at, at + 50))
                ids += await asyncio.gather(*some)
        assert names_in(server) == keys
        assert (memory_of_keys(server) - memory) / REQUESTS <= MAX_BYTES_PER_REQUEST
        async with open_ledger(server.url, tmp_path) as parts:
            known = KnownResponses(parts.store, DAY_S)
            assert [(await known.find(key, one)).response_id for one in ids[::500]] == ids[::500]
            assert (await verify(parts.store, key.team_id)).ok


async def test_a_provider_that_gives_one_id_to_all_of_its_responses_makes_nothing_longer(parts: LedgerParts) -> None:
    key, known = await parts.new_key(credit=10**15), KnownResponses(parts.store, DAY_S)

    async def longest_shard() -> int:
        [index] = await parts.store.run("KEYS", f"*{key.team_id}*ended:*")
        return max(map(len, await parts.store.run("HVALS", index)))

    last = None
    for number in range(400):
        hold = (await parts.ledger.admit(ask(key, 50, request_id=parts.ledger.new_request_id()))).hold
        await parts.ledger.settle(settled(hold, cost=number + 1), known.memory("resp_always", "8f3a9c01"))
        last = hold
    assert last is not None
    assert await longest_shard() < 400 * 10 / 4
    assert (await known.find(key, "resp_always")).cost_nano_usd == 400


async def test_an_entry_reads_as_it_was_settled(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=10**15)
    journal = Journal(parts.store)

    async def entry_of(settlement: Settlement) -> None:
        await parts.ledger.settle(settlement)
        found = await journal.find([key.team_id], settlement.hold.id, remembered_s=DAY_S)
        assert found is not None
        assert found.entry is not None
        entry = found.entry
        hold, usage = settlement.hold, settlement.usage
        assert (entry.ref, entry.key_id, entry.hold) == (hold.id, hold.key_id, hold.amount_nano_usd)
        assert (entry.type, entry.amount) == (settlement.kind, -settlement.cost_nano_usd)
        assert (entry.outcome, entry.settled_by) == (settlement.outcome, settlement.settled_by)
        assert (entry.model, entry.upstream, entry.response_id) == ("p/m", settlement.upstream, settlement.response_id)
        assert entry.over == max(0, settlement.cost_nano_usd - hold.amount_nano_usd)
        if settlement.kind == "settle":
            assert entry.usage is not None
            assert entry.usage[:4] == usage[:4]
            assert (entry.bill is not None) == bool(settlement.bill)

    async def hold(request_id: str) -> Hold:
        return (await parts.ledger.admit(ask(key, 50, request_id=request_id))).hold

    ids = ("req_0123456789abcdef0123456789abcdef", "req_ABC", "req_123", "usage_00ff", "\x01odd", "req_é", "x")
    for number, name in enumerate(ids):
        await entry_of(answered(await hold(name), f"resp_{number}", bill=(RATES, LINES, "")[number % 3]))
    for response_id in ("", "resp_00ff00", "chatcmpl-9", "\x02x", "r" * 300, "resp_0"):
        await entry_of(answered(await hold(f"req_{response_id[:20]}{len(response_id)}"), response_id, bill=LINES))
    for cost in (0, 1, 128, 2**32, 2**40):
        await entry_of(answered(await hold(f"cost_{cost}"), "", 70_000, cost=cost))
    await entry_of(voided(await hold("req_00")))
    assert {one.name for one in (await verify(parts.store, key.team_id)).differences} <= {"cost"}


async def test_a_response_with_two_ids_is_remembered_under_one_and_billed_under_the_other(parts: LedgerParts) -> None:
    key, known = await parts.new_key(credit=10**12), KnownResponses(parts.store, DAY_S)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.ledger.settle(answered(hold, "gen-5"), known.memory("resp_00aa", "8f3a"))
    found = await Journal(parts.store).find([key.team_id], hold.id, remembered_s=DAY_S)
    assert found is not None
    assert found.entry is not None
    assert (await known.find(key, "resp_00aa")).upstream_key == "8f3a"
    assert found.entry.response_id == "gen-5"


async def test_texts_beyond_the_bound_stand_in_the_entries(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=10**15)
    words = TeamKeys(key.team_id).words
    full = [part for number in range(4096) for part in (f":{number}", str(number), f"={number}", str(number))]
    await parts.store.run("HSET", words, *full)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.ledger.settle(answered(hold, "resp_1"))
    found = await Journal(parts.store).find([key.team_id], hold.id, remembered_s=DAY_S)
    assert found is not None
    assert found.entry is not None
    assert (found.entry.model, found.entry.upstream, found.settled_by) == ("p/m", "upstream", "usage")
    assert await parts.store.run("HLEN", words) == len(full) / 2
    await parts.ledger.settle(answered(hold, "resp_1"))
    assert parts.ledger.resolutions == {Resolution.APPLIED: 1, Resolution.REPLAYED: 1}


async def test_what_ended_is_not_charged_again_where_the_journal_has_been_trimmed(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=1_000)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.ledger.settle(settled(hold, cost=5))
    await parts.store.run("XTRIM", TeamKeys(key.team_id).journal, "MAXLEN", "0")
    await parts.ledger.settle(settled(hold, cost=5))
    assert parts.ledger.resolutions == {Resolution.APPLIED: 1, Resolution.REPLAYED: 1}
    assert (await parts.books(key)).spent == 5


async def test_what_a_version_before_this_one_ended_is_not_charged_again(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=1_000)
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.expire(key, hold.id)
    await parts.store.run("SET", TeamKeys(key.team_id).resolution(hold.id), "settle 5 995 1-1 usage", "PX", "60000")
    await parts.ledger.settle(settled(hold, cost=5))
    await parts.ledger.settle(settled(hold, cost=6))
    assert parts.ledger.resolutions == {Resolution.REPLAYED: 1, Resolution.CONFLICT: 1}
    assert (await parts.books(key)).spent == 0


async def test_a_changed_lifetime_charges_nothing_twice(store: Server, tmp_path: Path) -> None:
    async with open_ledger(store.url, tmp_path / "before", resolution_ttl_s=2_000) as before:
        key = await before.new_key(credit=1_000)
        hold = (await before.ledger.admit(ask(key))).hold
        await before.ledger.settle(settled(hold, cost=5))
    async with open_ledger(store.url, tmp_path / "after", resolution_ttl_s=20 * DAY_S) as after:
        await after.ledger.settle(settled(hold, cost=5))
        assert after.ledger.resolutions == {Resolution.REPLAYED: 1}


async def test_a_response_is_forgotten_when_its_time_is_over(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=10**12)
    await ask_and_settle(parts, KnownResponses(parts.store, DAY_S), key, 0)
    response_id = await ask_and_settle(parts, KnownResponses(parts.store, DAY_S), key, 0)
    assert (await KnownResponses(parts.store, DAY_S).find(key, response_id)).upstream_key == "8f3a9c01"
    await asyncio.sleep(1.1)  # the shortest lifetime that there is
    with pytest.raises(GatewayError, match="not known"):
        await KnownResponses(parts.store, 1).find(key, response_id)
    other = await parts.new_key()
    with pytest.raises(GatewayError, match="not known"):
        await KnownResponses(parts.store, DAY_S).find(other, response_id)


async def test_a_response_that_an_older_version_remembered_is_found(parts: LedgerParts) -> None:
    key = await parts.new_key()
    old = '["upstream","8f3a","p/m","key",17,true,5,1,0,2,0]'
    await parts.store.run("SET", TeamKeys(key.team_id).response("resp_old"), old, "PX", "60000")
    known = await KnownResponses(parts.store, DAY_S).find(key, "resp_old")
    assert known[:6] == ("resp_old", "upstream", "8f3a", "p/m", "key", 17)
