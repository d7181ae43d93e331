"""A ledger on a real store, and its books as they lie there.

async with open_ledger(url, directory) as parts:     parts.ledger, .accounts, .store, .spool
    key = await parts.new_key(credit=1000, limits={"rpm": 1})
    admission = await parts.ledger.admit(ask(key, amount=10))
    await parts.ledger.settle(settled(admission.hold, cost=7))
    (await parts.books(key)).check()
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.accounts.accounts import Accounts
from gateway.accounts.entities import Changes
from gateway.billing.hold import FREE
from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import NO_USAGE, Hold, Settlement
from gateway.identity.api_keys import ApiKey, parse_api_key
from gateway.ledger import hold_expiry
from gateway.ledger.admissions import AdmissionRequest
from gateway.ledger.ledger import Ledger
from gateway.ledger.policy import LedgerPolicy
from gateway.ledger.refusals import Demand
from gateway.ledger.spool import Spool
from gateway.protocol.quantities import Usage
from gateway.store.keyspace import TeamKeys
from gateway.store.store import Store, StoreSettings
from tests.support.journals import entry_fields

DAY_S = 86_400


def policy(**changes: Any) -> LedgerPolicy:
    values = {
        "hold_ttl_s": 15.0,
        "resolution_ttl_s": DAY_S,
        "journal_retention_s": DAY_S,
        "usage_retention_s": DAY_S,
        "idempotency_ttl_s": DAY_S,
        "on_failure": "closed",
        "lease_s": 3.0,
        "unreplicated_max": 10_000,
        "burst": 1.0,
        "max_end_users": 1000,
    }
    return LedgerPolicy(**{**values, **changes})


@dataclass(frozen=True)
class Books:
    """A team's books, as the store keeps them. `journal`: oldest first."""

    granted: int
    available: int
    held: int
    spent: int
    holds: set[str]
    state: Mapping[str, int] = field(repr=False)
    held_texts: Mapping[str, str] = field(repr=False)
    journal: list[dict[str, str]] = field(repr=False)

    def entries(self, kind: str) -> list[str]:
        """Ids of the journal's entries of one type."""
        return [entry["id"] for entry in self.journal if entry["type"] == kind]

    def check(self) -> None:
        """What is true of any team's books at any time."""
        assert self.granted == self.available + self.held + self.spent
        assert self.holds == set(self.held_texts), "each hold has an expiry and an amount"
        amounts = [int(text.split()[0]) for text in self.held_texts.values()]
        assert self.held == sum(amounts)
        assert self.state.get("open", 0) == len(self.holds)
        for scope in {text.split()[3] for text in self.held_texts.values()}:
            mine = [text for text in self.held_texts.values() if text.split()[3] == scope]
            assert self.state[f"{scope}:open"] == len(mine)
        self.check_journal()

    def check_journal(self) -> None:
        """The journal, added up from its first entry, gives every balance that it names, and the one of now."""
        balance = 0
        for entry in self.journal:
            balance += int(entry["amount"])
            assert int(entry["balance"]) == balance, entry
        assert balance == self.available + self.held
        charged = -sum(int(entry["amount"]) for entry in self.journal if entry["type"] in ("settle", "void", "expire"))
        assert charged == self.spent
        resolved = [entry["id"] for entry in self.journal if entry["type"] in ("settle", "void")]
        assert len(resolved) == len(set(resolved)), "nothing is resolved twice"


@dataclass
class LedgerParts:
    """A ledger and what it stands on."""

    store: Store
    ledger: Ledger
    accounts: Accounts
    spool: Spool

    async def new_key(
        self, *, credit: int = 1_000_000, limits: Mapping[str, int] | None = None, metered: bool = True
    ) -> ApiKey:
        """A key of a team of its own; `limits` are the team's."""
        name = f"ledger-{os.urandom(8).hex()}"
        team = await self.accounts.create_team(Changes(name=name, limits=limits or {}, metered=metered))
        if credit:
            await self.accounts.move_credits(team, "grant", credit)
        return await self.another_key(team.id)

    async def another_key(self, team_id: str, limits: Mapping[str, int] | None = None) -> ApiKey:
        """One more key of a team."""
        return parse_api_key(await self.another_secret(team_id, limits))

    async def another_secret(self, team_id: str, limits: Mapping[str, int] | None = None) -> str:
        """The same, as a client sends it."""
        _, text = await self.accounts.create_key(
            await self.accounts.team(team_id), Changes(name="test", limits=limits or {})
        )
        assert text is not None
        return text

    async def move(self, key: ApiKey, kind: str, amount: int, idempotency_key: str | None = None) -> None:
        """Grants or adjusts the credits of a key's team."""
        await self.accounts.move_credits(
            await self.accounts.team(key.team_id), kind, amount, idempotency_key=idempotency_key
        )

    async def books(self, key: ApiKey) -> Books:
        """The books of a key's team."""
        return await read_books(self.store, key.team_id)

    async def expire(self, key: ApiKey, hold_id: str) -> None:
        """Voids a hold as expiry does when nobody has renewed it in its grace."""
        await expire_hold(self.store, key.team_id, hold_id)

    async def team_books(self, team_id: str) -> Books:
        """The books of a team."""
        return await read_books(self.store, team_id)

    async def outlive(self, key: ApiKey, hold_id: str) -> None:
        """Lets a hold's life end now."""
        await self.store.run("ZADD", TeamKeys(key.team_id).holds, "XX", "1", hold_id)


