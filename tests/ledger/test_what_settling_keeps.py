"""What a resolution leaves behind, and for how long; and that the end of a gateway waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.store.errors import StoreUnavailable
from gateway.store.keyspace import WEEK_MS, TeamKeys
from tests.support.counters import set_counters
from tests.support.ledgers import LedgerParts, ask, open_ledger, settled, voided
from tests.support.servers import Server

LIVES_S = {"resolution_ttl_s": 2_000, "usage_retention_s": 3_000, "journal_retention_s": 4_000}
BUDGET = 1_000


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path, **LIVES_S) as parts:
        yield parts


async def test_a_resolution_and_the_usage_live_as_long_as_they_are_told(parts: LedgerParts, store: Server) -> None:
    key = await parts.new_key()
    hold = (await parts.ledger.admit(ask(key))).hold
    await parts.ledger.settle(settled(hold, cost=7))
    names = TeamKeys(key.team_id)
    week_ends_s = (hold.admitted_ms // WEEK_MS + 1) * WEEK_MS // 1000
    for name, life in (
        (names.ended(hold.admitted_ms), week_ends_s - hold.admitted_ms // 1000 + LIVES_S["resolution_ttl_s"]),
        (names.usage("hour", hold.admitted_ms), LIVES_S["usage_retention_s"]),
        (names.usage("day", hold.admitted_ms), LIVES_S["usage_retention_s"]),
    ):
        assert 0 <= life - store.run("TTL", name) < 100


async def test_the_journal_keeps_what_is_younger_than_its_retention(parts: LedgerParts) -> None:
    key = await parts.new_key()
    many = 250  # a stream is trimmed by the hundred
    for _ in range(many):
        await parts.ledger.settle(settled((await parts.ledger.admit(ask(key))).hold, cost=1))
    books = await parts.books(key)
    books.check()
    assert len(books.entries("settle")) == many


@pytest.mark.parametrize("scope", ["team", "key"])
@pytest.mark.parametrize("period", ["hour", "day", "month"])
async def test_a_budget_begins_again_with_its_period(
    parts: LedgerParts, store: Server, scope: str, period: str
) -> None:
    limits = {f"budget_usd_{period}": BUDGET}
    key = await parts.new_key(limits=limits if scope == "team" else {})
    if scope == "key":
        key = await parts.another_key(key.team_id, limits)
    await parts.ledger.settle(settled((await parts.ledger.admit(ask(key, amount=BUDGET))).hold, cost=BUDGET))
    with pytest.raises(GatewayError):
        await parts.ledger.admit(ask(key))
    # As if all that had been in periods long over.
    set_counters(store, key.team_id, key.key_id, scope, hour=1, day=1, month=1)
    await parts.ledger.settle(voided((await parts.ledger.admit(ask(key, amount=BUDGET))).hold))


async def test_what_cost_nothing_frees_its_idempotency_key(parts: LedgerParts, store: Server) -> None:
    key = await parts.new_key()
    hold = (await parts.ledger.admit(ask(key, idempotency_key="once"))).hold
    with pytest.raises(GatewayError):
        await parts.ledger.admit(ask(key, idempotency_key="once"))
    await parts.ledger.settle(voided(hold))
    assert store.run("EXISTS", TeamKeys(key.team_id).idempotency_key(key.key_id, "once")) == 0
    again = (await parts.ledger.admit(ask(key, idempotency_key="once"))).hold
    await parts.ledger.settle(settled(again, cost=1))
    with pytest.raises(GatewayError):
        await parts.ledger.admit(ask(key, idempotency_key="once"))


async def test_the_end_waits_for_settlements_on_their_way(parts: LedgerParts) -> None:
    key = await parts.new_key()
    holds = [(await parts.ledger.admit(ask(key))).hold for _ in range(20)]
    on_their_way = [parts.ledger.settle(settled(hold, cost=1)) for hold in holds]
    await parts.ledger.flush()
    await asyncio.sleep(0)  # their callbacks
    assert all(one.done() for one in on_their_way)
    books = await parts.books(key)
    assert (len(books.entries("settle")), books.held) == (20, 0)


async def test_the_end_waits_for_settlements_that_a_hung_store_has_not_answered(
    own_store: Server, tmp_path: Path
) -> None:
    async with open_ledger(own_store.url, tmp_path) as parts:
        key = await parts.new_key()
        holds = [(await parts.ledger.admit(ask(key))).hold for _ in range(20)]
        own_store.pause()
        before = parts.store.run("PING")  # it is given up first, and with it everything behind it
        on_their_way = [parts.ledger.settle(settled(hold, cost=1)) for hold in holds]
        with pytest.raises(StoreUnavailable):
            await before
        await parts.ledger.flush()
        assert all(one.done() for one in on_their_way)
        lines = b"".join(path.read_bytes() for path in (tmp_path / "spool").iterdir()).splitlines()
        assert len(lines) == 20, "they are on disk"
        own_store.resume()


def test_the_keys_of_a_settlement_are_those_that_readers_ask_for() -> None:
    names, at_ms = TeamKeys("team"), 1_796_000_000_000
    request, indexed_ms = names.of_request("key"), at_ms + WEEK_MS
    rest = [names.words, names.ended(indexed_ms), names.usage("hour", at_ms), names.usage("day", at_ms)]
    assert names.of_settlement("key", "req_1", at_ms, indexed_ms) == [*request, *rest, names.resolution("req_1")]
