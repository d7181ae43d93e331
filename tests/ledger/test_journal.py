"""The journal proves the books: verification agrees with whatever happened, and names each figure tampered with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.journal import Entry, Journal, check_cursor
from gateway.ledger.verification import verify
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import DAY_S, LedgerParts, ask, open_ledger, settled, voided
from tests.support.servers import Server


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path) as parts:
        yield parts


async def busy_team(parts: LedgerParts) -> ApiKey:
    """A team with a movement of every kind, two keys, and one request that still runs."""
    key = await parts.new_key(credit=1000)
    other = await parts.another_key(key.team_id)
    await parts.move(key, "adjust", -100)
    await parts.ledger.settle(settled((await parts.ledger.admit(ask(key, 50))).hold, cost=20))
    await parts.ledger.settle(settled((await parts.ledger.admit(ask(other, 50))).hold, cost=70))  # more than its hold
    await parts.ledger.settle(voided((await parts.ledger.admit(ask(other, 50))).hold))
    dead = (await parts.ledger.admit(ask(key, 30))).hold
    await parts.expire(key, dead.id)
    await parts.ledger.admit(ask(other, 11))
    return key


async def names_of(parts: LedgerParts, key: ApiKey) -> set[str]:
    found = await verify(parts.store, key.team_id)
    return {difference.name for difference in found.differences}


async def test_true_books_verify(parts: LedgerParts) -> None:
    key = await busy_team(parts)
    found = await verify(parts.store, key.team_id)
    assert (found.ok, found.entries, found.complete) == (True, 6, True)
    empty = await parts.new_key(credit=0)
    assert (await verify(parts.store, empty.team_id)).ok


MOVES = st.lists(
    st.tuples(st.sampled_from(["grant", "settle", "void", "expire", "hold"]), st.integers(1, 500)), max_size=12
)


@given(moves=MOVES)
@settings(max_examples=25)
def test_any_order_of_movements_verifies(store: Server, tmp_path: Path, moves: list[tuple[str, int]]) -> None:
    async def run() -> None:
        async with open_ledger(store.url, tmp_path) as parts:
            key = await parts.new_key(credit=10_000)
            for kind, amount in moves:
                if kind == "grant":
                    await parts.move(key, "grant", amount)
                    continue
                hold = (await parts.ledger.admit(ask(key, amount))).hold
                if kind == "settle":
                    await parts.ledger.settle(settled(hold, cost=amount * 2 // 3))
                elif kind == "void":
                    await parts.ledger.settle(voided(hold))
                elif kind == "expire":
                    await parts.expire(key, hold.id)
            assert (await verify(parts.store, key.team_id)).differences == ()

    asyncio.run(run())


TAMPERED: Final[Mapping[str, tuple[tuple[str, ...], set[str]]]] = {
    "money that was never journalled": (
        ("HINCRBY", "{state}", "available", "5"),
        {"balance", "granted"},
    ),
    "a grant beside the journal": (
        ("HINCRBY", "{state}", "granted", "5"),
        {"granted", "entries:granted"},
    ),
    "spending beside the journal": (
        ("HINCRBY", "{state}", "spent", "5"),
        {"granted", "total_usd", "entries:spent"},
    ),
    "held money without a hold": (
        ("HINCRBY", "{state}", "held", "5"),
        {"balance", "granted", "held", "total_usd"},
    ),
    "a leaked slot of the team": (("HINCRBY", "{state}", "open", "1"), {"open"}),
    "a leaked slot of a key": (("HINCRBY", "{state}", "{key}:open", "1"), {"open:{key}"}),
    "a key's budget": (("HINCRBY", "{state}", "{key}:total_usd", "1"), {"total_usd:{key}"}),
    "a budget of tokens": (("HINCRBY", "{state}", "total_tokens", "1"), {"total_tokens"}),
    "a key's budget of tokens": (("HINCRBY", "{state}", "{key}:total_tokens", "1"), {"total_tokens:{key}"}),
    "a counter that is no number": (("HSET", "{state}", "{key}:open", "x"), {"unreadable:{key}:open"}),
    "a hold that is none": (("HSET", "{held}", "x", "y"), {"unreadable:x"}),
    "an entry that is none": (("XADD", "{journal}", "*", "what", "ever"), {"unreadable"}),
    "a hold without an expiry": (("DEL", "{holds}"), {"holds"}),
    "an entry that is not true": (
        ("XADD", "{journal}", "*", "type", "grant", "id", "x", "amount", "5", "balance", "3"),
        {"balance_after", "balance", "entries:granted"},
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_every_tampering_is_named(parts: LedgerParts, what: str) -> None:
    key = await busy_team(parts)
    names = TeamKeys(key.team_id)
    places = {
        "state": names.state,
        "holds": names.holds,
        "held": names.held,
        "journal": names.journal,
        "key": key.key_id,
    }
    command, expected = TAMPERED[what]
    await parts.store.run(*(_filled(word, places) for word in command))
    assert await names_of(parts, key) == {_filled(name, places) for name in expected}


def _filled(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace("{" + name + "}", value)
    return word


async def test_a_difference_says_what_was_expected_what_found_and_where(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=100)
    fields = ("type", "settle", "id", "r", "key", key.key_id, "amount", "-5", "balance", "90")
    counts = ("in", "0", "cached", "0", "out", "0", "reasoning", "0")
    entry = await parts.store.run("XADD", TeamKeys(key.team_id).journal, "*", *fields, *counts)
    first = (await verify(parts.store, key.team_id)).differences[0]
    assert (first.name, first.expected, first.found, first.entry_id) == ("balance_after", 95, 90, entry.decode())


@pytest.mark.parametrize("place", [0, 2, -1])
async def test_an_entry_that_was_taken_out_by_hand_is_named_retention_is_not(parts: LedgerParts, place: int) -> None:
    key = await busy_team(parts)
    journal = TeamKeys(key.team_id).journal
    await parts.store.run("XTRIM", journal, "MAXLEN", "5")
    assert (await verify(parts.store, key.team_id)).ok
    entry = (await parts.store.run("XRANGE", journal, "-", "+"))[place][0]
    await parts.store.run("XDEL", journal, entry)
    found = {one.name: one.entry_id for one in (await verify(parts.store, key.team_id)).differences}
    assert found["deleted"] == entry.decode()


async def test_books_whose_oldest_entries_are_gone_still_verify(parts: LedgerParts) -> None:
    key = await busy_team(parts)
    names = TeamKeys(key.team_id)
    await parts.store.run("XTRIM", names.journal, "MAXLEN", "3")
    found = await verify(parts.store, key.team_id)
    assert (found.ok, found.entries, found.complete) == (True, 3, False)
    await parts.store.run("HINCRBY", names.state, "available", "1")
    assert await names_of(parts, key) == {"balance", "granted"}


async def test_entries_are_read_page_by_page_and_by_period(parts: LedgerParts) -> None:
    key = await busy_team(parts)
    journal = Journal(parts.store)
    every = [entry async for page in journal.export(key.team_id) for entry in page]
    assert [entry.type for entry in every] == ["grant", "adjust", "settle", "settle", "void", "expire"]
    assert [entry.amount for entry in every] == [1000, -100, -20, -70, 0, 0]
    assert [entry.balance for entry in every] == [1000, 900, 880, 810, 810, 810]
    seen: list[Entry] = []
    after: str | None = None
    while True:
        page = await journal.entries(key.team_id, limit=4, after=after)
        seen += page.data
        after = page.next
        if after is None:
            break
    assert seen == every
    later = await journal.entries(key.team_id, from_ms=every[-1].at_ms + 1)
    assert later.data == ()
    earlier = await journal.entries(key.team_id, to_ms=every[0].at_ms)
    assert earlier.data == ()
    assert (await journal.entries(key.team_id, after=every[0].id, from_ms=every[-1].at_ms + 1)).data == ()


@pytest.mark.parametrize("cursor", ["x", "1", "1-", "-1", "1-x", "\u0661-\u0661", "(1-1"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(GatewayError, match="cursor"):
        check_cursor(cursor)


async def test_a_request_is_found_while_it_runs_and_after_it_ended(parts: LedgerParts) -> None:
    key, signed_out = await parts.new_key(), await parts.new_key()
    journal = Journal(parts.store)
    teams = [signed_out.team_id, key.team_id]
    hold = (await parts.ledger.admit(ask(key, 50))).hold
    running = await journal.find(teams, hold.id, remembered_s=DAY_S)
    assert running is not None
    assert running.open is not None
    assert (running.team_id, running.open.amount, running.open.key_id) == (key.team_id, 50, key.key_id)
    await parts.ledger.settle(settled(hold, cost=20))
    ended = await journal.find(teams, hold.id, remembered_s=DAY_S)
    assert ended is not None
    assert ended.entry is not None
    assert (ended.open, ended.kind, ended.cost, ended.settled_by) == (None, "settle", 20, "usage")
    assert (ended.entry.ref, ended.entry.hold, ended.entry.amount) == (hold.id, 50, -20)
    assert await journal.find([signed_out.team_id], hold.id, remembered_s=DAY_S) is None


async def test_an_expired_request_is_found_in_its_teams_journal(parts: LedgerParts) -> None:
    key = await parts.new_key()
    hold = (await parts.ledger.admit(ask(key, 50))).hold
    await parts.expire(key, hold.id)
    journal = Journal(parts.store)
    assert await journal.find([key.team_id], hold.id, remembered_s=DAY_S) is None
    found = await journal.find_expired(key.team_id, hold.id)
    assert found is not None
    assert (found.kind, found.cost, found.settled_by) == ("expire", 0, "expired")
    assert await journal.find_expired(key.team_id, "req_nobody") is None
