"""Step 4 of a request: a hold is reserved by one script call, at once or when it is the request's turn."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gateway.billing.lifecycle import State
from gateway.http.client import Client, ClientDisconnected
from gateway.ledger.admissions import Admission, AdmissionRefused, AdmissionRequest
from gateway.ledger.ledger import Ledger
from gateway.ledger.waiting_line import LeftQueue
from gateway.observability.request_record import RequestRecord
from gateway.proxy.admission import Admitted, Routed
from gateway.proxy.snapshot import ConfigSnapshot

Compacted = Callable[[ConfigSnapshot, Routed, Client, RequestRecord], Awaitable[Routed]]
"""Returns a request as it goes on from a summary, if it wants one and one is due."""


async def admit(
    snapshot: ConfigSnapshot,
    ledger: Ledger,
    routed: Routed,
    client: Client,
    record: RequestRecord,
    compacted: Compacted | None = None,
) -> Admitted:
    """Step 4. Raises GatewayError, or ClientDisconnected where the client has left while its request waited."""
    record.times.routed = time.perf_counter()
    try:
        if routed.turn is not None:
            if compacted is not None and routed.turn.due is not None:
                routed = await compacted(snapshot, routed, client, record)
            if routed.turn is not None:
                await routed.turn.announce()
        try:
            admission = await ledger.admit(routed.admission_request)
        except AdmissionRefused as refused:
            if not refused.queue_s:
                raise
            admission = await _in_turn(ledger, routed.admission_request, refused.queue_s, client, record)
    except BaseException as error:
        if isinstance(error, AdmissionRefused):
            record.day = error.day
        if routed.turn is not None:
            await routed.turn.close()
        raise
    record.times.admitted = time.perf_counter()
    client.key_is_known()
    record.state = State.ADMITTED
    record.unchecked = admission.unchecked
    _, target, request, route, known_response, asked, turn = routed
    return Admitted(snapshot, target, request, route, known_response, asked, admission, turn)


async def _in_turn(
    ledger: Ledger, request: AdmissionRequest, queue_s: int, client: Client, record: RequestRecord
) -> Admission:
    since_s = time.perf_counter()
    try:
        return await ledger.line.admit(ledger.admit, request, queue_s, client.watch)
    except LeftQueue:
        raise ClientDisconnected from None
    finally:
        record.queued_ms = round((time.perf_counter() - since_s) * 1000)
