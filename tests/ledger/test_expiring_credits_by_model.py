"""Credits that expire, in any order of movements and times: the balance and each lot are what a plain model says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.accounts.entities import Balance, Lot
from gateway.billing.settlement import Hold, Settlement
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.journal import Journal
from gateway.ledger.known_responses import KnownResponses, correction, known_response_of
from gateway.ledger.verification import verify
from gateway.store.keyspace import TeamKeys
from tests.support.effort import effort
from tests.support.ledgers import DAY_S, ask, settled, voided
from tests.support.stopped_clock import START_MS, Bench, Place


@dataclass
class Model:
    """One team's money. `plain` does not expire; `lots` maps the time of an expiry to what is left."""

    metered: bool
    plain: int = 0
    granted: int = 0
    spent: int = 0
    lots: dict[int, int] = field(default_factory=dict)
    holds: list[tuple[Hold, dict[int | None, int]]] = field(default_factory=list)
    lapsed: dict[int, int] = field(default_factory=dict)
    charged: list[tuple[Settlement, dict[int | None, int]]] = field(default_factory=list)

    def look(self, now_ms: int) -> None:
        """Lets lots pay what is lacking, and then lets those expire whose time has come."""
        for expiry in sorted(self.lots):
            paid = min(self.lots[expiry], max(0, -self.plain))
            self.lots[expiry] -= paid
            self.plain += paid
            if expiry <= now_ms:
                self.lapse(expiry, self.lots.pop(expiry))

    def lapse(self, expiry: int, amount: int) -> None:
        self.granted -= amount
        self.lapsed[expiry] = self.lapsed.get(expiry, 0) + amount

    @property
    def available(self) -> int:
        return self.plain + sum(self.lots.values())

    def take(self, amount: int) -> dict[int | None, int]:
        """Takes an amount from the lots, and the rest from what does not expire. Returns from where."""
        taken: dict[int | None, int] = {}
        for expiry in sorted(self.lots):
            taken[expiry] = min(amount, self.lots[expiry])
            self.lots[expiry] -= taken[expiry]
            amount -= taken[expiry]
        self.plain -= amount
        return taken | {None: amount}

    def end(self, taken: dict[int | None, int], cost: int, now_ms: int) -> dict[int | None, int]:
        """Gives back what a hold took, and takes its cost. Returns from where."""
        self.spent += cost
        paid_by: dict[int | None, int] = {}
        for expiry, amount in taken.items():
            if expiry is None:
                self.plain += amount
            elif expiry > now_ms:
                self.lots[expiry] = self.lots.get(expiry, 0) + amount
            else:
                paid_by[expiry] = min(cost, amount)
                cost -= paid_by[expiry]
                self.lapse(expiry, amount - paid_by[expiry])
        return paid_by | self.take(cost)

    def refund(self, paid_by: dict[int | None, int], amount: int, now_ms: int) -> None:
        """Gives back a part of a cost: what paid last gets it first."""
        self.spent -= amount
        for expiry, paid in reversed(paid_by.items()):
            part = min(amount, paid)
            amount -= part
            if expiry is None:
                self.plain += part
            elif expiry > now_ms:
                self.lots[expiry] = self.lots.get(expiry, 0) + part
            else:
                self.lapse(expiry, part)
        assert not amount

    def balance(self) -> Balance:
        lots = tuple(Lot(expiry, left) for expiry, left in sorted(self.lots.items()) if left)
        held = sum(hold.amount_nano_usd for hold, _ in self.holds)
        return Balance(self.granted, self.available, held, self.spent, lots)


UPSTREAM_KEY = "8f3a9c01"
KINDS = [
    *("grant", "admit", "admit", "settle", "wait") * 2,
    *("void", "expire", "restore", "settle_late", "correct", "adjust", "sweep"),
]
steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 60), st.none() | st.integers(1, 12), st.integers(0, 90)),
    max_size=30,
)


