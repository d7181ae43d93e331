"""Verification notices what is gone: teams and keys that something still names, however they were lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.ledger.missing import find_missing
from gateway.ledger.verification import verify
from gateway.store.keyspace import KEY_TEAMS, TEAMS, TeamKeys
from tests.support.ledgers import LedgerParts, ask, open_ledger, settled
from tests.support.servers import Server


@pytest.fixture
async def parts(own_store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(own_store.url, tmp_path) as parts:
        yield parts


async def _missing(parts: LedgerParts) -> dict[str, set[str]]:
    return {
        found.verification.team_id: {difference.name for difference in found.verification.differences}
        for found in await find_missing(parts.store)
    }


async def test_where_nothing_is_gone_nothing_is_missing(parts: LedgerParts) -> None:
    key = await parts.new_key()
    await parts.another_key(key.team_id)
    assert await _missing(parts) == {}
    assert (await verify(parts.store, key.team_id)).ok


async def test_a_team_that_is_gone_is_named_by_what_is_left_of_it(parts: LedgerParts) -> None:
    key, other = await parts.new_key(), await parts.new_key()
    names = TeamKeys(key.team_id)
    await parts.store.run("DEL", names.team)
    assert await _missing(parts) == {key.team_id: {"team"}}
    await parts.store.run("DEL", names.keys)
    await parts.store.run("DEL", names.key(key.key_id))
    await parts.store.run("ZREM", TEAMS, key.team_id)
    assert await _missing(parts) == {key.team_id: {"team", f"key:{key.key_id}"}}
    [found] = await find_missing(parts.store)
    assert found.name.startswith("ledger-"), "its name is still taken"
    assert (await verify(parts.store, other.team_id)).ok


async def test_a_list_of_teams_that_is_gone_is_noticed(parts: LedgerParts) -> None:
    keys = [await parts.new_key() for _ in range(3)]
    await parts.store.run("DEL", TEAMS)
    assert await _missing(parts) == {key.team_id: {"listed"} for key in keys}


@pytest.mark.parametrize("left", ["list", "journal and counters", "the list of all keys"])
async def test_a_key_that_is_gone_is_named_by_whatever_is_left(parts: LedgerParts, left: str) -> None:
    key = await parts.new_key()
    names = TeamKeys(key.team_id)
    if left == "journal and counters":
        await parts.ledger.settle(settled((await parts.ledger.admit(ask(key))).hold, cost=1))
    await parts.store.run("DEL", names.key(key.key_id))
    if left != "list":
        await parts.store.run("ZREM", names.keys, key.key_id)
    if left != "the list of all keys":
        await parts.store.run("HDEL", KEY_TEAMS, key.key_id)
        assert {difference.name for difference in (await verify(parts.store, key.team_id)).differences} == {
            f"key:{key.key_id}"
        }
    else:
        assert await _missing(parts) == {key.team_id: {f"key:{key.key_id}"}}
