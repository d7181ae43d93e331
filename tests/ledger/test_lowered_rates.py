"""A rate that an admin lowers: who was busy at the old one waits for a share of a minute, and not for many minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

from gateway.accounts.accounts import Changes
from gateway.accounts.overrides import Override
from gateway.identity.api_keys import ApiKey
from gateway.ledger.verification import verify
from tests.support.ledgers import ask, settled
from tests.support.stopped_clock import START_MS, Bench, new_key

HIGH, LOW = 120, 6
SHARE_MS: Final = 60_000 // LOW
HOUR_MS: Final = 3_600_000
RATES: Final = ("rpm", "tpm", "rpm@p/*", "tpm@p/m", "end_user.rpm", "end_user.tpm@p/*")


async def _use_up(bench: Bench, key: ApiKey, most: int = HIGH) -> None:
    assert [await bench.refusal(key, 1, 1) for _ in range(most)] == [None] * most
    assert await bench.refusal(key, 1, 1) is not None


async def _by_lead(bench: Bench, key: ApiKey, limits: Mapping[str, int]) -> None:
    accounts = bench.one.accounts
    team = await accounts.team(key.team_id)
    await accounts.update_key(team, await accounts.key(team, key.key_id), Changes(limits=limits), by_operator=False)


@pytest.mark.parametrize("of_key", [False, True], ids=["team", "key"])
@pytest.mark.parametrize("for_a_while", [False, True], ids=["for good", "for a while"])
@pytest.mark.parametrize("name", RATES)
async def test_who_was_busy_at_the_old_rate_goes_on_at_the_new_one(
    bench: Bench, name: str, for_a_while: bool, of_key: bool
) -> None:
    key = await new_key(bench, {name: HIGH}, of_key)
    await _use_up(bench, key)
    if for_a_while:
        await bench.override(key, of_key, overrides={name: Override(LOW, START_MS + HOUR_MS)})
    else:
        await bench.override(key, of_key, limits={name: LOW})
    passed = 0
    while await bench.refusal(key, 1, 1) is None:
        passed += 1
    assert passed <= LOW
    refused = await bench.refusal(key, 1, 1)
    assert refused is not None
    assert refused.wait_ms == SHARE_MS
    await bench.at(START_MS + SHARE_MS)
    assert await bench.refusal(key, 1, 1) is None
    assert await bench.refusal(key, 1, 1) is not None
    assert (await verify(bench.one.store, key.team_id)).differences == ()


@pytest.mark.parametrize("name", ["rpm", "tpm"])
async def test_a_plain_rate_that_was_used_up_is_still_used_up(bench: Bench, name: str) -> None:
    key = await new_key(bench, {name: HIGH}, of_key=False)
    await _use_up(bench, key)
    await bench.override(key, of_key=False, limits={name: LOW})
    assert await bench.refusal(key, 1, 1) is not None
    await bench.override(key, of_key=False, limits={name: HIGH})
    assert [await bench.refusal(key, 1, 1) for _ in range(HIGH - LOW)] == [None] * (HIGH - LOW)
    assert await bench.refusal(key, 1, 1) is not None


@pytest.mark.parametrize("name", RATES)
async def test_a_lead_gets_no_fresh_minute_of_an_operators_rate_by_lowering_and_raising_it(
    bench: Bench, name: str
) -> None:
    key = await new_key(bench, {name: HIGH}, of_key=True)
    await _use_up(bench, key)
    await _by_lead(bench, key, {name: LOW})
    await bench.refusal(key, 1, 1)
    await _by_lead(bench, key, {name: HIGH})
    refused = await bench.refusal(key, 1, 1)
    assert refused is not None
    assert refused.wait_ms == 60_000 // HIGH


@pytest.mark.parametrize("name", RATES)
async def test_a_stop_for_a_while_forgives_nothing(bench: Bench, name: str) -> None:
    key = await new_key(bench, {name: LOW}, of_key=False)
    await _use_up(bench, key, LOW)
    await bench.override(key, of_key=False, overrides={name: Override(0, START_MS + 1)})
    await bench.at(START_MS + 1)
    refused = await bench.refusal(key, 1, 1)
    assert refused is not None
    assert refused.wait_ms is not None
    assert SHARE_MS - 1 <= refused.wait_ms <= SHARE_MS


async def test_what_runs_meanwhile_gives_back_no_more_than_a_minute(bench: Bench) -> None:
    key = await new_key(bench, {"tpm": HIGH}, of_key=False)
    hold = (await bench.one.ledger.admit(ask(key, 1, HIGH))).hold
    await bench.override(key, of_key=False, limits={"tpm": LOW})
    assert await bench.refusal(key, 1, 1) is not None
    await bench.one.ledger.settle(settled(hold, 0, 0))
    assert [await bench.refusal(key, 1, 1) for _ in range(LOW)] == [None] * LOW
    assert await bench.refusal(key, 1, 1) is not None
