"""The background work of a worker's ledger. When the store becomes available again, every kind runs at once.

    renew    every third of a hold's lifetime   extends the holds of running requests; reads the store's clock
    expire   the same                           one worker voids the holds that nobody has renewed, for all workers
    replay   four times per second, if needed   sends spooled settlements
    lease    every third of `ledger.lease_s`    renews this worker's lease; voids the holds of dead workers
    confirm  four times per second              drops the settlements that every replica has

If another server answers now than before, it may lack what was acknowledged last. `confirm` then posts settlements
again, and `renew` finds the holds that are gone, which running requests get again. The same happens if this worker was
silent for so long that the others considered it dead.

Mutable: whether the spool waits, the lease, the workers that are `lost`, and the counts `expired`, `posted_again` and
`restored`.
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
"""The maximum duration of one round of `replay-spool`, which replays a full spool."""
_LOG_INTERVAL_S: Final = 60.0

Post = Callable[[list[Call]], Awaitable[int]]
"""Posts settlements again. Returns how many the store did not have."""


class Upkeep:
    """The background work of one worker's ledger.

    `owner` is its name among the leases and the prefix of its holds' ids.
    """

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
        self._logged_s = -math.inf
        self._leased = False
        self._log = structlog.get_logger("gateway.ledger")
        self.periodics: Final = (
            self._periodic("renew-holds", self._round_s, self._renew),
            self._periodic("expire-holds", self._round_s, self._expire),
            self._periodic("replay-spool", _RETRY_S, self._replay_spool, dead_after_s=_REPLAY_S),
            self._periodic("renew-lease", policy.lease_s / 3, self._renew_lease),
            self._periodic("confirm-replicas", _CONFIRM_EVERY_S, self._confirm),
        )

    def wake(self) -> None:
        """Starts every kind of work now, because the store is available again."""
        self.spool_waits = True
        for work in self.periodics:
            work.wake()

    def note_spooled(self) -> None:
        """Notes that a settlement was spooled. If the store is available nevertheless, it is sent again soon."""
        self.spool_waits = self._spooled_since = True

    def replay_soon(self) -> None:
        """Sends the lines in this worker's spool now."""
        self.periodics[2].wake()

    async def end(self) -> None:
        """Ends the lease at shutdown, after everything was settled. Raises StoreUnavailable or StoreError."""
        await self._lease("0")

    def _periodic(
        self, name: str, every_s: float, work: Callable[[], Awaitable[None]], dead_after_s: float | None = None
    ) -> Periodic:
        async def tried() -> None:
            try:
                await work()
            except StoreError as error:  # logged from time to time, because the store's operator must act
                now_s = time.monotonic()
                if now_s - self._logged_s >= _LOG_INTERVAL_S:
                    self._logged_s = now_s
                    self._log.error("upkeep_refused", work=name, error=str(error))

        return Periodic(name, every_s, tried, outages=(StoreUnavailable,), dead_after_s=dead_after_s)

    async def _renew(self) -> None:
        await self._store.measure_clocks()
        if await hold_expiry.renew(self._store, self._holds.values(), self._hold_ttl_ms):
            # There was a failover, or another worker considered this one dead and voided its holds.
            await self._restore()

    async def _expire(self) -> None:
        if self._policy.on_failure == "open":
            await self._spool.update_room()
        self.expired += await hold_expiry.expire_holds(self._store, self._round_s, self._policy.hold_ttl_s)

    async def _replay_spool(self) -> None:
        now_s = time.monotonic()
        # also looks for the files of other workers
        due = self.spool_waits or now_s - self._spool_looked_s >= self._round_s
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
            problem, reclaimed = "", 0
            try:
                reclaimed = await hold_expiry.reclaim(self._store, owner)
            except StoreError as error:  # a team's data is damaged; the holds of the other teams were voided
                problem = str(error)
            self.expired += reclaimed
            del self.lost[0]  # during an outage the next round tries again
            self._log.warning("worker_lost", worker=owner, holds=reclaimed, problem=problem)

    async def _lease(self, life_ms: str) -> list[Any]:
        reply: list[Any] = await self._store.call(LEASE, [LEASES], [self._owner, life_ms, _LEASES_LIFE_MS])
        return reply

    async def _confirm(self) -> None:
        if self._unreplicated.may_have_lost:
            missing = await self._post(self._unreplicated.take())
            self.posted_again += missing
            if missing:
                self._log.warning("settlements_posted_again", count=missing)
        await self._unreplicated.drop_replicated()

    async def _restore(self) -> None:
        restored = await hold_expiry.restore(self._store, list(self._holds.values()), self._hold_ttl_ms)
        self.restored += restored
        if restored:
            self._log.warning("holds_restored", count=restored)
