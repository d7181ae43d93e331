"""End users in tests of their limits: requests for them, and what the store counts for each.

await parts.ledger.admit(ask(key, BOB))
until_ms, running, meters = (await entries(parts, key))[BOB]
"""

from __future__ import annotations

import os
from typing import Any, Final

import orjson
import pytest

from gateway.billing.hold import FREE
from gateway.identity.api_keys import ApiKey
from gateway.ledger.admissions import AdmissionRefused, AdmissionRequest
from gateway.ledger.refusals import Demand
from gateway.routing.model_patterns import specificity
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import LedgerParts

UNPACKED: Final = """
local flat = redis.call('HGETALL', KEYS[1])
for i = 2, #flat, 2 do flat[i] = cjson.encode({ cmsgpack.unpack(flat[i]) }) end
return flat
"""
BOB, EVE, ANA = "b0b", "e5e", "a2a"


def ask(
    key: ApiKey, end_user: str, amount: int = 10, tokens: int = 2, model: str = "a/one", **more: Any
) -> AdmissionRequest:
    demand = Demand(model, amount, tokens // 2, tokens - tokens // 2, FREE)
    request_id = f"req_{os.urandom(8).hex()}"
    return AdmissionRequest(request_id, key, specificity(model), demand, None, end_user=end_user, **more)


async def refused(parts: LedgerParts, request: AdmissionRequest) -> AdmissionRefused:
    with pytest.raises(AdmissionRefused) as found:
        await parts.ledger.admit(request)
    return found.value


async def entries(parts: LedgerParts, key: ApiKey) -> dict[str, tuple[int, int, dict[str, Any]]]:
    """By end user: until when it counts, how many run, the meters by id."""
    name = TeamKeys(key.team_id).end_users
    flat = await parts.store.run("EVAL", UNPACKED, "1", name)
    return {user.decode(): orjson.loads(entry) for user, entry in zip(flat[::2], flat[1::2], strict=True)}
