"""Compacts a conversation in the course of a request that asks for it by `context_management`.

    summary = await compactor.due(...)      the summary that is to be made first, or None
    admitted = await summary.admit()        its hold
    routed = await summary.made(admitted)   the request as it goes on from it; None: it was ended on purpose

The summary is a call of its own: with its own id, hold, settlement and log line, on the same route and for the same
key. If the ledger refuses it, the request is refused. If the provider makes no summary, the request goes on with its
whole input, and the log says so. A request that runs in the background is queued with the summary's hold. It is
admitted itself when the summary has been made.
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
from gateway.proxy.admission import Admitted, Routed, routed_again
from gateway.proxy.collecting_client import CollectingClient
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.state.compaction import summary_of

_ENDED: Final = frozenset({Outcome.SHUT_DOWN, Outcome.CANCELLED})


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

    async def due(
        self, snapshot: ConfigSnapshot, routed: Routed, client: Client, record: RequestRecord
    ) -> Summary | None:
        """Returns the summary that is due before a request. Raises GatewayError."""
        due = None if routed.turn is None else routed.turn.due
        if due is None or routed.request.input_tokens_estimate <= due.threshold_tokens:
            return None
        own = RequestRecord(self._ledger.new_request_id(), record.method, record.path, record.route, record.client)
        own.key, own.model, own.upstream.chosen_by = record.key, record.model, record.upstream.chosen_by
        own.detail = f"a summary for {record.request_id}"
        plain = routed._replace(target=CREATE_TARGET, turn=None)
        asks = await routed_again(snapshot, plain, due.body, client, own)
        return Summary(self._ledger, self._exchanges, snapshot, routed, asks, client, record, own)


@dataclass(frozen=True, slots=True)
class Summary:
    """One summary: what `asks` for it, before the request `routed`. `record`: its own, beside the request's.

    `exchanges` makes it for `client`, the request's own.
    """

    ledger: Ledger
    exchanges: Exchanges
    snapshot: ConfigSnapshot
    routed: Routed
    asks: Routed
    client: Client
    request_record: RequestRecord
    record: RequestRecord

    async def admit(self) -> Admitted:
        """Reserves its hold. Raises GatewayError."""
        asks, own = self.asks, self.record
        # The client's Idempotency-Key is for its own request.
        asked = asks.admission_request._replace(idempotency_key=None)
        try:
            admission = await self.ledger.admit(asked)
        except BaseException:
            self.exchanges.note(CollectingClient(self.client), own)
            raise
        own.state = State.ADMITTED
        return Admitted(self.snapshot, asks.target, asks.request, asks.route, None, asked, admission)

    async def made(self, admitted: Admitted, client: Client | None = None) -> Routed | None:
        """Makes it. Returns the request as it goes on; None: it was ended on purpose. Raises GatewayError.

        `client`: whoever waits for it, if not the request's own client.
        """
        own, routed, turn = self.record, self.routed, self.routed.turn
        inner = CollectingClient(client or self.client)
        try:
            await self.exchanges.exchange(admitted, inner, own)
        finally:
            self.exchanges.note(inner, own)
        if own.outcome in _ENDED or turn is None:
            return None
        try:
            turn.follow_summary(summary_of(parse_object(bytes(inner.body)) or {}))
        except GatewayError as error:
            told = {"request_id": self.request_record.request_id, "status": inner.status, "reason": error.message}
            structlog.get_logger("gateway.state").warning("not_compacted", **told)
            return routed
        return await routed_again(self.snapshot, routed, turn.body, self.client, self.request_record)

    async def drop(self, admitted: Admitted) -> None:
        """Gives its hold back, because it is not made."""
        own = self.record
        own.outcome, own.state = Outcome.CANCELLED, TRANSITIONS[own.state, Event.VOID]
        own.settlement = void(admitted.admission.hold, own.outcome)
        own.spooled = await self.ledger.settle(own.settlement) is None
        self.exchanges.note(CollectingClient(self.client), own)
