"""Replaces a long conversation by a summary, for requests that ask for it by `context_management`.

    summary = await compactor.due(...)      the summary that must be made first, or None
    admitted = await summary.admit()        reserves its hold
    routed = await summary.make(admitted)   makes it, and returns the request that continues from it

The summary is a model call of its own: it has its own id, hold, settlement and log line, on the same route and for the
same key. If the ledger refuses the summary, the request is refused. If the provider makes no summary, the request goes
on with its whole input, and the log says so. A background request is queued with the hold of its summary, and is
admitted itself after the summary has been made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from gateway.billing.lifecycle import TRANSITIONS, Event, Outcome, State
from gateway.billing.settlement import void
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.ledger.ledger import Ledger
from gateway.observability.request_record import RequestRecord
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.operations import CREATE_TARGET
from gateway.proxy.admission import Admitted, Routed, with_new_body
from gateway.proxy.collecting_client import CollectingClient
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.state.compaction import summary_of

_ENDED: Final = frozenset({Outcome.SHUT_DOWN, Outcome.CANCELLED})


class Exchanges(Protocol):
    """The methods of the request handler that a summary uses."""

    async def exchange(self, admitted: Admitted, client: Client, record: RequestRecord) -> None:
        """Runs steps 5 to 8 for an admitted request."""

    def record_end(self, client: Client, record: RequestRecord) -> None:
        """Writes the log line of a call that has ended, and counts it."""


class Compactor:
    """Makes summaries of the input of turns."""

    def __init__(self, ledger: Ledger, exchanges: Exchanges) -> None:
        self._ledger = ledger
        self._exchanges = exchanges

    async def due(
        self, snapshot: ConfigSnapshot, routed: Routed, client: Client, record: RequestRecord
    ) -> Summary | None:
        """Returns the summary that is due before a request. Raises GatewayError."""
        due = None if routed.turn is None else routed.turn.due
        if due is None or routed.request.input_tokens_estimate <= due.threshold_tokens:
            return None
        own = RequestRecord(self._ledger.new_request_id(), record.method, record.path, record.route, record.client)
        own.key, own.model, own.upstream.chosen_by = record.key, record.model, record.upstream.chosen_by
        own.detail, own.tags = f"a summary for {record.request_id}", record.tags
        plain = routed._replace(target=CREATE_TARGET, turn=None)
        call = await with_new_body(snapshot, plain, due.body, client, own)
        return Summary(self._ledger, self._exchanges, snapshot, routed, call, client, record, own)


@dataclass(frozen=True, slots=True)
class Summary:
    """One summary that is due. See `admission.PendingSummary`.

    `request`, `request_record` and `client` belong to the request that asks for a summary. `call` and `record` belong
    to the model call that makes it.
    """

    ledger: Ledger
    exchanges: Exchanges
    snapshot: ConfigSnapshot
    request: Routed
    call: Routed
    client: Client
    request_record: RequestRecord
    record: RequestRecord

    async def admit(self) -> Admitted:
        """See `PendingSummary`."""
        call, record = self.call, self.record
        followed_by = self.request_record.request_id
        admission_request = call.admission_request._replace(followed_by=followed_by)
        try:
            admission = await self.ledger.admit(admission_request)
        except BaseException:
            self.exchanges.record_end(CollectingClient(self.client), record)
            raise
        record.state = State.ADMITTED
        return Admitted(self.snapshot, call.target, call.request, call.route, None, admission_request, admission)

    async def make(self, admitted: Admitted, client: Client | None = None) -> Routed | None:
        """See `PendingSummary`."""
        record, request, turn = self.record, self.request, self.request.turn
        inner = CollectingClient(client or self.client)
        try:
            await self.exchanges.exchange(admitted, inner, record)
        finally:
            self.exchanges.record_end(inner, record)
        if record.outcome in _ENDED or turn is None:
            return None
        try:
            turn.follow_summary(summary_of(parse_object(bytes(inner.body)) or {}))
        except GatewayError as error:
            fields = {"request_id": self.request_record.request_id, "status": inner.status, "reason": error.message}
            structlog.get_logger("gateway.state").warning("not_compacted", **fields)
            return request
        return await with_new_body(self.snapshot, request, turn.body, self.client, self.request_record)

    async def give_up(self) -> None:
        """See `PendingSummary`."""
        await self.ledger.free_idempotency_key(self.request.admission_request)

    async def discard(self, admitted: Admitted) -> None:
        """See `PendingSummary`."""
        record = self.record
        record.outcome, record.state = Outcome.CANCELLED, TRANSITIONS[record.state, Event.VOID]
        record.settlement = void(admitted.admission.hold, record.outcome)
        record.spooled = await self.ledger.settle(record.settlement) is None
        self.exchanges.record_end(CollectingClient(self.client), record)
