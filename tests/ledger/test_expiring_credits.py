"""Credits that expire: the oldest are spent first, and they are gone to the millisecond, on every worker."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from gateway.accounts.accounts import Accounts
from gateway.accounts.entities import Balance, Changes, Lot
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.journal import Journal
from gateway.ledger.known_responses import KnownResponses, correction, known_response_of
from gateway.ledger.verification import verify
from gateway.store.keyspace import REAPER_LOCK, TeamKeys
from tests.support.ledgers import DAY_S, LedgerParts, ask, open_ledger, settled, voided
from tests.support.servers import Server
from tests.support.stopped_clock import START_MS, Bench

SOON, LATER = START_MS + 10_000, START_MS + 20_000


async def grant(
    parts: LedgerParts, key: ApiKey, amount: int, expires_ms: int | None = None, kind: str = "grant"
) -> None:
    team = await parts.accounts.team(key.team_id)
    await parts.accounts.move_credits(team, kind, amount, expires_ms=expires_ms)


async def balance(bench: Bench, key: ApiKey) -> Balance:
    accounts = bench.one.accounts
    return (await accounts.view(await accounts.team(key.team_id))).balance


async def lots(bench: Bench, key: ApiKey) -> tuple[Lot, ...]:
    return (await balance(bench, key)).lots


async def entries(parts: LedgerParts, key: ApiKey, kind: str = "lapse") -> list[tuple[int, int]]:
    """Amount and expiry of the journal's entries of a type."""
    page = await Journal(parts.store).entries(key.team_id, type_=kind)
    return [(entry.amount, entry.expires_ms) for entry in page.data]


async def sweep(parts: LedgerParts) -> None:
    """What one worker does every few seconds."""
    await parts.store.run("DEL", REAPER_LOCK)
    await hold_expiry.expire_holds(parts.store, 5.0, 15.0)


@pytest.fixture
async def key(bench: Bench) -> ApiKey:
    """One with 100 that do not expire, 50 that expire later and 30 that expire soon, granted in this order."""
    key = await bench.one.new_key(credit=100)
    await grant(bench.one, key, 50, LATER)
    await grant(bench.one, key, 30, SOON)
    return key


async def test_what_expires_first_is_spent_first_and_a_refund_goes_back_there(bench: Bench, key: ApiKey) -> None:
    assert await balance(bench, key) == Balance(180, 180, 0, 0, (Lot(SOON, 30), Lot(LATER, 50)))
    hold = (await bench.one.ledger.admit(ask(key, amount=90))).hold
    assert await balance(bench, key) == Balance(180, 90, 90, 0)
    await bench.one.ledger.settle(settled(hold, cost=40))
    assert await balance(bench, key) == Balance(180, 140, 0, 40, (Lot(LATER, 40),))
    hold = (await bench.one.ledger.admit(ask(key, amount=45))).hold
    await bench.one.ledger.settle(voided(hold))
    assert await lots(bench, key) == (Lot(LATER, 40),)
    hold = (await bench.one.ledger.admit(ask(key, amount=10))).hold
    await bench.one.ledger.settle(settled(hold, cost=60))
    assert await balance(bench, key) == Balance(180, 80, 0, 100), "a cost above its hold takes them first, too"
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_the_example_of_the_manual(bench: Bench) -> None:
    """docs/limits-and-credits.md, in cents."""
    key = await bench.one.new_key(credit=1000)
    await grant(bench.one, key, 500, LATER)
    await grant(bench.one, key, 200, SOON)
    hold = (await bench.one.ledger.admit(ask(key, amount=300))).hold
    assert await balance(bench, key) == Balance(1700, 1400, 300, 0, (Lot(LATER, 400),))
    await bench.one.ledger.settle(settled(hold, cost=50))
    assert await balance(bench, key) == Balance(1700, 1650, 0, 50, (Lot(SOON, 150), Lot(LATER, 500)))
    hold = (await bench.one.ledger.admit(ask(key, amount=200))).hold
    assert await balance(bench, key) == Balance(1700, 1450, 200, 50, (Lot(LATER, 450),))
    await bench.at(SOON + 1000)
    await bench.one.ledger.settle(settled(hold, cost=100))
    assert await balance(bench, key) == Balance(1650, 1500, 0, 150, (Lot(LATER, 500),))
    assert await entries(bench.one, key) == [(-50, SOON)]


