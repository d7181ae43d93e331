"""The ledger: admit and settle, each one script call; typed on this side of the store.

    admit(request)      -> Admission          or GatewayError
    settle(settlement)  -> a future           never fails: what the store cannot take goes to the spool
    preview(request)    -> Preview            the same decision, nothing reserved
    run()               renews this worker's holds, voids those of dead gateways, replays the spool, until cancelled

Where a request was cancelled or the reply to its admission was lost, the hold it may have is voided.

`store.on_failure = "open"` admits every well-formed key while the store is away, since nobody can check it then: for
networks where that is better than nothing. Settlement checks it: only a secret that the team's key has is charged.
Where the spool has no room left, it refuses too: what could not be charged later is not begun.

State that changes: `_open`, the holds of requests that run in this worker; `_settling`; `resolutions`; `expired`;
`_grace` and `_round_began_s`, by which a worker voids nothing right after an outage or a pause.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import structlog

from gateway.accounts.entities import View, read_view
from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import NO_USAGE, Hold, Settlement
from gateway.concurrency.periodic import Periodic
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger import hold_expiry
from gateway.ledger.known_responses import Memory
from gateway.ledger.refusals import AdmissionRefusal, Demand, to_error
from gateway.ledger.spool import Spool, upgrade_call
from gateway.protocol.rate_limit_headers import NO_RATES, Rates
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import MAX_VOIDS_PER_CALL, Store

ADMIT: Final = Script.load("admit_v1")
SETTLE: Final = Script.load("settle_v3")
VIEW: Final = Script.load("view_v1")


class Resolution(IntEnum):
    """How the ledger took a settlement: the first number of `settle_v3`'s reply."""

    CONFLICT = -1  # the hold was resolved before, and differently: nothing was posted
    APPLIED = 1
    REPLAYED = 2  # the very same was posted before
    LATE = 3  # its hold had expired, or never was: a cost is posted, a void is nothing to do
    UNKNOWN = 4  # admitted unchecked, and no such team or secret exists: nothing was posted


_REPLAY_S: Final = 900.0
"""How long one round of `tidy-ledger` may take: a full spool is replayed in one."""
_RESOLUTIONS: Final[Mapping[int, Resolution]] = MappingProxyType({int(one): one for one in Resolution})


@dataclass(frozen=True, slots=True)
class LedgerPolicy:
    """How long things live, and what an outage of the store means."""

    hold_ttl_s: float
    resolution_ttl_s: int
    journal_retention_s: int
    usage_retention_s: int
    idempotency_ttl_s: int
    on_failure: str


class AdmissionRequest(NamedTuple):
    """What step 4 asks for. `patterns`: the model's, the most specific first."""

    request_id: str
    key: ApiKey
    patterns: tuple[str, ...]
    demand: Demand
    max_output_tokens: int | None
    idempotency_key: str | None = None


class Admission(NamedTuple):
    """A request that may run.

    `unchecked`: admitted without the store, by `store.on_failure = "open"`. `cut_at_cap`: its key wants no answer to
    cost more than its hold.
    """

    hold: Hold
    rates: Rates
    available_nano_usd: int
    unchecked: bool = False
    cut_at_cap: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """What a dry run found: the admission that would be, and the limits as they stand without it."""

    admission: Admission
    view: View


class AdmissionRefused(GatewayError):
    """A refusal by the admission script; carries the rates for the answer's headers."""

    rates: Rates = NO_RATES

    @classmethod
    def of(cls, error: GatewayError, rates: Rates) -> AdmissionRefused:
        """The same error, with the rates."""
        refused = cls(error.code, error.message, param=error.param, wait_ms=error.wait_ms, explain=error.explain)
        refused.rates = rates
        return refused

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The error's headers, and what is left of the rate limits."""
        return [*super().headers(), *self.rates.headers()]


