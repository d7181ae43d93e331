"""Compacts a conversation in the course of a request that asks for it by `context_management`.

The summary is a call of its own: with its own id, hold, settlement and log line, on the same route and for the same
key. If the ledger refuses it, the request is refused. If the provider makes no summary, the request goes on with its
whole input, and the log says so.
"""

from __future__ import annotations

from typing import Protocol

import structlog

from gateway.billing.lifecycle import Outcome, State
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.ledger.ledger import Ledger
from gateway.observability.request_record import RequestRecord
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.operations import CREATE_TARGET
from gateway.proxy.admission import Admitted, Routed, routed_again
from gateway.proxy.collecting_client import CollectingClient
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.state.compaction import summary_of


class Exchanges(Protocol):
    """What a summary needs of the request handler."""

    async def exchange(self, admitted: Admitted, client: Client, record: RequestRecord) -> None:
        """Steps 5 to 9 for an admitted request."""

    def note(self, client: Client, record: RequestRecord) -> None:
        """Writes the log line of a call that has ended, and counts it."""


class Compactor:
    """Makes summaries of what goes before a turn."""

    def __init__(self, ledger: Ledger, exchanges: Exchanges) -> None:
        self._ledger = ledger
        self._exchanges = exchanges
        self._log = structlog.get_logger("gateway.state")

    async def compacted(
        self, snapshot: ConfigSnapshot, routed: Routed, client: Client, record: RequestRecord
    ) -> Routed:
        """Returns the request as it goes on from a summary, if one is due. Raises GatewayError."""
        turn = routed.turn
        due = None if turn is None else turn.due
        if turn is None or due is None or routed.request.input_tokens_estimate <= due.threshold_tokens:
            return routed
        inner = CollectingClient(client)
        outcome = await self._ask(snapshot, routed._replace(turn=None), due.body, inner, record)
        if outcome is Outcome.SHUT_DOWN:
            raise GatewayError("shutting_down", "This gateway is stopping.", wait_ms=1000)
        try:
            turn.follow_summary(summary_of(parse_object(bytes(inner.body)) or {}))
        except GatewayError as error:
            self._log.warning("not_compacted", request_id=record.request_id, status=inner.status, reason=error.message)
            return routed
        return await routed_again(snapshot, routed, turn.body, client, record)

    async def _ask(
        self, snapshot: ConfigSnapshot, routed: Routed, body: bytes, inner: CollectingClient, record: RequestRecord
    ) -> Outcome:
        own = RequestRecord(self._ledger.new_request_id(), record.method, record.path, record.route, record.client)
        own.key, own.model, own.upstream.chosen_by = record.key, record.model, record.upstream.chosen_by
        own.detail = f"a summary for {record.request_id}"
        asks = await routed_again(snapshot, routed._replace(target=CREATE_TARGET), body, inner, own)
        # The client's Idempotency-Key is for its own request.
        asked = asks.admission_request._replace(idempotency_key=None)
        try:
            admission = await self._ledger.admit(asked)
            own.state = State.ADMITTED
            admitted = Admitted(snapshot, asks.target, asks.request, asks.route, None, asked, admission)
            await self._exchanges.exchange(admitted, inner, own)
            return own.outcome
        finally:
            self._exchanges.note(inner, own)