async def test_a_lot_is_gone_to_the_millisecond_on_every_worker_and_nothing_has_to_run(bench: Bench) -> None:
    key = await bench.one.new_key(credit=5)
    await grant(bench.one, key, 30, SOON)
    await bench.at(SOON - 1)
    assert await bench.refusal(key, amount=5) is None
    await bench.at(SOON)
    for _ in bench.workers:
        refused = await bench.refusal(key, amount=6)
        assert refused is not None
        assert (refused.explain["limit"], refused.explain["available_usd"]) == ("credits", "0.000000005")
        assert refused.explain["required_usd"] == "0.000000006"
    assert await balance(bench, key) == Balance(10, 5, 0, 5)
    assert await entries(bench.one, key) == [], "nobody has written yet"
    assert (await verify(bench.one.store, key.team_id)).differences == ()
    assert await bench.refusal(key, amount=5) is None
    assert await entries(bench.one, key) == [(-25, SOON)]
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_what_expired_is_journalled_though_nobody_uses_the_team(bench: Bench, key: ApiKey) -> None:
    await bench.at(LATER)
    await sweep(bench.one)
    await sweep(bench.one)
    assert await entries(bench.one, key) == [(-30, SOON), (-50, LATER)]
    page = await Journal(bench.one.store).entries(key.team_id, newest=True, limit=2)
    assert [entry.balance for entry in page.data] == [100, 150]
    assert await balance(bench, key) == Balance(100, 100, 0, 0)
    assert (await verify(bench.one.store, key.team_id)).differences == ()


@pytest.mark.parametrize("ends", ["settled", "voided", "expired"])
async def test_a_hold_of_before_the_expiry_pays_with_it_and_the_rest_expires(
    bench: Bench, key: ApiKey, ends: str
) -> None:
    hold = (await bench.one.ledger.admit(ask(key, amount=70))).hold
    await bench.at(SOON)
    assert await balance(bench, key) == Balance(180, 110, 70, 0, (Lot(LATER, 10),))
    if ends == "settled":
        await bench.one.ledger.settle(settled(hold, cost=20))
    elif ends == "voided":
        await bench.one.ledger.settle(voided(hold))
    else:
        await bench.one.expire(key, hold.id)
    spent = 20 if ends == "settled" else 0
    assert await balance(bench, key) == Balance(150 + spent, 150, 0, spent, (Lot(LATER, 50),))
    assert await entries(bench.one, key) == [(spent - 30, SOON)]
    (await bench.one.books(key)).check()
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_credits_that_expire_at_one_time_are_one_lot_and_there_is_a_bound(bench: Bench, tmp_path: Path) -> None:
    parts = bench.one
    accounts = Accounts(parts.store, idempotency_ttl_s=60, journal_retention_s=86_400, burst=1.0, max_lots=3)
    key = await parts.new_key(credit=0)
    team = await accounts.team(key.team_id)
    for seconds in (3, 1, 2, 1, 3):
        await accounts.move_credits(team, "grant", 10, expires_ms=START_MS + seconds * 1000)
    with pytest.raises(GatewayError) as refused:
        await accounts.move_credits(team, "grant", 10, expires_ms=START_MS + 4000)
    assert (refused.value.code, refused.value.param) == ("invalid_field", "expires_at")
    assert "at 3 different times at most" in refused.value.message
    assert [lot.available for lot in await lots(bench, key)] == [20, 10, 20]
    await bench.at(START_MS + 1000)
    await accounts.move_credits(team, "grant", 10, expires_ms=START_MS + 4000)
    assert [lot.available for lot in await lots(bench, key)] == [10, 20, 10]
    assert (await verify(parts.store, key.team_id)).differences == ()