async def expire_hold(store: Store, team_id: str, hold_id: str) -> None:
    """Voids a hold as expiry does when nobody has renewed it in its grace."""
    names = TeamKeys(team_id)
    seconds, _ = await store.run("TIME", key=names.team)
    await store.run("ZADD", names.holds, "XX", f"{int(seconds) * 1000 - 1000}.5", hold_id)
    keys = [names.state, names.holds, names.held, names.journal, names.end_users]
    assert (await store.call(hold_expiry.EXPIRE, keys, ["200", "1000", "1000000"]))[0] >= 1


async def read_books(store: Store, team_id: str) -> Books:
    """A team's books as they lie in the store, at one instant."""
    names = TeamKeys(team_id)
    state_raw, held_raw, holds_raw, journal_raw, words = await asyncio.gather(
        store.run("HGETALL", names.state),
        store.run("HGETALL", names.held),
        store.run("ZRANGE", names.holds, "0", "-1"),
        store.run("XRANGE", names.journal, "-", "+"),
        store.run("HGETALL", names.words),
    )
    counted = dict(zip(state_raw[::2], state_raw[1::2], strict=True))
    state = {name.decode(): int(text) for name, text in counted.items() if not name.endswith(b"window")}
    return Books(
        granted=state.get("granted", 0),
        available=state.get("available", 0),
        held=state.get("held", 0),
        spent=state.get("spent", 0),
        holds={raw.decode() for raw in holds_raw},
        state=state,
        held_texts=_pairs(held_raw),
        journal=[entry_fields(fields, words) for _, fields in journal_raw],
    )


@contextlib.asynccontextmanager
async def open_ledger(
    store_url: str, directory: Path, *, timeout_s: float = 5.0, **changes: Any
) -> AsyncIterator[LedgerParts]:
    """A ledger that waits `timeout_s` for the store's replies; `changes` are the policy's."""
    store = await Store.open(StoreSettings(url=store_url, timeout_s=timeout_s, breaker_open_s=0.05))
    rules = policy(**changes)
    spool = Spool(directory / "spool", 1024 * 1024, rules.resolution_ttl_s)
    ledger = Ledger(store, spool, rules)
    accounts = Accounts(store, idempotency_ttl_s=DAY_S, journal_retention_s=DAY_S, burst=rules.burst)
    try:
        yield LedgerParts(store, ledger, accounts, spool)
    finally:
        await ledger.flush()
        await store.close()


def new_secret(store_url: str, directory: Path) -> str:
    """The secret of a key of a new team, for tests of processes that have no event loop of their own."""

    async def make() -> str:
        async with open_ledger(store_url, directory, timeout_s=30) as parts:
            return await parts.another_secret((await parts.new_key(credit=10**13)).team_id)

    return asyncio.run(make())


@contextlib.asynccontextmanager
async def kept_up(ledger: Ledger) -> AsyncIterator[None]:
    """The ledger's upkeep runs inside the block."""
    work = asyncio.gather(*(one.run() for one in ledger.periodics))
    try:
        yield
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


def ask(key: ApiKey, amount: int = 10, tokens: int = 2, **changes: Any) -> AdmissionRequest:
    """Asks for a hold of `amount` nano-USD and `tokens` tokens, half of them input."""
    demand = Demand("p/m", amount, tokens // 2, tokens - tokens // 2, FREE)
    values = {"request_id": f"req_{os.urandom(8).hex()}", "patterns": ("p/m", "p/*", "*"), "max_output_tokens": None}
    return AdmissionRequest(key=key, demand=demand, **{**values, **changes})


def settled(hold: Hold, cost: int, tokens: int = 2) -> Settlement:
    """A settlement of a request that cost `cost` nano-USD for `tokens` output tokens."""
    usage = Usage(0, 0, tokens, 0, tokens, None)
    return Settlement(hold, "settle", cost, usage, "usage", Outcome.COMPLETED, "p/m", "u")


def voided(hold: Hold) -> Settlement:
    """The same for a request that cost nothing."""
    return Settlement(hold, "void", 0, NO_USAGE, "-", Outcome.UPSTREAM_REFUSED, "p/m", "u")


def _pairs(flat: list[bytes]) -> dict[str, str]:
    words = [word.decode() for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
