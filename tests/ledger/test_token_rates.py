"""Tokens per minute: reserved by estimate, corrected at settlement, and never returned twice."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.accounts.accounts import Changes
from gateway.billing.settlement import Hold
from gateway.identity.api_keys import ApiKey
from gateway.store.keyspace import TeamKeys
from gateway.store.script import Script
from tests.support.counters import set_counters
from tests.support.effort import effort
from tests.support.ledgers import LedgerParts, ask, open_ledger, settled
from tests.support.servers import Server

LIMIT = 600  # ten per second, so that a test's own duration matters little
MINUTE_MS = 60_000


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path) as parts:
        yield parts


async def level(parts: LedgerParts, key: ApiKey) -> float:
    """Returns the tokens in the team's bucket."""
    view = await parts.accounts.view(await parts.accounts.team(key.team_id))
    return view.team["used_tk"] / MINUTE_MS


async def admitted_ago(parts: LedgerParts, key: ApiKey, tokens: int, ago_ms: int) -> Hold:
    """Returns a hold as if its request had been admitted earlier."""
    hold = (await parts.ledger.admit(ask(key, tokens=tokens))).hold
    text = f"10 {tokens} {hold.admitted_ms - ago_ms} {key.key_id} 2"
    await parts.store.run("HSET", TeamKeys(key.team_id).held, hold.id, text)
    return hold


async def test_what_was_not_used_leaves_the_bucket_at_once(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"tpm": LIMIT})
    hold = (await parts.ledger.admit(ask(key, tokens=500))).hold
    assert 450 < await level(parts, key) <= 500
    await parts.ledger.settle(settled(hold, cost=1, tokens=100))
    assert 50 < await level(parts, key) <= 100


async def test_more_than_was_reserved_is_counted_in_full(parts: LedgerParts) -> None:
    key = await parts.new_key(limits={"tpm": LIMIT})
    hold = (await parts.ledger.admit(ask(key, tokens=10))).hold
    await parts.ledger.settle(settled(hold, cost=1, tokens=700))
    assert 640 < await level(parts, key) <= 700


async def test_a_reservation_that_has_drained_gives_back_nothing_of_what_others_used(
    parts: LedgerParts, store: Server
) -> None:
    key = await parts.new_key(limits={"tpm": LIMIT})
    hold = await admitted_ago(parts, key, 500, ago_ms=MINUTE_MS)
    now_ms = time.time_ns() // 1_000_000
    set_counters(store, key.team_id, key.key_id, "team", tk=LIMIT * MINUTE_MS, tk_ms=now_ms)  # used by others since
    await parts.ledger.settle(settled(hold, cost=0, tokens=0))
    assert LIMIT - 50 < await level(parts, key) <= LIMIT


async def test_a_limit_set_while_a_request_runs_counts_what_it_used_and_takes_nothing_away(parts: LedgerParts) -> None:
    key = await parts.new_key()
    hold = (await parts.ledger.admit(ask(key, tokens=500))).hold
    team = await parts.accounts.team(key.team_id)
    await parts.accounts.update_team(team, Changes(limits={"tpm": LIMIT}))
    other = (await parts.ledger.admit(ask(key, tokens=300))).hold
    await parts.ledger.settle(settled(hold, cost=0, tokens=100))
    assert 350 < await level(parts, key) <= 400
    await parts.ledger.settle(settled(other, cost=0, tokens=300))
    assert 350 < await level(parts, key) <= 400


TOKENS, PAUSE_MS = st.integers(0, 400), st.integers(0, 90_000)
REQUESTS = st.lists(st.tuples(TOKENS, TOKENS, PAUSE_MS, TOKENS, PAUSE_MS), min_size=1, max_size=5)
# Two buckets (level, time): one reserves and is corrected at the end, the other knew from the start what would be used.
# In the middle of each request another request uses tokens.
RACE: Final = """
--@include common
--@include resolving
local limit, now, real, known = tonumber(ARGV[1]), 0, { 0, 0 }, { 0, 0 }
local function add(reserved, used)
  real[1], known[1] = real[1] + reserved * MINUTE_MS, known[1] + used * MINUTE_MS
end
local function pass(ms)
  now = now + ms
  drain(real, 1, limit, now)
  drain(known, 1, limit, now)
end
for i = 2, #ARGV, 5 do
  local hold, used = { tokens = ARGV[i] + 0, admitted_ms = now }, ARGV[i + 1] + 0
  add(hold.tokens, used)
  pass(ARGV[i + 2] + 0)
  add(ARGV[i + 3] + 0, ARGV[i + 3] + 0)
  pass(ARGV[i + 4] + 0)
  real[1] = corrected_level(real[1], hold, true, used, limit, now)
  if real[1] < known[1] then return { i, real[1], known[1] } end
end
return {}
"""


@given(requests=REQUESTS)
@settings(max_examples=effort(200))
def test_a_corrected_bucket_is_never_emptier_than_one_that_had_known_from_the_start(
    store: Server, requests: list[tuple[int, int, int, int, int]]
) -> None:
    words = [number for request in requests for number in request]
    assert store.run("EVAL", Script.from_text("race", RACE).source, 1, "race", LIMIT, *words) == []
