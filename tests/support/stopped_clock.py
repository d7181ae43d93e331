"""Two ledgers on one store whose clock stands where a test sets it, so that what depends on time is exact to the ms.

async with Place(server.url, clock, directory).bench() as bench:
    key = await new_key(bench, {"rpm": 3}, of_key=True)
    await bench.at(START_MS + 999)
    assert await bench.refusal(key) is None
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.accounts.entities import Changes
from gateway.accounts.serialization import limits_json
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from tests.support.ledgers import LedgerParts, ask, open_ledger, settled
from tests.support.shifted_clock import Clock

START_MS: Final = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000 + 3_600_000
"""One in the morning, UTC."""


@dataclass
class Bench:
    """Two workers on one store, and its clock. Mutable: `turn`, by which they are asked alternately."""

    clock: Clock
    workers: tuple[LedgerParts, LedgerParts]
    turn: int = 0

    @property
    def one(self) -> LedgerParts:
        """One of them."""
        self.turn += 1
        return self.workers[self.turn % 2]

    @property
    def now_ms(self) -> int:
        return self.clock.stopped_ms

    async def at(self, now_ms: int) -> None:
        """Sets the clock, and returns when the server has looked at it: it keeps the time for some milliseconds."""
        self.clock.stopped_ms = now_ms
        while await _server_ms(self.one) != now_ms:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.001)
        for worker in self.workers:
            await worker.store.measure_clocks()

    async def override(self, key: ApiKey, of_key: bool, **changes: Any) -> None:
        """Changes the limits, or what holds instead, of a key or its team."""
        accounts = self.one.accounts
        team = await accounts.team(key.team_id)
        if of_key:
            await accounts.update_key(team, await accounts.key(team, key.key_id), Changes(**changes))
        else:
            await accounts.update_team(team, Changes(**changes))

    async def refusal(self, key: ApiKey, amount: int = 10, tokens: int = 2, **changes: Any) -> GatewayError | None:
        """What refuses a request, or None; what is admitted is settled as it was asked for."""
        parts = self.one
        try:
            admission = await parts.ledger.admit(ask(key, amount, tokens, **changes))
        except GatewayError as error:
            return error
        await parts.ledger.settle(settled(admission.hold, amount, tokens))
        return None

    async def shown(self, key: ApiKey, of_key: bool) -> dict[str, Any]:
        """The limits as the admin API shows them."""
        accounts = self.one.accounts
        team = await accounts.team(key.team_id)
        view = await accounts.view(team, key.key_id)
        if of_key:
            return limits_json(view, "key", await accounts.key(team, key.key_id))
        return limits_json(view, "team", team)


async def _server_ms(parts: LedgerParts) -> int:
    seconds, micros = await parts.store.run("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


class Place(NamedTuple):
    """Where a bench stands."""

    url: str
    clock: Clock
    directory: Path

    @contextlib.asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        """Opens one, at START_MS."""
        self.clock.stopped_ms = START_MS
        async with (
            open_ledger(self.url, self.directory / "one") as one,
            open_ledger(self.url, self.directory / "two") as two,
        ):
            bench = Bench(self.clock, (one, two))
            await bench.at(START_MS)
            yield bench


async def new_key(bench: Bench, limits: dict[str, int], of_key: bool) -> ApiKey:
    """A key; the limits are its own or its team's."""
    key = await bench.one.new_key(limits={} if of_key else limits)
    return await bench.one.another_key(key.team_id, limits if of_key else {})