@pytest.mark.parametrize("kind", ["grant", "adjust"])
async def test_an_expiry_that_has_passed_is_refused_by_the_stores_clock(bench: Bench, key: ApiKey, kind: str) -> None:
    for expires_ms in (1, START_MS):
        with pytest.raises(GatewayError) as refused:
            await grant(bench.one, key, 10, expires_ms, kind)
        assert (refused.value.code, refused.value.param) == ("invalid_field", "expires_at")
        assert "has passed" in refused.value.message


async def test_a_correction_of_a_lot_changes_that_and_others_what_does_not_expire(bench: Bench, key: ApiKey) -> None:
    await grant(bench.one, key, -20, SOON, "adjust")
    await grant(bench.one, key, 5, LATER, "adjust")
    assert await balance(bench, key) == Balance(165, 165, 0, 0, (Lot(SOON, 10), Lot(LATER, 55)))
    with pytest.raises(GatewayError) as refused:
        await grant(bench.one, key, -11, SOON, "adjust")
    assert refused.value.param == "amount_usd"
    assert "0.00000001 USD are left" in refused.value.message
    await grant(bench.one, key, -100, None, "adjust")
    assert await lots(bench, key) == (Lot(SOON, 10), Lot(LATER, 55))
    await grant(bench.one, key, -25, None, "adjust")
    assert await balance(bench, key) == Balance(40, 40, 0, 0, (Lot(LATER, 40),))
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_new_credits_pay_what_was_lacking_before_they_can_expire(bench: Bench) -> None:
    key = await bench.one.new_key(credit=10)
    hold = (await bench.one.ledger.admit(ask(key, amount=10))).hold
    await bench.one.ledger.settle(settled(hold, cost=25))
    await grant(bench.one, key, 40, SOON)
    assert await balance(bench, key) == Balance(50, 25, 0, 25, (Lot(SOON, 25),))
    await bench.at(SOON)
    assert await balance(bench, key) == Balance(25, 0, 0, 25)


async def test_a_movement_is_posted_once_per_idempotency_key_and_its_expiry_belongs_to_it(bench: Bench) -> None:
    key = await bench.one.new_key(credit=0)
    team = await bench.one.accounts.team(key.team_id)

    async def move(amount: int, expires_ms: int | None) -> None:
        await bench.one.accounts.move_credits(team, "grant", amount, expires_ms=expires_ms, idempotency_key="once")

    for _ in range(3):
        await move(10, SOON)
    assert (await balance(bench, key)).granted == 10
    for amount, expires_ms in ((10, None), (10, LATER), (11, SOON)):
        with pytest.raises(GatewayError) as refused:
            await move(amount, expires_ms)
        assert refused.value.code == "idempotency_mismatch"
    await bench.at(SOON)
    await move(10, SOON)
    assert (await balance(bench, key)).granted == 0


async def test_a_hold_that_is_restored_takes_what_is_there_then(bench: Bench, key: ApiKey) -> None:
    hold = (await bench.one.ledger.admit(ask(key, amount=60))).hold
    await bench.one.expire(key, hold.id)
    await bench.at(SOON)
    assert await hold_expiry.restore(bench.one.store, [hold], "60000") == 1
    assert await balance(bench, key) == Balance(150, 90, 60, 0)
    assert (await verify(bench.one.store, key.team_id)).differences == ()
    await bench.one.ledger.settle(settled(hold, cost=5))
    assert await balance(bench, key) == Balance(150, 145, 0, 5, (Lot(LATER, 45),))
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_a_team_that_is_not_metered_spends_them_first_and_is_not_refused(bench: Bench) -> None:
    key = await bench.one.new_key(credit=0, metered=False)
    await grant(bench.one, key, 30, SOON)
    hold = (await bench.one.ledger.admit(ask(key, amount=50))).hold
    assert await balance(bench, key) == Balance(30, -20, 50, 0)
    await bench.at(SOON)
    await bench.one.ledger.settle(settled(hold, cost=35))
    assert await balance(bench, key) == Balance(30, -5, 0, 35)
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_limits_of_models_count_beside_lots(bench: Bench) -> None:
    key = await bench.one.new_key(credit=0, limits={"budget_usd_day@p/*": 25, "concurrency@p/m": 2})
    await grant(bench.one, key, 100, SOON)
    hold = (await bench.one.ledger.admit(ask(key, amount=20))).hold
    assert await bench.refusal(key, amount=6) is not None
    await bench.one.ledger.settle(settled(hold, cost=10))
    assert await bench.refusal(key, amount=15) is None
    assert await lots(bench, key) == (Lot(SOON, 75),)
    assert (await verify(bench.one.store, key.team_id)).differences == ()


