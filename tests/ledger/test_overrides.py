"""Limits that hold for a while instead of others, exact to the millisecond: on a store whose clock a test sets."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from gateway.accounts.limit_names import MODELS
from gateway.accounts.overrides import ENDED_RATE_LIFE_MS, Override
from gateway.errors import GatewayError
from gateway.ledger.verification import verify
from gateway.store.keyspace import TeamKeys
from tests.support.ledgers import ask, settled
from tests.support.stopped_clock import START_MS, Bench, new_key

BUDGETS: Final = (
    "budget_usd_hour",
    "budget_usd_day",
    "budget_tokens_total",
    "budget_usd_week",
    "budget_usd_7d",
    "budget_usd_day@p/*",
)


@pytest.mark.parametrize("of_key", [False, True], ids=["team", "key"])
@pytest.mark.parametrize("name", ["rpm", "tpm", *BUDGETS, "rpm@p/m", "tpm@p/*"])
async def test_a_higher_limit_ends_to_the_millisecond_on_every_worker(bench: Bench, name: str, of_key: bool) -> None:
    key = await new_key(bench, {name: 3}, of_key)
    until_ms = START_MS + 30_000
    await bench.override(key, of_key, overrides={name: Override(9, until_ms)})
    one = {"amount": 3, "tokens": 3} if name.startswith("rpm") else {"amount": 1, "tokens": 1}
    await bench.at(until_ms - 1)
    assert [await bench.refusal(key, **one) for _ in range(9)] == [None] * 9
    refused = await bench.refusal(key, **one)
    assert refused is not None
    assert refused.explain["limit"] == name.partition(MODELS)[0]
    assert refused.explain["limit_value"] in (9, "0.000000009")
    shown = (await bench.shown(key, of_key))[name]
    assert (shown.get("limit"), shown.get("limit_usd")) in ((9, None), (None, "0.000000009"))
    assert shown["override"]["otherwise"] in (3, "0.000000003")
    await bench.at(until_ms)
    for _ in bench.workers:
        refused = await bench.refusal(key, **one)
        assert refused is not None
        assert refused.explain["limit_value"] in (3, "0.000000003")
    assert "override" not in (await bench.shown(key, of_key))[name]
    assert (await verify(bench.one.store, key.team_id)).differences == ()


@pytest.mark.parametrize("of_key", [False, True], ids=["team", "key"])
@pytest.mark.parametrize("name", ["rpm", "tpm", *BUDGETS, "rpm@p/m", "tpm@p/*", "concurrency", "concurrency@p/*"])
async def test_who_waits_for_the_end_of_a_lower_limit_is_served(bench: Bench, name: str, of_key: bool) -> None:
    key = await new_key(bench, {name: 50}, of_key)
    until_ms = START_MS + 3_000
    await bench.override(key, of_key, overrides={name: Override(0, until_ms)})
    refused = await bench.refusal(key)
    assert refused is not None
    assert refused.wait_ms == 3_000
    assert "never" not in refused.message
    await bench.at(until_ms - 1)
    assert await bench.refusal(key) is not None
    await bench.at(until_ms)
    assert await bench.refusal(key) is None


@pytest.mark.parametrize("name", ["rpm", "tpm", *BUDGETS, "concurrency", "rpm@p/*", "concurrency@p/m"])
async def test_no_limit_for_a_while_and_a_limit_for_a_while_alone(bench: Bench, name: str) -> None:
    key = await new_key(bench, {name: 2}, of_key=False)
    until_ms = START_MS + 60_000
    await bench.override(key, of_key=False, overrides={name: Override(None, until_ms)})
    holds = [(await bench.one.ledger.admit(ask(key, 1, 1))).hold for _ in range(5)]
    shown = (await bench.shown(key, of_key=False))[name]
    assert shown.get("limit", shown.get("limit_usd")) is None
    await bench.at(until_ms)
    refused = await bench.refusal(key, 1, 1)
    if name.startswith(("rpm", "tpm")):
        assert refused is None, "nothing was counted"
    else:
        assert refused is not None, "what was counted without the limit counts"
    for hold in holds:
        await bench.one.ledger.settle(settled(hold, 0, 0))
    await bench.override(key, of_key=False, limits={name: None})
    await bench.override(key, of_key=False, overrides={name: Override(0, until_ms + 60_000)})
    assert await bench.refusal(key, 1, 1) is not None
    await bench.at(until_ms + 60_000)
    assert [await bench.refusal(key, 100, 100) for _ in range(3)] == [None] * 3
    assert await bench.shown(key, of_key=False) == {}
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_a_cap_on_output_and_a_queue_can_be_overridden(bench: Bench) -> None:
    key = await new_key(bench, {"max_output_tokens": 10, "queue_s": 5, "queue_length": 5, "rpm": 1}, of_key=False)
    until_ms = START_MS + 1000
    given = {"max_output_tokens": Override(100, until_ms), "queue_s": Override(0, until_ms)}
    await bench.override(key, of_key=False, overrides=given)
    assert await bench.refusal(key, max_output_tokens=50) is None
    refused = await bench.refusal(key)
    assert getattr(refused, "queue_s", None) == 0
    await bench.at(until_ms)
    refused = await bench.refusal(key, max_output_tokens=50)
    assert refused is not None
    assert refused.explain["limit"] == "max_output_tokens"
    assert getattr(await bench.refusal(key), "queue_s", None) == 5


async def test_an_override_that_is_ended_early_forgives_what_the_limit_does_not_permit(bench: Bench) -> None:
    key = await new_key(bench, {"rpm": 6}, of_key=False)
    await bench.override(key, of_key=False, overrides={"rpm": Override(600, START_MS + 3_600_000)})
    assert [await bench.refusal(key) for _ in range(600)] == [None] * 600
    await bench.override(key, of_key=False, overrides={"rpm": None})
    refused = await bench.refusal(key)
    assert refused is not None
    assert refused.wait_ms == 10_000, "a full minute of the former limit is used, not a hundred"
    await bench.at(START_MS + 10_000)
    assert await bench.refusal(key) is None
    team = await bench.one.accounts.team(key.team_id)
    assert team.overrides["rpm"].until_ms == START_MS, "kept, because a worker may not have looked yet"
    assert await bench.refusal(key) is not None
    await bench.at(START_MS + ENDED_RATE_LIFE_MS + 1)
    assert await bench.refusal(key) is None
    await bench.override(key, of_key=False, metered=False)
    assert await bench.one.store.run("HGET", TeamKeys(team.id).team, "t:rpm") is None
    assert (await bench.one.accounts.team(team.id)).rules == ""


async def test_overrides_of_several_limits_end_one_by_one(bench: Bench) -> None:
    key = await new_key(bench, {"budget_usd_day": 10, "budget_tokens_day": 10}, of_key=False)
    for name, seconds in (("budget_usd_day", 10), ("budget_tokens_day", 20), ("budget_usd_day@p/*", 30)):
        override = Override(5 if MODELS in name else 100, START_MS + seconds * 1000)
        await bench.override(key, of_key=False, overrides={name: override})
    limits = []
    for seconds in (9, 10, 20, 30):
        await bench.at(START_MS + seconds * 1000)
        refused = await bench.refusal(key, amount=50, tokens=50)
        limits.append(refused and (refused.explain["limit"], refused.explain.get("model_pattern")))
    assert limits == [("budget_usd_day", "p/*"), ("budget_usd_day", None), ("budget_usd_day", None), *limits[3:]]
    shown = await bench.shown(key, of_key=False)
    assert {name: one.get("limit_usd", one.get("limit")) for name, one in shown.items()} == {
        "budget_usd_day": "0.00000001",
        "budget_tokens_day": 10,
    }


async def test_a_limit_for_a_while_alone_that_returns_counts_anew_and_is_not_counted_down_by_those_of_before(
    bench: Bench,
) -> None:
    key, name = await new_key(bench, {}, of_key=False), "concurrency@p/*"
    await bench.override(key, of_key=False, overrides={name: Override(5, START_MS + 1000)})
    before = [(await bench.one.ledger.admit(ask(key))).hold for _ in range(3)]
    await bench.at(START_MS + 1000)
    await bench.override(key, of_key=False, overrides={name: Override(2, START_MS + 2000)})
    for _ in range(2):
        await bench.one.ledger.admit(ask(key))
    for hold in before:
        await bench.one.ledger.settle(settled(hold, cost=1))
    assert await bench.refusal(key) is not None
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_a_local_budget_without_its_limit_for_a_while_counts_on(bench: Bench) -> None:
    key = await new_key(bench, {"budget_usd_day": 10}, of_key=False)
    await bench.override(key, of_key=False, timezone="Asia/Kolkata")
    assert await bench.refusal(key, amount=8) is None
    await bench.at(START_MS + 18 * 3_600_000)  # the next day in India
    until_ms = bench.now_ms + 60_000
    await bench.override(key, of_key=False, overrides={"budget_usd_day": Override(None, until_ms)})
    assert await bench.refusal(key, amount=5) is None
    await bench.at(until_ms)
    assert await bench.refusal(key, amount=6) is not None
    assert await bench.refusal(key, amount=5) is None


async def test_one_that_has_passed_is_refused_with_the_reason_by_the_stores_clock(bench: Bench) -> None:
    key = await new_key(bench, {"rpm": 6}, of_key=True)
    for of_key in (False, True):
        with pytest.raises(GatewayError) as refused:
            await bench.override(key, of_key, overrides={"rpm": Override(9, START_MS)})
        assert (refused.value.code, refused.value.param) == ("invalid_field", "overrides.rpm.until")
        assert "has passed" in refused.value.message
    await bench.override(key, of_key=True, overrides={"rpm": Override(9, START_MS + 1)})
    await bench.at(START_MS + 1)
    await bench.override(key, of_key=True, overrides={"rpm": Override(9, START_MS + 1)}, name="what a form sends again")


async def test_changes_at_once_lose_no_override(bench: Bench) -> None:
    key = await new_key(bench, {}, of_key=False)
    names = [f"budget_usd_{days}d" for days in range(1, 9)]
    await asyncio.gather(
        *(bench.override(key, of_key=False, overrides={name: Override(5, START_MS + 60_000)}) for name in names)
    )
    assert set(await bench.shown(key, of_key=False)) == set(names)


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize("name", ["tpm", "tpm@p/*"])
async def test_settling_behind_the_end_gives_back_nothing_that_others_have_used(
    bench: Bench, name: str, looked_at: bool
) -> None:
    key = await new_key(bench, {name: 1000}, of_key=False)
    until_ms = START_MS + 10_000
    await bench.override(key, of_key=False, overrides={name: Override(100_000, until_ms)})
    await bench.at(until_ms - 1)
    held = (await bench.one.ledger.admit(ask(key, tokens=50_000))).hold
    assert await bench.refusal(key, tokens=400) is None
    await bench.at(until_ms + 1)
    if looked_at:
        assert await bench.refusal(key, tokens=0) is None
    await bench.one.ledger.settle(settled(held, 1, tokens=100))
    shown = (await bench.shown(key, of_key=False))[name]
    assert shown["remaining"] == (0 if looked_at else 501), "cut to a full bucket, it has no room for what comes back"


@pytest.mark.parametrize("name", ["tpm", "tpm@p/*"])
async def test_settling_in_time_gives_back_what_has_not_drained_at_the_rate_that_holds(bench: Bench, name: str) -> None:
    key = await new_key(bench, {name: 600}, of_key=False)
    await bench.override(key, of_key=False, overrides={name: Override(60_000, START_MS + 60_000)})
    held = (await bench.one.ledger.admit(ask(key, tokens=10_000))).hold
    await bench.at(START_MS + 9_000)
    assert await bench.refusal(key, tokens=5_000) is None
    await bench.one.ledger.settle(settled(held, 1, tokens=0))
    assert (await bench.shown(key, of_key=False))[name]["remaining"] == 55_000


@pytest.mark.parametrize("name", ["tpm", "tpm@p/*"])
@pytest.mark.parametrize(("base", "left"), [(100_000, 99_000), (None, None)])
async def test_settling_behind_the_end_of_a_lower_limit_gives_back_all(
    bench: Bench, name: str, base: int | None, left: int | None
) -> None:
    key = await new_key(bench, {} if base is None else {name: base}, of_key=False)
    until_ms = START_MS + 1
    await bench.override(key, of_key=False, overrides={name: Override(50_000, until_ms)})
    held = (await bench.one.ledger.admit(ask(key, tokens=50_000))).hold
    await bench.at(until_ms)
    await bench.one.ledger.settle(settled(held, 1, tokens=1_000))
    shown = (await bench.shown(key, of_key=False)).get(name)
    assert (shown and shown["remaining"]) == left


@pytest.mark.parametrize("name", ["tpm", "tpm@p/*"])
async def test_settling_more_than_was_held_behind_the_end_counts_at_the_limit_that_holds_again(
    bench: Bench, name: str
) -> None:
    key = await new_key(bench, {name: 600}, of_key=False)
    await bench.override(key, of_key=False, overrides={name: Override(60_000, START_MS + 1000)})
    held = (await bench.one.ledger.admit(ask(key, tokens=30_000))).hold
    await bench.at(START_MS + 1001)
    await bench.one.ledger.settle(settled(held, 1, tokens=30_060))
    refused = await bench.refusal(key, tokens=600)
    assert refused is not None
    assert refused.wait_ms == 60_000 - 1 + 6_000
