"""Step 4 of a request: one script call reserves a hold, at once or after the request has waited in its queue."""

from __future__ import annotations

import time
from typing import Protocol

from gateway.billing.lifecycle import Outcome, State
from gateway.errors import GatewayError
from gateway.http.client import Client, ClientDisconnected
from gateway.ledger.admissions import Admission, AdmissionRefused, AdmissionRequest
from gateway.ledger.ledger import Ledger
from gateway.ledger.request_queue import LeftQueue
from gateway.observability.request_record import RequestRecord
from gateway.proxy.admission import Admitted, PendingSummary, Routed
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.state.background_turn import BackgroundTurn


class SummaryMaker(Protocol):
    """Makes summaries for the requests that ask for one. `compactor.Compactor` implements it."""

    async def due(
        self, snapshot: ConfigSnapshot, routed: Routed, client: Client, record: RequestRecord
    ) -> PendingSummary | None:
        """Returns the summary that is due before a request, or None."""


async def admit(
    snapshot: ConfigSnapshot,
    ledger: Ledger,
    routed: Routed,
    client: Client,
    record: RequestRecord,
    compactor: SummaryMaker | None = None,
) -> Admitted:
    """Runs step 4. Raises GatewayError, or ClientDisconnected if the client left while its request waited.

    If a summary is due before a background request, the summary is admitted first: see `Admitted.pending_summary`.
    """
    record.times.routed = time.perf_counter()
    summary, waits = None, isinstance(routed.turn, BackgroundTurn)
    try:
        if compactor is not None and routed.turn is not None and routed.turn.due is not None:
            summary = await compactor.due(snapshot, routed, client, record)
        if summary is not None and not waits:
            routed = _continue_after_summary(await summary.make(await summary.admit()), summary.record)
        if routed.turn is not None:
            await routed.turn.announce()
        if summary is not None and waits:
            return (await summary.admit())._replace(turn=routed.turn, pending_summary=summary)
        return await admit_request(snapshot, ledger, routed, client, record)
    except BaseException as error:
        if isinstance(error, AdmissionRefused):
            record.day = error.day
        if routed.turn is not None:
            await routed.turn.close()
        if summary is not None:
            await summary.give_up()
        raise


async def admit_request(
    snapshot: ConfigSnapshot, ledger: Ledger, routed: Routed, client: Client, record: RequestRecord
) -> Admitted:
    """Reserves the hold of a request before which no summary is due. Its turn stays open if that fails."""
    try:
        admission = await ledger.admit(routed.admission_request)
    except AdmissionRefused as refused:
        if not refused.queue_s:
            raise
        admission = await _wait_in_queue(ledger, routed.admission_request, refused.queue_s, client, record)
    record.times.admitted = time.perf_counter()
    client.key_is_known()
    record.state = State.ADMITTED
    record.unchecked = admission.unchecked
    _, target, request, route, known_response, admission_request, turn = routed
    return Admitted(snapshot, target, request, route, known_response, admission_request, admission, turn)


def _continue_after_summary(routed: Routed | None, summary: RequestRecord) -> Routed:
    """Returns the request that continues from its summary. Raises if the summary's call was ended."""
    if routed is None:
        raise GatewayError("shutting_down", "This gateway is stopping.", wait_ms=1000)
    if summary.outcome is Outcome.CLIENT_LEFT:
        raise ClientDisconnected
    return routed


async def _wait_in_queue(
    ledger: Ledger, request: AdmissionRequest, queue_s: int, client: Client, record: RequestRecord
) -> Admission:
    since_s = time.perf_counter()
    try:
        return await ledger.queue.admit(ledger.admit, request, queue_s, client.watch)
    except LeftQueue:
        raise ClientDisconnected from None
    finally:
        record.queued_ms = round((time.perf_counter() - since_s) * 1000)
