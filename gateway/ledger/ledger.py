"""The ledger: admits and settles requests. Each of these is one script call.

    admit(request)      -> Admission          or raises GatewayError
    settle(settlement)  -> a future           never fails: settlements that the store cannot accept are spooled
    preview(request)    -> Preview            the same decision without a reservation
    periodics           the background work, see `upkeep`

If a request was cancelled, or the reply to its admission was lost, the hold that it may have is voided.

With `store.on_failure = "open"` every well-formed key is admitted while the store is unavailable, because the key
cannot be checked then. This suits networks where serving is more important than charging. The settlement checks the key
later, and charges only for a secret that the team's key has. If the spool is full, requests are refused even then,
because they could not be charged later.

An admission carries a deadline. If it waited too long in the socket of a store that hung, the script refuses it.
`store/errors.py` says what an error reply means for an admission and for a settlement. A settlement is never dropped,
whatever the store replies.

Mutable: the open holds of this worker, the settlements that are under way or spooled, counts, the times of faults, and
random digits for ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from typing import Any, Final

import structlog

from gateway.accounts.calendars import write_calendar
from gateway.accounts.views import read_views
from gateway.billing.settlement import Hold, Settlement
from gateway.concurrency.periodic import Periodic
from gateway.errors import GatewayError
from gateway.ledger.abandoned import Abandoned
from gateway.ledger.admission_call import ADMIT, AdmissionCalls
from gateway.ledger.admissions import (
    Admission,
    AdmissionLate,
    AdmissionRefused,
    AdmissionRequest,
    CalendarDue,
    Preview,
    hold_of,
    read_admission,
)
from gateway.ledger.known_responses import ResponseMemory
from gateway.ledger.owners import new_owner
from gateway.ledger.policy import LedgerPolicy
from gateway.ledger.replication import Call, Unreplicated
from gateway.ledger.request_queue import RequestQueue
from gateway.ledger.settlement_call import SETTLE, Posted, Resolution, SettlementCalls, read_posted, upgrade_call
from gateway.ledger.spool import Spool
from gateway.ledger.upkeep import Upkeep
from gateway.protocol.rate_limit_headers import NO_RATES
from gateway.store.errors import StoreError, StoreUnavailable, is_fault_of_call, is_forbidden, repeats
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

FREE: Final = Script.load("mark_free_v1")
_REPEAT_AFTER_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, None)
"""Pauses between the attempts of an admission that met a temporary fault (`REPLY_FAULTS`). None is the last attempt."""
_POST_BATCH_SIZE: Final = 500
_LAST_WAIT_MS: Final = 700
"""How long shutdown waits for a replica. It is shorter than the store's own timeout."""
_LOG_INTERVAL_S: Final = 60.0
_ID_BYTES: Final = 12
_IDS_PER_READ: Final = 40
"""How many ids one read of random bytes from the kernel serves."""
_FAULT_MEMORY_S: Final = 1.0
"""How long after a fault of a team's calls other workers may still have settlements in their spools."""