@given(metered=st.booleans(), steps=steps)
@settings(max_examples=effort(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_balance_and_each_lot_are_what_a_plain_model_says(place: Place, metered: bool, steps: list[Any]) -> None:
    async def play() -> None:
        async with place.bench() as bench:
            game = Game(bench, await bench.one.new_key(credit=0, metered=metered), Model(metered))
            for kind, *numbers in steps:
                game.model.look(bench.now_ms)
                await getattr(game, kind)(*numbers)
                game.model.look(bench.now_ms)
                await game.compare()
            await bench.at(START_MS + 10**6)
            await game.compare_what_lapsed()

    asyncio.run(play())


@dataclass
class Game:
    """A real team beside its model. Each kind of step has an amount, the seconds of an expiry or None, and a cost."""

    bench: Bench
    key: ApiKey
    model: Model
    gone: list[Hold] = field(default_factory=list)

    async def compare(self) -> None:
        accounts = self.bench.one.accounts
        view = await accounts.view(await accounts.team(self.key.team_id))
        assert view.balance == self.model.balance()
        assert view.balance.granted == view.balance.available + view.balance.held + view.balance.spent
        (await self.bench.one.books(self.key)).check()
        assert (await verify(self.bench.one.store, self.key.team_id)).differences == ()

    async def compare_what_lapsed(self) -> None:
        self.model.look(self.bench.now_ms)
        await self.sweep()
        page = await Journal(self.bench.one.store).entries(self.key.team_id, type_="lapse", limit=1000)
        journalled: dict[int, int] = {}
        for entry in page.data:
            journalled[entry.expires_ms] = journalled.get(entry.expires_ms, 0) - entry.amount
        assert journalled == {expiry: amount for expiry, amount in self.model.lapsed.items() if amount}

    async def grant(self, amount: int, seconds: int | None, _: int) -> None:
        await self._move("grant", amount + 1, seconds)

    async def adjust(self, amount: int, seconds: int | None, _: int) -> None:
        await self._move("adjust", amount - 40, seconds)

    async def wait(self, amount: int, *_: object) -> None:
        await self.bench.at(self.bench.now_ms + (999, 1, 1000)[amount % 3])

    async def sweep(self, *_: object) -> None:
        names = TeamKeys(self.key.team_id)
        keys = [names.state, names.holds, names.held, names.journal, names.end_users]
        await self.bench.one.store.call(hold_expiry.EXPIRE, keys, ["200", "1000", "1000000"])

    async def admit(self, amount: int, *_: object) -> None:
        request = ask(self.key, amount)
        if self.model.metered and amount and self.model.available < amount:
            with pytest.raises(GatewayError) as refused:
                await self.bench.one.ledger.admit(request)
            assert refused.value.explain["limit"] == "credits"
            return
        hold = (await self.bench.one.ledger.admit(request)).hold
        self.model.holds.append((hold, self.model.take(amount)))

    async def settle(self, amount: int, _: int | None, cost: int) -> None:
        if self.model.holds:
            await self._settle(*self.model.holds.pop(amount % len(self.model.holds)), cost)

    async def settle_late(self, _: int, __: int | None, cost: int) -> None:
        """The request of a hold that was voided ends after all, so that nothing is held for its cost."""
        if self.gone:
            await self._settle(self.gone.pop(), {}, cost)

    async def _settle(self, hold: Hold, taken: dict[int | None, int], cost: int) -> None:
        estimate = settled(hold, cost)._replace(settled_by="estimate")
        memory = KnownResponses(self.bench.one.store, DAY_S).memory(f"resp_{hold.id}", UPSTREAM_KEY)
        await self.bench.one.ledger.settle(estimate, memory)
        self.model.charged.append((estimate, self.model.end(taken, cost, self.bench.now_ms)))

    async def correct(self, amount: int, _: int | None, cost: int) -> None:
        if not self.model.charged:
            return
        estimate, paid_by = self.model.charged.pop(amount % len(self.model.charged))
        response = known_response_of(estimate, f"resp_{estimate.hold.id}", UPSTREAM_KEY)
        posted, after = correction(response, settled(estimate.hold, cost))
        memory = KnownResponses(self.bench.one.store, DAY_S).memory(response.response_id, UPSTREAM_KEY, after)
        await self.bench.one.ledger.settle(posted, memory)
        if posted.cost_nano_usd < 0:
            self.model.refund(paid_by, -posted.cost_nano_usd, self.bench.now_ms)
        else:
            self.model.end({}, posted.cost_nano_usd, self.bench.now_ms)

    async def void(self, amount: int, *_: object) -> None:
        if self.model.holds:
            hold, taken = self.model.holds.pop(amount % len(self.model.holds))
            await self.bench.one.ledger.settle(voided(hold))
            self.model.end(taken, 0, self.bench.now_ms)

    async def expire(self, amount: int, *_: object) -> None:
        if self.model.holds:
            hold, taken = self.model.holds.pop(amount % len(self.model.holds))
            await self.bench.one.expire(self.key, hold.id)
            self.gone.append(hold)
            self.model.end(taken, 0, self.bench.now_ms)

    async def restore(self, *_: object) -> None:
        if self.gone:
            hold = self.gone.pop()
            assert await hold_expiry.restore(self.bench.one.store, [hold], "600000") == 1
            self.model.holds.append((hold, self.model.take(hold.amount_nano_usd)))

    async def _move(self, kind: str, amount: int, seconds: int | None) -> None:
        expires_ms = None if seconds is None else START_MS + seconds * 1000
        team = await self.bench.one.accounts.team(self.key.team_id)
        move = self.bench.one.accounts.move_credits(team, kind, amount, expires_ms=expires_ms)
        is_past = expires_ms is not None and expires_ms <= self.bench.now_ms
        if is_past or (expires_ms is not None and self.model.lots.get(expires_ms, 0) + amount < 0):
            with pytest.raises(GatewayError) as refused:
                await move
            assert refused.value.param == ("expires_at" if is_past else "amount_usd")
            return
        await move
        self.model.granted += amount
        if expires_ms is None:
            self.model.plain += amount
        else:
            self.model.lots[expires_ms] = self.model.lots.get(expires_ms, 0) + amount
