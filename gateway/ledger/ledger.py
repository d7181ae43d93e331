"""The ledger: admits and settles requests. Each is one script call, and this module is the typed interface to it.

    admit(request)      -> Admission          or GatewayError
    settle(settlement)  -> a future           never fails: what the store cannot take goes to the spool
    preview(request)    -> Preview            the same decision without a reservation
    works               the background work, see `upkeep`

If a request was cancelled, or the reply to its admission was lost, the hold that it may have is voided.

With `store.on_failure = "open"` every well-formed key is admitted while the store is unavailable, because the key
cannot be checked then. This suits networks where serving is more important than charging. Settlement checks the key
later and charges only a secret that the team's key has. If the spool is full, the request is refused even then, because
it could not be charged later.

An admission carries a deadline. If it waited too long in the socket of a store that hung, the script refuses it.
`store/errors.py` says what an error reply means for an admission and for a settlement. A settlement is never dropped,
whatever the store replies.

Mutable: `_open`, the holds of requests that run in this worker; `_settling`; `_unsettled`; `resolutions`; `_told_s`;
`_met_fault_s`; `_digits`, random ones for ids.
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
from gateway.ledger.known_responses import Memory
from gateway.ledger.owners import new_owner
from gateway.ledger.policy import LedgerPolicy
from gateway.ledger.replication import Call, Unreplicated
from gateway.ledger.settlement_call import SETTLE, Posted, Resolution, SettlementCalls, read_posted, upgrade_call
from gateway.ledger.spool import Spool
from gateway.ledger.upkeep import Upkeep
from gateway.ledger.waiting_line import WaitingLine
from gateway.protocol.rate_limit_headers import NO_RATES
from gateway.store.errors import StoreError, StoreUnavailable, is_fault_of_call, is_forbidden, repeats
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather
from gateway.store.store import Store

_REPEAT_AFTER_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, None)
"""Pauses between the attempts of an admission that met a temporary fault (`REPLY_FAULTS`). None is the last attempt."""
_POSTED_AT_ONCE: Final = 500
_LAST_WAIT_MS: Final = 700
"""How long shutdown waits for a replica. It is shorter than the store's own timeout."""
_TOLD_EVERY_S: Final = 60.0
_ID_BYTES: Final = 12
_IDS_AT_ONCE: Final = 40
"""For so many ids the kernel is asked once for random bytes."""
_OTHERS_SETTLE_S: Final = 1.0
"""How long after a fault of a team's calls settlements of other workers may still wait: some rounds of their replay."""


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
        self._settling: set[asyncio.Future[Any]] = set()  # the store's replies that are awaited
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
        self.line = WaitingLine(store)
        self._unsettled: dict[str, set[str]] = {}  # team -> holds whose settlements wait in the spool
        self._told_s: dict[str, float] = {}
        self._met_fault_s: dict[str, float] = {}  # team -> when a call of it met a fault that concerns calls alone
        self._log = structlog.get_logger("gateway.ledger")
        self._admissions = AdmissionCalls(policy, store.run_by_ms)
        self._calls = SettlementCalls(policy)
        self._digits = ""  # random ones, for the ids of requests
        self._abandoned = Abandoned(self.settle, store.timeout_s)

    @property
    def works(self) -> tuple[Periodic, ...]:
        """The background work, which runs as long as the worker."""
        return self.upkeep.works

    @property
    def open_holds(self) -> int:
        """How many requests hold a reservation in this worker."""
        return len(self._open)

    @property
    def unreplicated(self) -> int:
        """How many settlements wait for the store's replicas."""
        return len(self._unreplicated)

    @property
    def admits_unchecked(self) -> bool:
        """Whether requests may begin while the store is away."""
        return self._policy.on_failure == "open" and self._spool.has_room

    def new_request_id(self) -> str:
        """Returns a new id for a request and its hold. The id names this worker."""
        if not self._digits:
            self._digits = os.urandom(_ID_BYTES * _IDS_AT_ONCE).hex()
        at = len(self._digits) - 2 * _ID_BYTES
        digits, self._digits = self._digits[at:], self._digits[:at]
        return f"{self.owner}{digits}"

    async def admit(self, request: AdmissionRequest) -> Admission:
        """Step 4. Raises GatewayError: what the script refuses, or `store_unavailable`."""
        if self._unsettled and self._cannot_settle(request.key.team_id):
            raise _unavailable(StoreUnavailable("unsettled"))
        for pause_s in _REPEAT_AFTER_S:
            reply = self._store.call(ADMIT, *self._admissions.call(request))
            try:
                admission = read_admission(await reply, request)
            except (AdmissionLate, CalendarDue) as due:
                await self._make_ready(request.key.team_id, due)
                continue
            except (StoreUnavailable, StoreError) as error:
                if pause_s is not None and isinstance(error, StoreUnavailable) and repeats(error.reason):
                    await asyncio.sleep(pause_s)  # if cancelled here, nothing is reserved
                    continue
                admission = self._without_store(request, error)
            except AdmissionRefused as refused:
                if refused.code != "concurrency_exceeded" or not self._slots_may_be_free(request.key.team_id):
                    raise self.line.slot_times.told(refused, request.key) from None
                # The store has not received the end of the team's own requests, so their slots are released first.
                # Other workers that met the same fault are about to release theirs.
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

    async def _make_ready(self, team_id: str, due: AdmissionLate | CalendarDue) -> None:
        """Does what an admission lacked. Whether the store is away, the next attempt will see."""
        if isinstance(due, AdmissionLate):  # the clocks have drifted apart, and the reply shows the store's
            self._store.note_clock(TeamKeys(team_id).team, due.now_ms)
            return
        with contextlib.suppress(StoreUnavailable, StoreError):
            await write_calendar(self._store, team_id, due.now_ms)

    async def preview(self, request: AdmissionRequest) -> Preview:
        """What `admit` would say now, and what is left of each limit; reserves nothing. Raises as `admit` does."""
        [view] = await read_views(self._store, [(request.key.team_id, request.key.key_id)], self._admissions.burst)
        [reply] = await gather([self._store.call(ADMIT, *self._admissions.call(request, dry_run=True))])
        try:
            return Preview(read_admission(reply, request), view)
        except (AdmissionLate, CalendarDue) as due:
            await self._make_ready(request.key.team_id, due)
            raise _unavailable(StoreUnavailable("late")) from None

    def settle(self, settlement: Settlement, memory: Memory | None = None) -> asyncio.Future[Posted | None]:
        """Step 8: posts a settlement, and a response to remember. Under way at once; no cancellation takes it back.

        The future's result is None if the settlement went to the spool. Of a free call nothing is posted.
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
            except (ValueError, TypeError, LookupError) as error:  # no reply that the script gives
                self._log.error("settlement_not_understood", error=repr(error))
                self._spool.add(SETTLE.name, keys, args)
            if not done.done():
                done.set_result(posted)

        reply = self._store.call(SETTLE, keys, args)
        self._settling.add(reply)
        reply.add_done_callback(on_reply)
        return done

    async def flush(self) -> None:
        """Waits at shutdown, after `works`, until settlements have arrived and the spool is replayed or on disk.

        What a replica may still lack goes to the spool, too: nobody else knows of it when this worker is gone.
        """
        await self._abandoned.end()
        while self._settling:
            await asyncio.wait(self._settling)
        is_safe = False
        if self._store.available:
            if self._unreplicated.lost_ground:
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
        """What became of a settlement. One that was not posted is logged with all that was sent."""
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

        Settlements that fail are spooled. If it is cancelled, those without an answer are kept, to be posted later.
        """
        missing = 0
        for at in range(0, len(calls), _POSTED_AT_ONCE):
            some, epoch = calls[at : at + _POSTED_AT_ONCE], self._store.epoch
            try:
                replies = await asyncio.gather(
                    *(self._store.call(SETTLE, keys, args) for keys, args in some), return_exceptions=True
                )
            except asyncio.CancelledError:
                self._unreplicated.put_back(calls[at:])
                raise
            for (keys, args), reply in zip(some, replies, strict=True):
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
            self._tell("ERR", str(error))
        elif isinstance(error, StoreUnavailable) and is_forbidden(error.reason):
            self._tell(error.reason, error.detail)

    def _has_unsettled(self, team_id: str) -> bool:
        """Whether the settlement of one of the team's requests waits in the spool."""
        if not self.upkeep.spool_waits and not self._spool.pending:
            self._unsettled.clear()  # another worker has replayed what was left
        return team_id in self._unsettled

    def _slots_may_be_free(self, team_id: str) -> bool:
        """Whether the end of a request of the team waits here, or a moment after a fault in another worker."""
        return self._has_unsettled(team_id) or self._slots_are_unsure(team_id)

    def _cannot_settle(self, team_id: str) -> bool:
        """Whether the team's settlements are refused just now, although admissions may pass: their keys differ.

        The slots of what would be admitted might not come back, and other workers would be refused for them.
        """
        return self._has_unsettled(team_id) and self._slots_are_unsure(team_id)

    def _slots_are_unsure(self, team_id: str) -> bool:
        return self._loop.time() - self._met_fault_s.get(team_id, -_OTHERS_SETTLE_S) < _OTHERS_SETTLE_S

    def _note_fault(self, team_id: str, error: BaseException) -> None:
        if not isinstance(error, StoreUnavailable) or not is_fault_of_call(error.reason):
            return
        now_s, met_s = self._loop.time(), self._met_fault_s
        met_s.pop(team_id, None)
        met_s[team_id] = now_s  # the last of them
        while now_s - met_s[first := next(iter(met_s))] >= _OTHERS_SETTLE_S:
            del met_s[first]

    def _without_store(self, request: AdmissionRequest, error: StoreUnavailable | StoreError) -> Admission:
        """Decides about a request while the store cannot be asked."""
        if isinstance(error, StoreError):
            self._tell("ERR", str(error))
            raise _unavailable(StoreUnavailable("refused")) from None
        self._note_fault(request.key.team_id, error)
        if is_forbidden(error.reason):
            self._tell(error.reason, error.detail)
        if not self.admits_unchecked:
            if error.maybe_applied:
                self._abandoned.add(request)
            raise _unavailable(error) from None
        hold = hold_of(request, time.time_ns() // 1_000_000, unchecked_secret=request.key.secret_hash)
        return Admission(hold, NO_RATES, 0, unchecked=True)

    def _tell(self, word: str, detail: str) -> None:
        """Logs one line per minute for each kind of refusal, however many calls meet it."""
        now_s = self._loop.time()
        if now_s - self._told_s.get(word, -_TOLD_EVERY_S) >= _TOLD_EVERY_S:
            self._told_s[word] = now_s
            self._log.error("store_refuses", error=detail)


def _team_of(keys: list[str]) -> str:
    return keys[0].partition("{")[2].partition("}")[0]


def _unavailable(error: StoreUnavailable) -> GatewayError:
    return GatewayError(
        "store_unavailable",
        f"The gateway cannot reach its store at the moment ({error.reason}). Nothing was charged.",
        wait_ms=1000,
    )