class Ledger:
    """Admission and settlement over one store."""

    def __init__(
        self, store: Store, spool: Spool, policy: LedgerPolicy, *, owner: str = "", lost: tuple[str, ...] = ()
    ) -> None:
        self.owner = owner or new_owner()
        self._store = store
        self._spool = spool
        self._policy = policy
        self._open: dict[str, Hold] = {}
        self._settling: set[asyncio.Future[Any]] = set()  # the awaited replies of the store
        self._loop = asyncio.get_running_loop()
        self._unreplicated = Unreplicated(store, policy.unreplicated_max)
        self.upkeep = Upkeep(
            store,
            spool,
            self._unreplicated,
            self._open,
            self.owner,
            self._replay,
            self._post_again,
            policy,
        )
        self.upkeep.lost += lost
        store.on_change = self._on_change
        self.resolutions: Counter[Resolution] = Counter()
        self.queue = RequestQueue(store)
        self._unsettled: dict[str, set[str]] = {}  # team -> holds whose settlements wait in the spool
        self._logged_s: dict[str, float] = {}
        self._fault_s: dict[str, float] = {}  # team -> time of the last fault that concerned a single call
        self._log = structlog.get_logger("gateway.ledger")
        self._admissions = AdmissionCalls(policy, store.run_by_ms)
        self._calls = SettlementCalls(policy)
        self._digits = ""  # random digits for the ids of requests
        self._abandoned = Abandoned(self.settle, store.timeout_s)

    @property
    def periodics(self) -> tuple[Periodic, ...]:
        """The background work, which runs as long as the worker runs."""
        return self.upkeep.periodics

    @property
    def open_holds(self) -> int:
        """The number of requests in this worker that have a hold."""
        return len(self._open)

    @property
    def is_settled(self) -> bool:
        """Whether no request of this worker has a hold, and each settlement is in the store or in the spool."""
        return not self._open and not self._settling

    @property
    def unreplicated(self) -> int:
        """The number of settlements that wait for the store's replicas."""
        return len(self._unreplicated)

    @property
    def admits_unchecked(self) -> bool:
        """Whether requests may begin while the store is unavailable."""
        return self._policy.on_failure == "open" and self._spool.has_room

    def new_request_id(self) -> str:
        """Returns a new id for a request and its hold. The id names this worker."""
        if not self._digits:
            self._digits = os.urandom(_ID_BYTES * _IDS_PER_READ).hex()
        at = len(self._digits) - 2 * _ID_BYTES
        digits, self._digits = self._digits[at:], self._digits[:at]
        return f"{self.owner}{digits}"

    async def admit(self, request: AdmissionRequest) -> Admission:
        """Runs step 4. Raises AdmissionRefused, or GatewayError `store_unavailable`."""
        if self._unsettled and self._cannot_settle(request.key.team_id):
            raise _unavailable(StoreUnavailable("unsettled"))
        for pause_s in _REPEAT_AFTER_S:
            reply = self._store.call(ADMIT, *self._admissions.call(request))
            try:
                admission = read_admission(await reply, request)
            except (AdmissionLate, CalendarDue) as due:
                await self._prepare_retry(request.key.team_id, due)
                continue
            except (StoreUnavailable, StoreError) as error:
                if pause_s is not None and isinstance(error, StoreUnavailable) and repeats(error.reason):
                    await asyncio.sleep(pause_s)  # if cancelled here, nothing is reserved
                    continue
                admission = self._without_store(request, error)
            except AdmissionRefused as refused:
                if refused.code != "concurrency_exceeded" or not self._slots_may_be_free(request.key.team_id):
                    raise self.queue.slot_times.with_wait_time(refused, request.key) from None
                # Settlements of the team are still in the spool, so their slots are released first. Other workers that
                # met the same fault are about to release theirs.
                self.upkeep.replay_soon()
                await asyncio.sleep(pause_s or 0)
                continue
            except asyncio.CancelledError:
                self._abandoned.add(request)
                raise
            if not request.free:
                self._open[request.request_id] = admission.hold
            return admission
        raise _unavailable(StoreUnavailable("late"))

    async def _prepare_retry(self, team_id: str, due: AdmissionLate | CalendarDue) -> None:
        """Prepares a second attempt. If the store is unavailable, that attempt will find out."""
        if isinstance(due, AdmissionLate):  # the clocks have drifted apart, and the reply contains the store's time
            self._store.note_clock(TeamKeys(team_id).team, due.now_ms)
            return
        with contextlib.suppress(StoreUnavailable, StoreError):
            await write_calendar(self._store, team_id, due.now_ms)

    async def preview(self, request: AdmissionRequest) -> Preview:
        """Returns what `admit` would decide, and the state of each limit. Reserves nothing. Raises as `admit` does."""
        [view] = await read_views(self._store, [(request.key.team_id, request.key.key_id)], self._admissions.burst)
        [reply] = await gather([self._store.call(ADMIT, *self._admissions.call(request, dry_run=True))])
        try:
            return Preview(read_admission(reply, request), view)
        except (AdmissionLate, CalendarDue) as due:
            await self._prepare_retry(request.key.team_id, due)
            raise _unavailable(StoreUnavailable("late")) from None

    def settle(self, settlement: Settlement, memory: ResponseMemory | None = None) -> asyncio.Future[Posted | None]:
        """Runs step 8: posts a settlement, and a response to remember. It is sent at once, and cannot be cancelled.

        The future's result is None if the settlement was spooled. Nothing is posted for a free call.
        """
        if not settlement.hold.reserved:
            nothing: asyncio.Future[Posted | None] = self._loop.create_future()
            nothing.set_result(Posted(0, Resolution.APPLIED))
            return nothing
        self._open.pop(settlement.hold.id, None)
        keys, args = self._calls.call(settlement, memory)
        epoch = self._store.epoch
        done: asyncio.Future[Posted | None] = self._loop.create_future()

        def on_reply(reply: asyncio.Future[Any]) -> None:
            self._settling.discard(reply)
            posted: Posted | None = None
            try:
                posted = self._resolved(reply.result(), args)
                self._unreplicated.keep(keys, args, epoch)
            except (StoreUnavailable, StoreError, asyncio.CancelledError) as error:
                self._spooled(keys, args, error)
            except (ValueError, TypeError, LookupError) as error:  # not a reply of the script
                self._log.error("settlement_not_understood", error=repr(error))
                self._spool.add(SETTLE.name, keys, args)
            if not done.done():
                done.set_result(posted)

        reply = self._store.call(SETTLE, keys, args)
        self._settling.add(reply)
        reply.add_done_callback(on_reply)
        return done

    async def free_idempotency_key(self, request: AdmissionRequest) -> None:
        """A request that was to follow a call made for it will not run: a repetition of it may.

        Where the store does not take it, the key is free after a minute (idempotency.lua).
        """
        if request.idempotency_key is not None:
            name = TeamKeys(request.key.team_id).idempotency_key(request.key.key_id, request.idempotency_key)
            with contextlib.suppress(StoreUnavailable, StoreError):
                await self._store.call(FREE, [name], [request.request_id])

    async def flush(self) -> None:
        """Waits at shutdown, after the background work, until all settlements are in the store or on disk.

        Settlements that a replica may still lack are spooled too, because no other worker knows them.
        """
        await self._abandoned.end()
        while self._settling:
            await asyncio.wait(self._settling)
        is_safe = False
        if self._store.available:
            if self._unreplicated.may_have_lost:
                await self._post_again(self._unreplicated.take())
            await self._spool.replay(self._replay)
            with contextlib.suppress(StoreUnavailable, StoreError):
                is_safe = await self._unreplicated.wait_for_replicas(_LAST_WAIT_MS)
                await self.upkeep.end()
        if not is_safe:
            for keys, args in self._unreplicated.take():
                self._spool.add(SETTLE.name, keys, args)
        await self._spool.close()

    def _resolved(self, reply: list[Any], args: list[str]) -> Posted:
        """Parses the result of a settlement. A settlement that was not posted is logged completely."""
        posted = read_posted(reply)
        resolution = posted.resolution
        self.resolutions[resolution] += 1
        if resolution is Resolution.CONFLICT or (resolution is Resolution.UNKNOWN and args[1] == "settle"):
            self._log.error(
                f"settlement_{resolution.name.lower()}", request_id=args[0], sent=args[1:], posted=str(reply[1:])
            )
        return posted

    def _on_change(self, available: bool) -> None:  # noqa: FBT001 - the store's callback
        if available:
            self.upkeep.wake()

    async def _replay(self, script: str, keys: list[str], args: list[str]) -> None:
        script, keys, args = upgrade_call(script, keys, args)
        if script != SETTLE.name:
            raise LookupError(f"this version does not know the script {script!r}")
        team_id = _team_of(keys)
        epoch = self._store.epoch
        try:
            reply = await self._store.call(SETTLE, keys, args)
        except StoreUnavailable as error:
            self._note_fault(team_id, error)
            raise
        self._resolved(reply, args)
        self._unreplicated.keep(keys, args, epoch)
        if (unsettled := self._unsettled.get(team_id)) is not None:
            unsettled.discard(args[0])
            if not unsettled:
                del self._unsettled[team_id]

    async def _post_again(self, calls: list[Call]) -> int:
        """Posts settlements again that another server had acknowledged. Returns how many this server did not have.

        Settlements that fail are spooled. After a cancellation, those without a reply are kept, to be posted later.
        """
        missing = 0
        for at in range(0, len(calls), _POST_BATCH_SIZE):
            batch, epoch = calls[at : at + _POST_BATCH_SIZE], self._store.epoch
            try:
                replies = await asyncio.gather(
                    *(self._store.call(SETTLE, keys, args) for keys, args in batch), return_exceptions=True
                )
            except asyncio.CancelledError:
                self._unreplicated.put_back(calls[at:])
                raise
            for (keys, args), reply in zip(batch, replies, strict=True):
                if isinstance(reply, BaseException):
                    self._spooled(keys, args, reply)
                    continue
                self._resolved(reply, args)
                self._unreplicated.keep(keys, args, epoch)
                missing += reply[0] in (Resolution.APPLIED, Resolution.LATE)
        return missing

    def _spooled(self, keys: list[str], args: list[str], error: BaseException) -> None:
        self._spool.add(SETTLE.name, keys, args)
        self._unsettled.setdefault(_team_of(keys), set()).add(args[0])
        self.upkeep.note_spooled()
        self._note_fault(_team_of(keys), error)
        if isinstance(error, StoreError):
            self._log_refusal("ERR", str(error))
        elif isinstance(error, StoreUnavailable) and is_forbidden(error.reason):
            self._log_refusal(error.reason, error.detail)

    def _has_unsettled(self, team_id: str) -> bool:
        """Whether a settlement of the team waits in the spool."""
        if not self.upkeep.spool_waits and not self._spool.pending:
            self._unsettled.clear()  # another worker has replayed what was left
        return team_id in self._unsettled

    def _slots_may_be_free(self, team_id: str) -> bool:
        """Whether a settlement of the team may wait in the spool of this worker, or of another one after a fault."""
        return self._has_unsettled(team_id) or self._slots_are_unsure(team_id)

    def _cannot_settle(self, team_id: str) -> bool:
        """Whether the store refuses the team's settlements just now. Admissions may succeed, because their keys differ.

        Admitted requests could then not release their slots, for which other workers' requests would be refused.
        """
        return self._has_unsettled(team_id) and self._slots_are_unsure(team_id)

    def _slots_are_unsure(self, team_id: str) -> bool:
        return self._loop.time() - self._fault_s.get(team_id, -_FAULT_MEMORY_S) < _FAULT_MEMORY_S

    def _note_fault(self, team_id: str, error: BaseException) -> None:
        if not isinstance(error, StoreUnavailable) or not is_fault_of_call(error.reason):
            return
        now_s, met_s = self._loop.time(), self._fault_s
        met_s.pop(team_id, None)
        met_s[team_id] = now_s  # the newest is the last one
        while now_s - met_s[first := next(iter(met_s))] >= _FAULT_MEMORY_S:
            del met_s[first]

    def _without_store(self, request: AdmissionRequest, error: StoreUnavailable | StoreError) -> Admission:
        """Decides about a request while the store is unavailable."""
        if isinstance(error, StoreError):
            self._log_refusal("ERR", str(error))
            raise _unavailable(StoreUnavailable("refused")) from None
        self._note_fault(request.key.team_id, error)
        if is_forbidden(error.reason):
            self._log_refusal(error.reason, error.detail)
        if not self.admits_unchecked:
            if error.maybe_applied:
                self._abandoned.add(request)
            raise _unavailable(error) from None
        hold = hold_of(request, time.time_ns() // 1_000_000, unchecked_secret=request.key.secret_hash)
        return Admission(hold, NO_RATES, 0, unchecked=True)

    def _log_refusal(self, reason: str, detail: str) -> None:
        """Logs one line per minute for each reason, however many calls the store refuses."""
        now_s = self._loop.time()
        if now_s - self._logged_s.get(reason, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S:
            self._logged_s[reason] = now_s
            self._log.error("store_refuses", error=detail)


def _team_of(keys: list[str]) -> str:
    return keys[0].partition("{")[2].partition("}")[0]


def _unavailable(error: StoreUnavailable) -> GatewayError:
    return GatewayError(
        "store_unavailable",
        f"The gateway cannot reach its store at the moment ({error.reason}). Nothing was charged.",
        wait_ms=1000,
    )
