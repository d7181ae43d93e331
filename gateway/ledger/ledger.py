"""The ledger: admit and settle, each one script call; typed on this side of the store.

    admit(ask)          -> Admission          or GatewayError
    settle(settlement)  -> a future           never fails: what the store cannot take goes to the spool
    preview(ask)        -> Admission          the same decision, nothing written
    run()               renews this worker's holds and voids those of dead gateways, until cancelled

State that changes: `_open`, the holds of requests that run in this worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.exchange import Hold, Settlement
from gateway.identity import ApiKey
from gateway.ledger.faults import StoreUnavailable
from gateway.ledger.keyspace import TEAMS, TeamKeys
from gateway.ledger.refusals import Demand, Refusal, to_error
from gateway.ledger.script import Script
from gateway.ledger.spool import Spool
from gateway.ledger.store import Store

ADMIT: Final = Script.load("admit_v1")
SETTLE: Final = Script.load("settle_v1")
RENEW: Final = Script.load("renew_v1")
EXPIRE: Final = Script.load("expire_v1")

_REAPER_LOCK: Final = "gw:{reaper}:lock"
_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class LedgerPolicy:
    """How long things live, and what an outage of the store means."""

    hold_ttl_s: float
    resolution_ttl_s: int
    journal_retention_s: int
    usage_retention_s: int
    idempotency_ttl_s: int
    on_failure: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What step 4 asks for. `patterns`: the model's, the most specific first."""

    request_id: str
    key: ApiKey
    patterns: tuple[str, ...]
    demand: Demand
    max_output_tokens: int | None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """What is left of the rate limits, of the scope nearest its limit. A limit of -1: there is none."""

    requests_limit: int = -1
    requests_left: int = -1
    requests_reset_ms: int = 0
    tokens_limit: int = -1
    tokens_left: int = -1
    tokens_reset_ms: int = 0

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, as OpenAI names them."""
        out: list[tuple[bytes, bytes]] = []
        if self.requests_limit >= 0:
            out += _rate_headers(b"requests", self.requests_limit, self.requests_left, self.requests_reset_ms)
        if self.tokens_limit >= 0:
            out += _rate_headers(b"tokens", self.tokens_limit, self.tokens_left, self.tokens_reset_ms)
        return out


NO_RATES: Final = Rates()


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may run. `unchecked`: admitted without the store, by `store.on_failure = "open"`."""

    hold: Hold
    rates: Rates
    available_nano_usd: int
    unchecked: bool = False