class Ledger:
    """Admission and settlement over one store."""

    def __init__(self, store: Store, spool: Spool, policy: LedgerPolicy) -> None:
        self._store = store
        self._spool = spool
        self._policy = policy
        self._open: dict[str, Hold] = {}
        self._settling: set[asyncio.Future[Any]] = set()  # the store's replies that are awaited
        self._round_s = policy.hold_ttl_s / 3
        self._loop = asyncio.get_running_loop()
        self._grace: asyncio.TimerHandle | None = None
        self._round_began_s = math.inf
        self.works: Final = (
            Periodic("renew-holds", self._round_s, self._renew, outages=(StoreUnavailable,)),
            Periodic("tidy-ledger", self._round_s, self._tidy, outages=(StoreUnavailable,), dead_after_s=_REPLAY_S),
        )
        """Keeps this worker's holds alive; voids those of dead gateways and replays the spool.

        Both begin a round at once when the store comes back: holds have grown old, and the spool has lines.
        """
        store.on_change = self._on_change
        self.resolutions: Counter[Resolution] = Counter()
        self.expired = 0
        self._log = structlog.get_logger("gateway.ledger")
        self._hold_ttl_ms = str(int(policy.hold_ttl_s * 1000))
        self._idempotency_ttl_ms = str(policy.idempotency_ttl_s * 1000)
        self._settle_ttls = tuple(
            str(seconds * 1000)
            for seconds in (
                policy.resolution_ttl_s,
                policy.usage_retention_s,
                policy.journal_retention_s,
                policy.idempotency_ttl_s,
            )
        )

    @property
    def open_holds(self) -> int:
        """How many requests hold a reservation in this worker."""
        return len(self._open)

    @property
    def admits_unchecked(self) -> bool:
        """Whether requests may begin while the store is away."""
        return self._policy.on_failure == "open" and self._spool.has_room

    async def admit(self, request: AdmissionRequest) -> Admission:
        """Step 4. Raises GatewayError: what the script refuses, or `store_unavailable`."""
        self._notice_pause()
        reply = self._store.call(ADMIT, *self._admit_call(request, dry_run=False))
        try:
            admission = _read_admission(await reply, request)
        except StoreUnavailable as error:
            if not self.admits_unchecked:
                if error.maybe_applied:
                    self._abandon(request)
                raise _unavailable(error) from None
            hold = _hold(request, time.time_ns() // 1_000_000, unchecked_secret=request.key.secret_hash)
            admission = Admission(hold, NO_RATES, 0, unchecked=True)
        except asyncio.CancelledError:
            self._abandon(request)
            raise
        self._open[request.request_id] = admission.hold
        return admission

    async def preview(self, request: AdmissionRequest) -> Preview:
        """What `admit` would say now, and what is left of each limit; reserves nothing. Raises as `admit` does."""
        names = TeamKeys(request.key.team_id)
        view = [names.team, names.state, names.holds, names.held, names.journal, names.key(request.key.key_id)]
        replies = [
            self._store.call(ADMIT, *self._admit_call(request, dry_run=True)),
            self._store.call(VIEW, view, [request.key.key_id, self._store.max_voids_per_call]),
        ]
        reply, seen = await gather(replies)
        return Preview(_read_admission(reply, request), read_view(seen))

    def settle(self, settlement: Settlement, memory: Memory | None = None) -> asyncio.Future[int | None]:
        """Step 8: posts a settlement, and a response to remember. Under way at once; no cancellation takes it back.

        The future's result is the team's balance in nano-USD, or None if the settlement went to the spool.
        """
        self._open.pop(settlement.hold.id, None)
        keys, args = self._settle_call(settlement)
        if memory is not None:
            keys.append(memory.key)
            args += (memory.text, memory.ttl_ms)
        done: asyncio.Future[int | None] = self._loop.create_future()

        def on_reply(reply: asyncio.Future[Any]) -> None:
            self._settling.discard(reply)
            balance: int | None = None
            try:
                balance = self._resolved(reply.result(), args)
            except (StoreUnavailable, StoreError, asyncio.CancelledError):
                self._spool.add(SETTLE.name, keys, args)
            except (ValueError, TypeError, LookupError) as error:  # no reply that the script gives
                self._log.error("settlement_not_understood", error=repr(error))
                self._spool.add(SETTLE.name, keys, args)
            if not done.done():
                done.set_result(balance)

        reply = self._store.call(SETTLE, keys, args)
        self._settling.add(reply)
        reply.add_done_callback(on_reply)
        return done

    async def flush(self) -> None:
        """At shutdown, after `works`: settlements on their way arrive, the spool is replayed or on disk."""
        while self._settling:
            await asyncio.wait(self._settling)
        if self._store.available:
            await self._spool.replay(self._replay)
        await self._spool.close()

    def _abandon(self, request: AdmissionRequest) -> None:
        void = Settlement(_hold(request, 0), "void", 0, NO_USAGE, "-", Outcome.REFUSED, request.demand.model, "")
        _ = self.settle(void)  # nobody waits; `flush` does

    def _resolved(self, reply: list[Any], args: list[str]) -> int:
        """The balance after a settlement. One that was not posted is logged with all that was sent."""
        resolution = _RESOLUTIONS[reply[0]]
        self.resolutions[resolution] += 1
        if resolution is Resolution.CONFLICT or (resolution is Resolution.UNKNOWN and args[1] == "settle"):
            self._log.error(
                f"settlement_{resolution.name.lower()}", request_id=args[0], sent=args[1:], posted=str(reply[1:])
            )
        balance: int = reply[2]
        return balance

    def _on_change(self, available: bool) -> None:  # noqa: FBT001 - the store's callback
        if available:
            self._give_grace()
            for work in self.works:
                work.wake()

    def _notice_pause(self) -> None:
        """A machine that was suspended wakes with all its holds over; they are renewed now."""
        if time.time() - self._round_began_s > 2 * self._round_s:
            self._give_grace()

    def _give_grace(self) -> None:
        """For a round, this worker voids no hold: nobody could renew any, and what is over now may be running."""
        self._store.max_voids_per_call = 0
        if self._grace is not None:
            self._grace.cancel()
        self._grace = asyncio.get_running_loop().call_later(self._round_s, self._end_grace)

    def _end_grace(self) -> None:
        self._store.max_voids_per_call = MAX_VOIDS_PER_CALL

    def _begin_round(self) -> None:
        self._notice_pause()
        self._round_began_s = time.time()

    async def _renew(self) -> None:
        self._begin_round()
        await hold_expiry.renew(self._store, self._open.values(), self._hold_ttl_ms)

    async def _tidy(self) -> None:
        self._begin_round()
        if self._store.available:
            await self._spool.replay(self._replay)
        if self._policy.on_failure == "open":
            await self._spool.look()
        if self._store.max_voids_per_call:
            self.expired += await hold_expiry.expire_holds(self._store, self._round_s)

    async def _replay(self, script: str, keys: list[str], args: list[str]) -> None:
        script, keys, args = upgrade_call(script, keys, args)
        if script != SETTLE.name:
            raise LookupError(f"this version does not know the script {script!r}")
        self._resolved(await self._store.call(SETTLE, keys, args), args)

    def _admit_call(self, request: AdmissionRequest, *, dry_run: bool) -> tuple[list[str], list[str]]:
        key, demand = request.key, request.demand
        names = TeamKeys(key.team_id)
        keys = names.of_request(key.key_id)
        if request.idempotency_key is not None:
            keys.append(names.idempotency_key(key.key_id, request.idempotency_key))
        return keys, [
            request.request_id,
            key.key_id,
            key.secret_hash,
            "\n".join(request.patterns),
            str(demand.amount_nano_usd),
            str(demand.input_tokens + demand.output_tokens),
            str(-1 if request.max_output_tokens is None else request.max_output_tokens),
            self._hold_ttl_ms,
            "1" if dry_run else "0",
            self._idempotency_ttl_ms,
            str(demand.output_tokens),
            str(demand.worst.output_nano_usd),
            str(self._store.max_voids_per_call),
        ]

    def _settle_call(self, settlement: Settlement) -> tuple[list[str], list[str]]:
        hold, usage = settlement.hold, settlement.usage
        names = TeamKeys(hold.team_id)
        keys = names.of_request(hold.key_id)
        keys += (names.resolution(hold.id), names.usage("hour", hold.admitted_ms), names.usage("day", hold.admitted_ms))
        if hold.idempotency_key is not None:
            keys.append(names.idempotency_key(hold.key_id, hold.idempotency_key))
        return keys, [
            hold.id,
            settlement.kind,
            str(settlement.cost_nano_usd),
            hold.key_id,
            settlement.model,
            settlement.upstream,
            settlement.outcome,
            settlement.settled_by,
            str(usage.input_tokens),
            str(usage.cached_input_tokens),
            str(usage.output_tokens),
            str(usage.reasoning_tokens),
            str(hold.admitted_ms),
            *self._settle_ttls,
            hold.unchecked_secret,
            settlement.bill,
            "\n".join(settlement.attempts),
        ]


def _hold(request: AdmissionRequest, admitted_ms: int, *, unchecked_secret: str = "") -> Hold:
    request_id, key, _patterns, demand, _max_output_tokens, idempotency_key = request
    _model, amount, input_tokens, output_tokens, _worst, _unsaid = demand
    tokens = (input_tokens, output_tokens)
    return Hold(request_id, key.team_id, key.key_id, amount, *tokens, admitted_ms, idempotency_key, unchecked_secret)


def _read_admission(reply: list[Any], request: AdmissionRequest) -> Admission:
    admitted, now_ms, code, scope, limit, used, wait_ms, available, amount, tokens, cut = reply[:11]
    rates = Rates(*reply[11:17])
    demand = request.demand
    if tokens != demand.input_tokens + demand.output_tokens:  # a limit lowered the default that the hold is made of
        demand = demand._replace(amount_nano_usd=amount, output_tokens=tokens - demand.input_tokens)
        request = request._replace(demand=demand)
    if admitted == 1:
        return Admission(_hold(request, now_ms), rates, available, cut_at_cap=cut == 1)
    wait = None if wait_ms < 0 else wait_ms
    refusal = AdmissionRefusal(now_ms, code.decode(), scope.decode(), limit, used, wait, available, *reply[17:])
    raise AdmissionRefused.of(to_error(refusal, demand), rates)


def _unavailable(error: StoreUnavailable) -> GatewayError:
    return GatewayError(
        "store_unavailable",
        f"The gateway cannot reach its store just now ({error.reason}). Nothing was charged.",
        wait_ms=1000,
    )
