"""A store's clock that is set back, sums that outgrow a double, and how much of a minute's limit may come at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.billing.money import MAX_NANO_USD
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.verification import verify
from tests.support.counters import set_counters
from tests.support.ledgers import LedgerParts, ask, open_ledger, settled
from tests.support.servers import Server

USD = 10**9
AHEAD_MS = 40 * 86_400_000


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path) as parts:
        yield parts


async def _refused(parts: LedgerParts, key: ApiKey, amount: int = 10) -> str | None:
    """Which limit refuses, or None; what is admitted is settled for what it held."""
    try:
        admission = await parts.ledger.admit(ask(key, amount))
    except GatewayError as error:
        return str(error.explain["limit"])
    await parts.ledger.settle(settled(admission.hold, cost=amount))
    return None


async def _now_ms(parts: LedgerParts) -> int:
    seconds, microseconds = await parts.store.run("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


@pytest.mark.parametrize("period", ["hour", "day", "month"])
async def test_a_clock_that_was_set_back_resets_no_budget(parts: LedgerParts, store: Server, period: str) -> None:
    key = await parts.new_key(limits={f"budget_usd_{period}": 25})
    assert [await _refused(parts, key) for _ in range(3)] == [None, None, f"budget_usd_{period}"]
    ahead = await _now_ms(parts) + AHEAD_MS  # what was counted, was counted then: the clock has been set back since
    reached = {"hour": ahead // 3_600_000, "day": ahead // 86_400_000, "month": 2100 * 12}
    for scope in ("team", "key"):
        set_counters(store, key.team_id, key.key_id, scope, **reached)
    assert await _refused(parts, key) == f"budget_usd_{period}"
    assert await _refused(parts, key, amount=5) is None, "what is left of it may be used"
    assert await _refused(parts, key, amount=1) == f"budget_usd_{period}", "and is counted"
    (await parts.books(key)).check()


@pytest.mark.parametrize("rate", ["rpm", "tpm"])
async def test_a_clock_that_was_set_back_locks_no_rate(parts: LedgerParts, store: Server, rate: str) -> None:
    key = await parts.new_key(limits={rate: 60_000})  # one a millisecond
    full, ahead = 60_000 * 60_000, await _now_ms(parts) + AHEAD_MS
    bucket = {"rpm": "rq", "tpm": "tk"}[rate]
    for scope in ("team", "key"):
        set_counters(store, key.team_id, key.key_id, scope, **{bucket: full, f"{bucket}_ms": ahead})
    with pytest.raises(GatewayError) as refused:
        await parts.ledger.admit(ask(key))
    assert refused.value.wait_ms is not None
    assert refused.value.wait_ms < 1000, "it drains from now on, and not when the clock has caught up"


async def test_a_balance_is_bounded_and_not_the_sum_of_all_grants(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=0)
    for _ in range(3):  # 27 million USD in and out, odd to the nano-dollar
        await parts.move(key, "grant", 9_000_000 * USD + 1)
        hold = (await parts.ledger.admit(ask(key, amount=9_000_000 * USD))).hold
        await parts.ledger.settle(settled(hold, cost=9_000_000 * USD + 1))
    await parts.move(key, "grant", 500_000 * USD)
    with pytest.raises(GatewayError, match="at most"):
        await parts.move(key, "grant", MAX_NANO_USD)
    for cost in (1, 3, 5, 7):
        await parts.ledger.settle(settled((await parts.ledger.admit(ask(key, amount=10))).hold, cost=cost))
    books = await parts.books(key)
    books.check()
    assert (books.granted, books.spent) == (27_500_000 * USD + 3, 27_000_000 * USD + 3 + 16)
    assert books.state["total_usd"] == books.state[f"{key.key_id}:total_usd"] == books.spent
    assert (await verify(parts.store, key.team_id)).differences == ()
    shown = await parts.accounts.view(await parts.accounts.team(key.team_id))
    assert (shown.balance.granted, shown.balance.spent) == (books.granted, books.spent)


async def test_what_is_held_is_a_part_of_the_balance(parts: LedgerParts) -> None:
    key = await parts.new_key(credit=MAX_NANO_USD)
    await parts.ledger.admit(ask(key, amount=MAX_NANO_USD))
    with pytest.raises(GatewayError, match="at most"):
        await parts.move(key, "grant", 1)


@pytest.mark.parametrize(("burst", "at_once"), [(1.0, 100), (0.1, 10), (0.001, 1)])
async def test_no_more_than_the_burst_comes_at_once(store: Server, tmp_path: Path, burst: float, at_once: int) -> None:
    async with open_ledger(store.url, tmp_path, burst=burst) as parts:
        key = await parts.new_key(limits={"rpm": 100})
        admitted = 0
        while await _refused(parts, key) is None:
            admitted += 1
        # A bucket of 100 a minute drains 1 in 600 ms, while the requests come in.
        assert at_once <= admitted <= at_once + 20
        shown = await parts.accounts.view(await parts.accounts.team(key.team_id))
        assert shown.team["rpm_left"] <= 1


async def test_a_request_that_is_larger_than_the_burst_passes_when_the_bucket_is_empty(
    store: Server, tmp_path: Path
) -> None:
    async with open_ledger(store.url, tmp_path, burst=0.1) as parts:
        key = await parts.new_key(limits={"tpm": 1000})
        hold = (await parts.ledger.admit(ask(key, tokens=900))).hold
        with pytest.raises(GatewayError) as refused:
            await parts.ledger.admit(ask(key, tokens=10))
        assert refused.value.explain["limit"] == "tpm"
        await parts.ledger.settle(settled(hold, cost=1, tokens=900))