@pytest.mark.parametrize(
    ("corrected", "at_ms", "expected"),
    [
        pytest.param(60, START_MS, Balance(180, 120, 0, 60, (Lot(LATER, 20),)), id="as it was paid"),
        pytest.param(20, START_MS, Balance(180, 160, 0, 20, (Lot(SOON, 10), Lot(LATER, 50))), id="further back"),
        pytest.param(20, SOON, Balance(170, 150, 0, 20, (Lot(LATER, 50),)), id="what has expired since is gone"),
        pytest.param(100, START_MS, Balance(180, 80, 0, 100), id="a higher cost takes the first to expire"),
    ],
)
async def test_a_corrected_estimate_gives_back_to_the_lots_that_paid(
    bench: Bench, key: ApiKey, corrected: int, at_ms: int, expected: Balance
) -> None:
    known = KnownResponses(bench.one.store, DAY_S)
    hold = (await bench.one.ledger.admit(ask(key, amount=95))).hold
    estimate = settled(hold, cost=90)._replace(settled_by="estimate")
    await bench.one.ledger.settle(estimate, known.memory("resp_00aa", "8f3a9c01"))
    assert await balance(bench, key) == Balance(180, 90, 0, 90)
    await bench.at(at_ms)
    posted, after = correction(known_response_of(estimate, "resp_00aa", "8f3a9c01"), settled(hold, corrected))
    for _ in range(2):
        await bench.one.ledger.settle(posted, known.memory("resp_00aa", "8f3a9c01", after))
        assert await balance(bench, key) == expected
    assert await entries(bench.one, key) == ([(-10, SOON)] if at_ms == SOON else [])
    assert (await verify(bench.one.store, key.team_id)).differences == ()


async def test_what_a_hold_took_is_named_so_that_earlier_versions_read_over_it(bench: Bench) -> None:
    """They read meters' names, which begin with t, k, e or f, and the end user's behind ",u"."""
    limits = {"concurrency@p/m": 2, "end_user.concurrency": 2}
    key = await bench.one.new_key(credit=100, limits=limits)
    before = await held_names(bench, key)
    await grant(bench.one, key, 5, LATER)
    await grant(bench.one, key, 5, SOON)
    named = await held_names(bench, key)
    assert named == f"l{SOON}.5,l{LATER}.5,{before}"
    assert re.fullmatch(r"[\w.,]+", named)
    plain = await bench.one.new_key(credit=0)
    await grant(bench.one, plain, 20, SOON)
    assert await held_names(bench, plain) == f"l{SOON}.20"


async def held_names(bench: Bench, key: ApiKey) -> str:
    """What a hold of 20 is stored with behind its numbers."""
    hold = (await bench.one.ledger.admit(ask(key, 20, end_user="bob"))).hold
    text = await bench.one.store.run("HGET", TeamKeys(key.team_id).held, hold.id)
    await bench.one.ledger.settle(voided(hold))
    return str(text.decode().split(" ")[5])