class Refused(GatewayError):
    """A refusal by the admission script; carries the rates for the answer's headers."""

    rates: Rates = NO_RATES

    @classmethod
    def of(cls, error: GatewayError, rates: Rates) -> Refused:
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
        self._hold_ttl_ms = str(int(policy.hold_ttl_s * 1000))
        self._mark_ttl_ms = str(policy.idempotency_ttl_s * 1000)
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

    async def admit(self, ask: Ask) -> Admission:
        """Step 4. Raises GatewayError: what the script refuses, or `store_unavailable`."""
        try:
            reply = await self._store.call(ADMIT, *self._admit_call(ask, dry_run=False))
        except StoreUnavailable as error:
            if self._policy.on_failure != "open":
                raise _unavailable(error) from None
            admission = Admission(_hold(ask, time.time_ns() // 1_000_000), NO_RATES, 0, unchecked=True)
        else:
            admission = _read_admission(reply, ask)
        self._open[ask.request_id] = admission.hold
        return admission

    async def preview(self, ask: Ask) -> Admission:
        """What `admit` would say now; reserves nothing. Raises as `admit` does."""
        try:
            reply = await self._store.call(ADMIT, *self._admit_call(ask, dry_run=True))
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        return _read_admission(reply, ask)

    def settle(self, settlement: Settlement) -> asyncio.Future[int | None]:
        """Step 8: posts a settlement. The command is under way when this returns; no cancellation takes it back.

        The future's result is the team's balance in nano-USD, or None if the settlement went to the spool.
        """
        hold = settlement.hold
        self._open.pop(hold.id, None)
        keys, args = self._settle_call(settlement)
        done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        def on_reply(reply: asyncio.Future[Any]) -> None:
            balance: int | None = None
            error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
            if error is None:
                balance = reply.result()[2]
            else:
                self._spool.add(SETTLE.name, keys, args)
            if not done.done():
                done.set_result(balance)

        self._store.call(SETTLE, keys, args).add_done_callback(on_reply)
        return done

    async def run(self) -> None:
        """Keeps this worker's holds alive, voids those of dead gateways, replays the spool. Ends by cancellation."""
        interval_s = self._policy.hold_ttl_s / 3
        while True:
            with contextlib.suppress(StoreUnavailable):
                await self._renew()
                await self._reap(interval_s)
                await self._spool.replay(self._replay)
            await asyncio.sleep(interval_s)

    async def flush(self) -> None:
        """Writes what waits for the spool; tries once more to bring the spool to the store."""
        await self._spool.replay(self._replay)
        await self._spool.close()

    async def _replay(self, script: str, keys: list[str], args: list[str]) -> None:
        await self._store.call(Script.load(script), keys, args)

    async def _renew(self) -> None:
        by_team: defaultdict[str, list[str]] = defaultdict(list)
        for hold in self._open.values():
            by_team[hold.team_id].append(hold.id)
        for team_id, ids in by_team.items():
            for at in range(0, len(ids), _AT_ONCE):
                await self._store.call(RENEW, [TeamKeys(team_id).holds], [self._hold_ttl_ms, *ids[at : at + _AT_ONCE]])

    async def _reap(self, interval_s: float) -> None:
        # One reaper a store: whoever takes the lock first does this round.
        lock = await self._store.run("SET", _REAPER_LOCK, "1", "NX", "PX", str(int(interval_s * 900)))
        if lock is None:
            return
        start = 0
        while team_ids := await self._store.run("ZRANGE", TEAMS, str(start), str(start + _AT_ONCE - 1)):
            start += len(team_ids)
            calls = []
            for raw in team_ids:
                keys = TeamKeys(raw.decode())
                calls.append(
                    self._store.call(EXPIRE, [keys.state, keys.holds, keys.held, keys.journal], [str(_AT_ONCE)])
                )
            await asyncio.gather(*calls)

    def _admit_call(self, ask: Ask, *, dry_run: bool) -> tuple[list[str], list[str]]:
        key, demand = ask.key, ask.demand
        names = TeamKeys(key.team_id)
        keys = [names.team, names.key(key.key_id), names.state, names.holds, names.held, names.journal]
        if ask.idempotency_key is not None:
            keys.append(names.mark(key.key_id, ask.idempotency_key))
        return keys, [
            ask.request_id,
            key.key_id,
            key.secret_hash,
            "\n".join(ask.patterns),
            str(demand.amount_nano_usd),
            str(demand.input_tokens + demand.output_tokens),
            str(-1 if ask.max_output_tokens is None else ask.max_output_tokens),
            self._hold_ttl_ms,
            "1" if dry_run else "0",
            self._mark_ttl_ms,
        ]

    def _settle_call(self, settlement: Settlement) -> tuple[list[str], list[str]]:
        hold, usage = settlement.hold, settlement.usage
        names = TeamKeys(hold.team_id)
        keys = [names.team, names.key(hold.key_id), names.state, names.holds, names.held, names.journal]
        keys += [names.done(hold.id), names.usage(hold.admitted_ms)]
        if hold.mark is not None:
            keys.append(names.mark(hold.key_id, hold.mark))
        return keys, [
            hold.id,
            settlement.kind,
            str(settlement.cost_nano_usd),
            hold.key_id,
            settlement.model,
            settlement.upstream,
            settlement.outcome.value,
            settlement.settled_by,
            str(usage.input_tokens),
            str(usage.cached_input_tokens),
            str(usage.output_tokens),
            str(usage.reasoning_tokens),
            str(hold.admitted_ms),
            *self._settle_ttls,
        ]


def _hold(ask: Ask, admitted_ms: int) -> Hold:
    demand = ask.demand
    return Hold(
        id=ask.request_id,
        team_id=ask.key.team_id,
        key_id=ask.key.key_id,
        amount_nano_usd=demand.amount_nano_usd,
        input_tokens=demand.input_tokens,
        output_tokens=demand.output_tokens,
        admitted_ms=admitted_ms,
        mark=ask.idempotency_key,
    )


def _read_admission(reply: list[Any], ask: Ask) -> Admission:
    admitted, now_ms, code, scope, limit, used, wait_ms, available = reply[:8]
    rates = Rates(*reply[8:14])
    if admitted == 1:
        return Admission(_hold(ask, now_ms), rates, available)
    refusal = Refusal(now_ms, code.decode(), scope.decode(), limit, used, None if wait_ms < 0 else wait_ms, available)
    raise Refused.of(to_error(refusal, ask.demand), rates)


def _unavailable(error: StoreUnavailable) -> GatewayError:
    return GatewayError(
        "store_unavailable",
        f"The gateway cannot reach its store just now ({error.reason}). Nothing was charged.",
        wait_ms=1000,
    )


def _rate_headers(unit: bytes, limit: int, left: int, reset_ms: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit-" + unit, b"%d" % limit),
        (b"x-ratelimit-remaining-" + unit, b"%d" % left),
        (b"x-ratelimit-reset-" + unit, _duration(reset_ms)),
    ]


_SECOND_MS: Final = 1000


def _duration(ms: int) -> bytes:
    """As OpenAI writes it: 20ms, 1.5s, 6m0s."""
    if ms < _SECOND_MS:
        return b"%dms" % ms
    minutes, rest = divmod(ms, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s".encode() if minutes else f"{seconds}s".encode()
