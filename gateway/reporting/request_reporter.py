"""Reports a worker's finished requests to operators: counts them, stores refusals, publishes live events.

    note(record)   the last step of a request: at most three appends, no I/O
    report()       runs a few times per second in the background: writes the noted requests

The queues are bounded. Under overload the newest entries are kept, and `dropped` counts the others. Settled requests
are in the journal in any case.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict, deque
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import structlog

from gateway.billing.lifecycle import Outcome
from gateway.billing.money import format_usd
from gateway.errors import GatewayError
from gateway.ledger.slot_times import SlotTimes
from gateway.observability.request_record import RequestRecord
from gateway.protocol.attribution import tag_names
from gateway.reporting.audit_log import Action, AuditLog
from gateway.reporting.latency_buckets import bucket_ms
from gateway.reporting.live_requests import LiveRequests
from gateway.reporting.outcome_rollups import CountsByPlace, OutcomeRollups, Where
from gateway.reporting.refused_requests import RefusedRequest, RefusedRequests
from gateway.reporting.request_timings import RequestTimings
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keyspace import STEP_MS

EVERY_S: Final = 0.25
MAX_REFUSED: Final = 50
MAX_EVENTS: Final = 500
MAX_COUNTED: Final = 10_000
MAX_TIMED: Final = 50
MAX_PAUSES: Final = 100
PAUSE: Final = "pause the team"
"""The name of the gateway's own action in the audit log."""
MAX_UNWRITTEN: Final = 1000
"""How many combinations of team, hour and key may have counts that wait for the store."""
_MAX_MODEL_CHARACTERS: Final = 256