async def test_lots_pay_for_what_an_earlier_version_spent_without_them(bench: Bench, key: ApiKey) -> None:
    names = TeamKeys(key.team_id)
    await bench.one.store.run("HINCRBY", names.state, "available", "-115")
    await bench.one.store.run("HINCRBY", names.state, "spent", "115")
    assert await balance(bench, key) == Balance(180, 65, 0, 115, (Lot(SOON, 15), Lot(LATER, 50)))
    assert await bench.refusal(key, amount=66) is not None
    hold = (await bench.one.ledger.admit(ask(key, amount=20))).hold
    assert await balance(bench, key) == Balance(180, 45, 20, 115, (Lot(LATER, 45),))
    await bench.at(SOON)
    await bench.one.ledger.settle(voided(hold))
    assert await balance(bench, key) == Balance(165, 50, 0, 115, (Lot(LATER, 50),))


async def test_a_dry_run_takes_nothing_and_a_free_request_neither(bench: Bench, key: ApiKey) -> None:
    before = await balance(bench, key)
    await bench.one.ledger.preview(ask(key, amount=90))
    await bench.one.ledger.admit(ask(key, amount=0, free=True))
    assert await balance(bench, key) == before


async def test_verification_finds_a_lot_that_is_larger_than_what_was_granted(bench: Bench, key: ApiKey) -> None:
    hold = (await bench.one.ledger.admit(ask(key, amount=20))).hold
    assert (await verify(bench.one.store, key.team_id)).differences == ()
    await change_lots(bench, key, f"cmsgpack.pack({{ {SOON}, 11 }})")
    assert [one.name for one in (await verify(bench.one.store, key.team_id)).differences] == [f"lot:{SOON}"]
    await bench.one.ledger.settle(settled(hold, cost=5))


async def test_lots_that_cannot_be_read_are_a_finding_and_refuse_instead_of_spending(bench: Bench, key: ApiKey) -> None:
    await change_lots(bench, key, "'\\193'")
    assert [one.name for one in (await verify(bench.one.store, key.team_id)).differences] == ["unreadable"]
    refused = await bench.refusal(key)
    assert refused is not None
    assert refused.code == "store_unavailable"


async def change_lots(bench: Bench, key: ApiKey, packed: str) -> None:
    """Damages the stored lots."""
    state = TeamKeys(key.team_id).state
    source = f"redis.call('HSET', KEYS[1], 'lot_window', {packed})"
    await bench.one.store.run("EVAL", source, "1", state, key=state)


async def test_however_many_come_at_once_over_several_workers_no_lot_is_spent_twice(
    store: Server, tmp_path: Path
) -> None:
    async with open_ledger(store.url, tmp_path / "one") as one, open_ledger(store.url, tmp_path / "two") as two:
        key = await one.new_key(credit=100)
        now_ms = 10**13  # far ahead, for the clock of this store goes
        for number in range(5):
            await grant(one, key, 60, now_ms + number)
        spent = 0
        refusals: set[str] = set()

        async def one_after_another(parts: LedgerParts, number: int) -> None:
            nonlocal spent
            for at in range(10):
                amount = 3 + (number * at) % 17
                try:
                    hold = (await parts.ledger.admit(ask(key, amount))).hold
                except GatewayError as error:
                    refusals.add(str(error.explain["limit"]))
                    continue
                cost = max(0, amount - at % 3)
                spent += cost
                await asyncio.sleep(0)
                await parts.ledger.settle(settled(hold, cost) if cost else voided(hold))

        await asyncio.gather(*(one_after_another((one, two)[n % 2], n) for n in range(20)))
        assert 0 < spent <= 400
        assert refusals <= {"credits"}
        team = await one.accounts.team(key.team_id)
        found = (await one.accounts.view(team)).balance
        assert (found.available, found.held, found.spent) == (400 - spent, 0, spent)
        assert sum(lot.available for lot in found.lots) == max(0, 300 - spent)
        assert (await verify(one.store, key.team_id)).differences == ()
        await one.accounts.update_team(team, Changes(status="archived"))
