"""Step 4 of a request: a hold is reserved by one script call, at once or when it is the request's turn."""

from __future__ import annotations

import time
from typing import Protocol

from gateway.billing.lifecycle import Outcome, State
from gateway.errors import GatewayError
from gateway.http.client import Client, ClientDisconnected
from gateway.ledger.admissions import Admission, AdmissionRefused, AdmissionRequest
from gateway.ledger.ledger import Ledger
from gateway.ledger.waiting_line import LeftQueue
from gateway.observability.request_record import RequestRecord
from gateway.proxy.admission import Admitted, Before, Routed
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.state.background_turn import BackgroundTurn


class Summary(Before, Protocol):
    """A summary that is due."""

    async def admit(self) -> Admitted:
        """Reserves its hold. Raises GatewayError."""


class Compacting(Protocol):
    """Makes summaries for the requests that want one. `compactor.Compactor` is it."""

    async def due(
        self, snapshot: ConfigSnapshot, routed: Routed, client: Client, record: RequestRecord
    ) -> Summary | None:
        """Returns the summary that is due before a request."""


async def admit(
    snapshot: ConfigSnapshot,
    ledger: Ledger,
    routed: Routed,
    client: Client,
    record: RequestRecord,
    compactor: Compacting | None = None,
) -> Admitted:
    """Step 4. Raises GatewayError, or ClientDisconnected where the client has left while its request waited.

    Of a request in the background before which a summary is due, that is admitted: see `Admitted.before`.
    """
    record.times.routed = time.perf_counter()
    try:
        summary = None
        if compactor is not None and routed.turn is not None and routed.turn.due is not None:
            summary = await compactor.due(snapshot, routed, client, record)
        if summary is not None and not isinstance(routed.turn, BackgroundTurn):
            routed, summary = _goes_on(await summary.made(await summary.admit()), summary.record), None
        if routed.turn is not None:
            await routed.turn.announce()
        if summary is not None:
            return (await summary.admit())._replace(turn=routed.turn, before=summary)
        return await admit_itself(snapshot, ledger, routed, client, record)
    except BaseException as error:
        if isinstance(error, AdmissionRefused):
            record.day = error.day
        if routed.turn is not None:
            await routed.turn.close()
        raise


async def admit_itself(
    snapshot: ConfigSnapshot, ledger: Ledger, routed: Routed, client: Client, record: RequestRecord
) -> Admitted:
    """The same for a request before which nothing is due. Its turn stays open."""
    try:
        admission = await ledger.admit(routed.admission_request)
    except AdmissionRefused as refused:
        if not refused.queue_s:
            raise
        admission = await _in_turn(ledger, routed.admission_request, refused.queue_s, client, record)
    record.times.admitted = time.perf_counter()
    client.key_is_known()
    record.state = State.ADMITTED
    record.unchecked = admission.unchecked
    _, target, request, route, known_response, asked, turn = routed
    return Admitted(snapshot, target, request, route, known_response, asked, admission, turn)


def _goes_on(routed: Routed | None, summary: RequestRecord) -> Routed:
    """The request behind its summary, unless that was ended."""
    if routed is None:
        raise GatewayError("shutting_down", "This gateway is stopping.", wait_ms=1000)
    if summary.outcome is Outcome.CLIENT_LEFT:
        raise ClientDisconnected
    return routed


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