class RequestReporter:
    """The reporter of one worker.

    Mutable: the unwritten entries, `watched`, `watchers` (of this worker), `dropped` entries, `lost` counts.
    """

    def __init__(
        self,
        refused: RefusedRequests,
        outcomes: OutcomeRollups,
        timings: RequestTimings,
        live_requests: LiveRequests,
        audit_log: AuditLog,
        slot_times: SlotTimes | None = None,
    ) -> None:
        self.dropped = 0
        self.lost = 0
        self.watched = False
        self.watchers = 0
        self._log = refused
        self._outcomes = outcomes
        self._timings = timings
        self._slot_times = SlotTimes() if slot_times is None else slot_times
        self._live_requests = live_requests
        self._audit_log = audit_log
        self._pauses: deque[RequestRecord] = deque(maxlen=MAX_PAUSES)
        self._unwritten: CountsByPlace = {}
        self._counted: deque[RequestRecord] = deque(maxlen=MAX_COUNTED)
        self._refused: deque[RequestRecord] = deque(maxlen=MAX_REFUSED)
        self._late: list[tuple[str, RefusedRequest]] = []  # refusals that wait for a store that is away
        self._finished: deque[RequestRecord] = deque(maxlen=MAX_EVENTS)

    def note(self, record: RequestRecord) -> None:
        """Notes a finished request."""
        if record.settlement is not None:
            if not record.unchecked:  # the key was not checked, and a stranger must not write into the store
                self._append(self._counted, record)
            if record.settlement.pauses:
                self._append(self._pauses, record)
        elif record.refusal is not None and record.outcome is Outcome.REFUSED and record.key.secret_hash:
            self._append(self._counted, record)
            self._append(self._refused, record)
        if self.watched:
            self._append(self._finished, record)

    async def report(self) -> None:
        """Runs one round: writes the noted requests, and checks whether anybody watches.

        Raises GatewayError or StoreError. If the store is unavailable, counts and the last refusals wait, and the times
        of other noted requests are dropped.
        """
        try:
            await self.flush()
            self.watched = await self._live_requests.is_watched()
        except (GatewayError, StoreError):
            self.watched = False
            raise

    async def end(self) -> None:
        """Writes the rest at shutdown, after the last request."""
        with contextlib.suppress(GatewayError, StoreError):
            await self.flush()

    async def flush(self) -> None:
        """Writes all noted requests, each kind independently. Raises the first fault, as `report` does."""
        counted, refused, finished = _taken(self._counted), _taken(self._refused), _taken(self._finished)
        for record in counted:
            key, times = record.key, record.times
            if record.settlement is not None and times.admitted is not None and times.ended is not None:
                self._slot_times.note(key.team_id, key.key_id, times.ended - times.admitted)
        timed = [record for record in counted if record.settlement is not None][-MAX_TIMED:]
        timings = [(record.key.team_id, record.request_id, timing(record)) for record in timed]
        faults = [
            await self._count(counted),
            await _fault_of(self._timings.write(timings)) if timings else None,
            await self._write_refusals(refused),
            await _fault_of(self._live_requests.publish([event(record) for record in finished])) if finished else None,
            await _fault_of(self._audit_pauses()) if self._pauses else None,
        ]
        if (fault := next(filter(None, faults), None)) is not None:
            raise fault

    async def _write_refusals(self, records: list[RequestRecord]) -> GatewayError | StoreError | None:
        """Writes refusals. The last ones that an outage keeps from the store are kept, with the time of now."""
        refusals = [*self._late, *((record.key.secret_hash, _refused(record)) for record in records)]
        if not refusals:
            return None
        fault = await _fault_of(self._log.write(refusals))
        self._late = []
        if isinstance(fault, GatewayError) and fault.code == "store_unavailable":
            now_ms = time.time_ns() // 1_000_000
            kept = refusals[-MAX_REFUSED:]
            self._late = [(secret, replace(one, refused_ms=one.refused_ms or now_ms)) for secret, one in kept]
            self.dropped += len(refusals) - len(kept)
        return fault

    async def _count(self, records: list[RequestRecord]) -> GatewayError | StoreError | None:
        """Writes counts. Those that the store did not get are kept within a bound; lost ones are counted and logged."""
        seen = {where: Counter(found) for where, found in self._unwritten.items()}
        for where, found in counts(records, time.time_ns() // 1_000_000).items():
            seen[where] = seen.get(where, Counter()) + found
        if not seen:
            return None
        unwritten = await self._outcomes.write(seen)
        kept = dict(list(unwritten.kept.items())[-MAX_UNWRITTEN:])
        lost = unwritten.lost + sum(found.total() for where, found in unwritten.kept.items() if where not in kept)
        self._unwritten = kept
        if lost:
            self.lost += lost
            structlog.get_logger("gateway.reporting").error("counts_lost", counts=lost, reason=str(unwritten.fault))
        fault = unwritten.fault
        if isinstance(fault, StoreUnavailable):
            return GatewayError(
                "store_unavailable", f"The gateway cannot reach its store ({fault.reason}).", wait_ms=1000
            )
        return fault

    async def _audit_pauses(self) -> None:
        """Writes the pauses of teams into the audit log, oldest first. Those that fail wait for the next round."""
        while self._pauses:
            await self._audit_log.write(_pause(self._pauses[0]))
            self._pauses.popleft()

    def _append(self, queue: deque[RequestRecord], record: RequestRecord) -> None:
        self.dropped += len(queue) == queue.maxlen
        queue.append(record)


async def _fault_of(writing: Coroutine[Any, Any, None]) -> GatewayError | StoreError | None:
    try:
        await writing
    except (GatewayError, StoreError) as fault:
        return fault
    return None


def event(record: RequestRecord) -> dict[str, Any]:
    """Returns a finished request as a live event."""
    settlement, refusal = record.settlement, record.refusal
    usage = settlement.usage if settlement is not None else None
    return {
        "id": record.request_id,
        "team_id": record.key.team_id or None,
        "key_id": record.key.key_id or None,
        "model": record.model,
        "stream": record.stream,
        "status": record.status,
        "outcome": record.outcome.value,
        "code": record.code,
        "detail": record.detail,
        "limit": (refusal.limit or None) if refusal is not None else None,
        "scope": refusal.explain.get("scope") if refusal is not None else None,
        "upstream": record.upstream.name,
        "cost_usd": format_usd(settlement.cost_nano_usd) if settlement is not None else None,
        "settled_by": settlement.settled_by if settlement is not None else None,
        "input_tokens": usage.input_tokens if usage is not None else None,
        "output_tokens": usage.output_tokens if usage is not None else None,
        "first_byte_ms": _since(record, record.times.first_byte),
        "total_ms": _since(record, record.times.ended),
    }


def counts(records: Iterable[RequestRecord], now_ms: int) -> Mapping[Where, Counter[str]]:
    """Returns the counts of finished requests. Refused ones count now, admitted ones at the time of their admission."""
    found: defaultdict[Where, Counter[str]] = defaultdict(Counter)
    # texts are built once per kind of request, not once per request
    ended: dict[tuple[Where, str, Outcome, int, int], int] = {}
    for record in records:
        settlement, times, model = record.settlement, record.times, record.model or ""
        if settlement is None:
            limit, scope = (record.refusal.limit, record.refusal.scope) if record.refusal is not None else ("", "")
            asked = record.key
            where = Where(asked.team_id, _hour(now_ms), asked.key_id, asked.secret_hash, record.day)
            found[where][f"no,{record.code},{limit},{scope}|{model}"] += 1
            continue
        total, first = 0, 0
        if settlement.kind == "settle" and times.ended is not None:
            total = bucket_ms((times.ended - times.started) * 1000)
            if record.stream and times.first_byte is not None:
                first = bucket_ms((times.first_byte - times.started) * 1000)
        if "{id}" in record.route:
            continue  # a response is one request with one outcome, however often it is asked for
        hold = settlement.hold
        where = Where(hold.team_id, _hour(hold.admitted_ms), day=hold.day)
        key = (where, settlement.model or model, settlement.outcome, total, first)
        ended[key] = ended.get(key, 0) + 1
    for (where, model, outcome, total, first), requests in ended.items():
        counter = found[where]
        counter[f"end,{outcome.value}|{model}"] += requests
        if total:
            counter[f"total,{total}|{model}"] += requests
        if first:
            counter[f"first,{first}|{model}"] += requests
    return found


def timing(record: RequestRecord) -> dict[str, Any]:
    """Returns how long the parts of a request took in ms, and the facts that only its record has."""
    settlement, answered = record.settlement, record.answered_model
    return {
        "status": record.status,
        "code": record.code,
        "message": record.refusal.message if record.refusal is not None else None,
        "detail": record.detail,
        "client": record.client or None,
        "queued_ms": record.queued_ms,
        "asked_model": record.asked_model,
        "answered_model": answered[:_MAX_MODEL_CHARACTERS] if isinstance(answered, str) else None,
        "response_id": record.response_id,
        "upstream_response_id": (settlement.response_id or None) if settlement is not None else None,
        "upstream_request_id": record.upstream.request_id,
        "stream": record.stream,
        "tried": [
            {"upstream": upstream, "result": result, "took_ms": round(seconds * 1000, 1)}
            for upstream, result, seconds in record.upstream.attempts
        ],
        "chosen_by": record.upstream.chosen_by or ("configuration" if record.upstream.attempts else None),
        **_attribution(record.tags),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "timings": record.times.in_ms(),
    }


def _attribution(lines: str) -> dict[str, Any]:
    tags, end_user = tag_names(lines) if lines else ({}, None)
    return {"tags": tags, "end_user": end_user}


def _hour(at_ms: int) -> int:
    return at_ms - at_ms % STEP_MS["hour"]


def _refused(record: RequestRecord) -> RefusedRequest:
    refusal = record.refusal
    return RefusedRequest(
        request_id=record.request_id,
        team_id=record.key.team_id,
        key_id=record.key.key_id,
        status=record.status,
        code=record.code or "",
        message=refusal.message if refusal is not None else "",
        limit=refusal.limit if refusal is not None else "",
        scope=refusal.scope if refusal is not None else "",
        model=record.model or "",
        detail=record.detail or "",
        client=record.client,
        asked_model=record.asked_model or "",
        timings=record.times.in_ms(),
        end_user=_attribution(record.tags)["end_user"] or "",
    )


def _pause(record: RequestRecord) -> Action:
    settlement, request_id = record.settlement, record.request_id
    cost, over = 0, 0
    if settlement is not None:
        cost, over = settlement.cost_nano_usd, settlement.over_nano_usd
        request_id = settlement.made_by or request_id
    after = {"paused": True, "request_id": request_id, "cost_usd": format_usd(cost), "over_usd": format_usd(over)}
    team_id = record.key.team_id
    return Action("gateway", "gateway", PAUSE, f"team={team_id}", team_id, None, after, request_id)


def _taken(queue: deque[RequestRecord]) -> list[RequestRecord]:
    taken = list(queue)
    queue.clear()
    return taken


def _since(record: RequestRecord, at: float | None) -> float | None:
    return None if at is None else round((at - record.times.started) * 1000, 1)
