"""Any order of movements on a real Valkey gives what the plain model gives, and leaves the books true after each step.

Rules: grant, adjust, admit, let a life end, renew, settle, void, reap, repeat or contradict, rotate a secret.
`make chaos` tries many more orders.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from gateway.accounts.entities import Changes
from gateway.billing.settlement import Hold
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.settlement_call import Resolution
from gateway.store.keyspace import TeamKeys
from tests.stateful.model import ModelHold, ModelTeam, Scope
from tests.support.effort import effort
from tests.support.ledgers import Books, LedgerParts, ask, open_ledger, settled, voided
from tests.support.servers import valkey_server

T = TypeVar("T")
MONEY = st.integers(0, 60)
LIMIT = st.none() | st.integers(0, 100)
REFUSALS = (None, "concurrency_exceeded", "insufficient_quota")


@dataclass(frozen=True)
class Reserved:
    """A hold in both worlds."""

    key: ApiKey
    real: Hold
    model: ModelHold


class LedgerMachine(RuleBasedStateMachine):
    """One team with two keys; `url` is set by the test."""

    url = ""
    holds = Bundle("holds")
    done: Bundle[tuple[Reserved, int | None, int]] = Bundle("done")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.directory = tempfile.TemporaryDirectory()
        self.parts: LedgerParts = self.run(
            self.stack.enter_async_context(open_ledger(self.url, Path(self.directory.name)))
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def refusal(self, work: Coroutine[Any, Any, Any]) -> str | None:
        """The code of the error that the work raises, or None."""
        try:
            self.run(work)
        except GatewayError as error:
            return error.code
        return None

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()
        self.directory.cleanup()

    @initialize(
        metered=st.booleans(),
        team=st.tuples(st.none() | st.integers(1, 4), LIMIT, LIMIT),
        key=st.tuples(st.none() | st.integers(1, 3), LIMIT, LIMIT),
    )
    def make_team(
        self,
        metered: bool,
        team: tuple[int | None, int | None, int | None],
        key: tuple[int | None, int | None, int | None],
    ) -> None:
        async def make() -> list[ApiKey]:
            first = await self.parts.new_key(credit=0, limits=_limits(team), metered=metered)
            return [first, await self.parts.another_key(first.team_id, _limits(key))]

        self.keys = self.run(make())
        scopes = {"": Scope(*team), self.keys[0].key_id: Scope(), self.keys[1].key_id: Scope(*key)}
        self.team = ModelTeam(metered, scopes)

    @rule(
        kind=st.sampled_from(["grant", "adjust"]),
        amount=st.integers(-50, 100),
        idempotency_key=st.sampled_from("abcdef"),
    )
    def move(self, kind: str, amount: int, idempotency_key: str) -> None:
        amount = abs(amount) + 1 if kind == "grant" else amount
        expected = self.team.move(kind, amount, idempotency_key)
        refusal = self.refusal(self.parts.move(self.keys[0], kind, amount, idempotency_key))
        assert refusal == (None if expected else "idempotency_mismatch")

    @rule(target=holds, key=st.integers(0, 1), amount=MONEY, tokens=st.integers(0, 30))
    def admit(self, key: int, amount: int, tokens: int) -> Any:
        request = ask(self.keys[key], amount, tokens)
        model = ModelHold(request.request_id, self.keys[key].key_id, amount, tokens)
        expected = self.team.admit(model)
        if expected is not None:
            with pytest.raises(GatewayError) as refused:
                self.run(self.parts.ledger.admit(request))
            assert refused.value.explain["limit"] == expected
            return multiple()
        admission = self.run(self.parts.ledger.admit(request))
        return Reserved(self.keys[key], admission.hold, model)

    @rule(key=st.integers(0, 1), amount=MONEY)
    def preview(self, key: int, amount: int) -> None:
        assert self.refusal(self.parts.ledger.preview(ask(self.keys[key], amount))) in REFUSALS

    @rule(hold=holds)
    def its_life_ends(self, hold: Reserved) -> None:
        self.run(self.parts.outlive(hold.key, hold.real.id))
        self.team.outlive(hold.model.id)

    @rule(hold=holds)
    def renew(self, hold: Reserved) -> None:
        self.run(hold_expiry.renew(self.parts.store, [hold.real], "60000"))
        self.team.renew(hold.model.id)

    @rule()
    def reap(self) -> None:
        keys = TeamKeys(self.keys[0].team_id)
        names = [keys.state, keys.holds, keys.held, keys.journal, keys.end_users]
        time.sleep(0.002)  # a grace of nothing ends with the millisecond that it began in
        args = ["200", "0", str(10**9)]
        voided, _ = self.run(_wait(lambda: self.parts.store.call(hold_expiry.EXPIRE, names, args)))
        assert voided == self.team.expire()

    @rule(hold=holds)
    def its_gateway_dies(self, hold: Reserved) -> None:
        self.its_life_ends(hold)
        self.reap()
        self.reap()

    @rule(hold=holds)
    def another_primary_gets_it_again(self, hold: Reserved) -> None:
        restored = self.run(hold_expiry.restore(self.parts.store, [hold.real], "60000"))
        assert restored == self.team.restore(hold.model)

    @rule(target=done, hold=consumes(holds), cost=MONEY, tokens=st.integers(0, 30))
    def settle(self, hold: Reserved, cost: int, tokens: int) -> tuple[Reserved, int | None, int]:
        self.resolve(hold, cost, tokens)
        return hold, cost, tokens

    @rule(target=done, hold=consumes(holds))
    def void(self, hold: Reserved) -> tuple[Reserved, int | None, int]:
        self.resolve(hold, None, 0)
        return hold, None, 0

    @rule(ended=done)
    def replay(self, ended: tuple[Reserved, int | None, int]) -> None:
        self.resolve(*ended)

    @rule(ended=done, cost=st.none() | MONEY)
    def resolve_differently(self, ended: tuple[Reserved, int | None, int], cost: int | None) -> None:
        self.resolve(ended[0], cost, 3)

    @rule(key=st.integers(0, 1))
    def rotate(self, key: int) -> None:
        async def change() -> None:
            team = await self.parts.accounts.team(self.keys[key].team_id)
            stored = await self.parts.accounts.key(team, self.keys[key].key_id)
            await self.parts.accounts.update_key(team, stored, Changes(name="renamed"))
            name, secret = TeamKeys(team.id).key(stored.id), os.urandom(32).hex()
            await self.parts.store.run("HSET", name, f"s:{secret}", "0")
            await self.parts.store.run("HDEL", name, f"s:{self.keys[key].secret_hash}")
            self.keys[key] = replace(self.keys[key], secret_hash=secret)

        self.run(change())

    @invariant()
    def the_books_are_true(self) -> None:
        if not hasattr(self, "team"):
            return
        books = self.run(self.parts.books(self.keys[0]))
        team = self.team
        books.check()
        assert (books.granted, books.available, books.held, books.spent) == (
            team.granted,
            team.available,
            team.held,
            team.spent,
        )
        assert books.holds == set(team.holds)
        assert books.entries("expire") == team.expired
        assert [(entry["type"], int(entry["amount"])) for entry in books.journal] == team.journal
        for name, scope in team.scopes.items():
            prefix = f"{name}:" if name else ""
            counted = (
                _count(books, prefix, "open"),
                _count(books, prefix, "total_usd"),
                _count(books, prefix, "total_tokens"),
            )
            assert counted == (scope.open, scope.usd, scope.tokens), name or "team"

    def resolve(self, hold: Reserved, cost: int | None, tokens: int) -> None:
        kind = "void" if cost is None else "settle"
        expected = self.team.resolve(hold.model, kind, cost or 0, 0 if cost is None else tokens)
        before = self.parts.ledger.resolutions.copy()
        settlement = voided(hold.real) if cost is None else settled(hold.real, cost, tokens)
        posted = self.run(_wait(lambda: self.parts.ledger.settle(settlement)))
        assert self.parts.ledger.resolutions - before == {Resolution[expected.upper()]: 1}
        assert posted is not None
        assert posted.resolution is Resolution[expected.upper()]
        if expected in ("applied", "late"):
            assert posted.balance == self.team.available + self.team.held


def _count(books: Books, prefix: str, name: str) -> int:
    return books.state.get(prefix + name, 0)


def _limits(values: tuple[int | None, int | None, int | None]) -> dict[str, int]:
    names = ("concurrency", "budget_usd_total", "budget_tokens_total")
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


async def _wait(call: Callable[[], asyncio.Future[T]]) -> T:
    return await call()


def _run(examples: int, steps: int) -> None:
    with valkey_server() as server:

        class OnThisServer(LedgerMachine):
            url = server.url

        run_state_machine_as_test(
            OnThisServer,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )


def test_any_order_of_movements_gives_what_the_model_gives() -> None:
    _run(examples=effort(100), steps=40)


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_any_order_of_movements_gives_what_the_model_gives_at_length() -> None:
    _run(examples=1500, steps=60)
