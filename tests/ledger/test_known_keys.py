"""What is asked before a request is admitted: whether its key is valid."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey, new_id, new_secret, parse_api_key
from gateway.ledger.known_responses import KnownResponses
from tests.support.ledgers import LedgerParts, open_ledger
from tests.support.servers import Server


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path) as parts:
        yield parts


async def refused(known: KnownResponses, key: ApiKey) -> str:
    with pytest.raises(GatewayError) as caught:
        await known.check(key)
    return caught.value.code


async def test_a_known_keys_wrong_secret_opens_nothing(parts: LedgerParts) -> None:
    known = KnownResponses(parts.store, ttl_s=60)
    key = await parts.new_key()
    await known.check(key)
    wrong = parse_api_key(new_secret(key.team_id, key.key_id)[0])
    assert wrong.secret_hash != key.secret_hash
    for other in (
        wrong,
        dataclasses.replace(key, key_id=new_id()),
        dataclasses.replace(key, team_id=new_id()),
        dataclasses.replace(key, secret_hash=""),
    ):
        assert await refused(known, other) == "invalid_api_key"
