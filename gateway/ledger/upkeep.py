"""What a worker's ledger does beside requests, in rounds; each round starts at once when the store comes back.

    renew    every third of a hold's life       the holds of running requests live on; the store's clock is read
    expire   the same                           what nobody has renewed is voided, by one worker for all
    replay   four times a second, if need be    what the store did not take is sent again
    lease    every third of `ledger.lease_s`    this worker lives; what dead ones held is given back
    confirm  four times a second                settlements that every replica has are let go

Where another server answers now than before, it may lack what was acknowledged last: settlements are posted again, and
running requests get their holds again; so they do where this worker was silent for so long that it was taken for dead.

State that changes: whether the spool waits, the lease, the workers that are `lost`, and the counts `expired`,
`posted_again` and `restored`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from gateway.billing.settlement import Hold
from gateway.concurrency.periodic import Periodic
from gateway.ledger import hold_expiry
from gateway.ledger.policy import LedgerPolicy
from gateway.ledger.replication import Call, Unreplicated
from gateway.ledger.spool import Replay, Spool
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keyspace import LEASES
from gateway.store.script import Script
from gateway.store.store import Store

LEASE: Final = Script.load("lease_v1")
_LEASES_LIFE_MS: Final = str(86_400_000)
_CONFIRM_EVERY_S: Final = 0.25
_RETRY_S: Final = 0.25
_REPLAY_S: Final = 900.0
"""How long one round of `replay-spool` may take: a full spool is replayed in one."""
_TOLD_EVERY_S: Final = 60.0

Post = Callable[[list[Call]], Awaitable[int]]
"""Posts settlements once more; how many the store had not."""


class Upkeep:
    """One worker's. `owner`: how the ids of its holds begin, and its name among the leases."""

    def __init__(
        self,
        store: Store,
        spool: Spool,
        unreplicated: Unreplicated,
        holds: Mapping[str, Hold],
        owner: str,
        replay: Replay,
        post: Post,
        policy: LedgerPolicy,
    ) -> None:
        self.expired = 0
        self.posted_again = 0
        self.restored = 0
        self.lost: list[str] = []
        self._store = store
        self._spool = spool
        self._unreplicated = unreplicated
        self._holds = holds
        self._owner = owner
        self._policy = policy
        self._round_s = policy.hold_ttl_s / 3
        self._hold_ttl_ms = str(int(policy.hold_ttl_s * 1000))
        self._replay = replay
        self._post = post
        self.spool_waits = False
        self._spooled_since = False
        self._spool_looked_s = -math.inf
        self._told_s = -math.inf
        self._leased = False
        self._log = structlog.get_logger("gateway.ledger")
        self.works: Final = (
            self._periodic("renew-holds", self._round_s, self._renew),
            self._periodic("expire-holds", self._round_s, self._expire),
            self._periodic("replay-spool", _RETRY_S, self._replay_spool, dead_after_s=_REPLAY_S),
            self._periodic("renew-lease", policy.lease_s / 3, self._renew_lease),
            self._periodic("confirm-replicas", _CONFIRM_EVERY_S, self._confirm),
        )

    def wake(self) -> None:
        """The store is back: every round begins now."""
        self.spool_waits = True
        for work in self.works:
            work.wake()

    def note_spooled(self) -> None:
        """A settlement went to the spool. Where the store serves all the same, it is sent again soon."""
        self.spool_waits = self._spooled_since = True

    def replay_soon(self) -> None:
        """What waits in this worker's spool is sent now."""
        self.works[2].wake()

    async def end(self) -> None:
        """At shutdown, when all is settled: this worker is not missed. Raises StoreUnavailable or StoreError."""
        await self._lease("0")

    def _periodic(
        self, name: str, every_s: float, work: Callable[[], Awaitable[None]], dead_after_s: float | None = None
    ) -> Periodic:
        async def tried() -> None:
            try:
                await work()
            except StoreError as error:  # what an operator of the store must set right; said once in a while
                now_s = time.monotonic()
                if now_s - self._told_s >= _TOLD_EVERY_S:
                    self._told_s = now_s
                    self._log.error("upkeep_refused", work=name, error=str(error))

        return Periodic(name, every_s, tried, outages=(StoreUnavailable,), dead_after_s=dead_after_s)

    async def _renew(self) -> None:
        await self._store.measure_clocks()
        await hold_expiry.renew(self._store, self._holds.values(), self._hold_ttl_ms)

    async def _expire(self) -> None:
        if self._policy.on_failure == "open":
            await self._spool.look()
        self.expired += await hold_expiry.expire_holds(self._store, self._round_s, self._policy.hold_ttl_s)

    async def _replay_spool(self) -> None:
        now_s = time.monotonic()
        due = self.spool_waits or now_s - self._spool_looked_s >= self._round_s  # others' files are looked for, too
        if due and self._store.available:
            self._spool_looked_s, self._spooled_since = now_s, False
            whole = await self._spool.replay(self._replay)
            self.spool_waits = not whole or self._spooled_since

    async def _renew_lease(self) -> None:
        known, *lapsed = await self._lease(str(int(self._policy.lease_s * 1000)))
        if self._leased and not known:
            await self._restore()
        self._leased = True
        self.lost += [raw.decode() for raw in lapsed]
        while self.lost:
            owner = self.lost[0]
            reclaimed = await hold_expiry.reclaim(self._store, owner)
            self.expired += reclaimed
            del self.lost[0]  # if that fails, the next round does it
            self._log.warning("worker_lost", worker=owner, holds=reclaimed)

    async def _lease(self, life_ms: str) -> list[Any]:
        reply: list[Any] = await self._store.call(LEASE, [LEASES], [self._owner, life_ms, _LEASES_LIFE_MS])
        return reply

    async def _confirm(self) -> None:
        if self._unreplicated.lost_ground():
            calls = self._unreplicated.take()
            missing = await self._post(calls)
            self.posted_again += missing
            if missing:
                self._log.warning("settlements_posted_again", count=missing)
            await self._restore()
        await self._unreplicated.look()

    async def _restore(self) -> None:
        restored = await hold_expiry.restore(self._store, list(self._holds.values()), self._hold_ttl_ms)
        self.restored += restored
        if restored:
            self._log.warning("holds_restored", count=restored)
