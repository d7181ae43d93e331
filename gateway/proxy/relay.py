"""Step 6 of a request: an upstream's answer on its way to the client.

2xx, event stream    whole events (stream_relay.py)
2xx, JSON            read whole, then passed on (whole_answer.py)
2xx, media           passed on as it comes (media.py)
401, 402, no quota   502: the gateway's own account, never the caller's
other 4xx, 5xx       unchanged where SDKs can read it (a 4xx: or nothing), else its status in our form; 5xx page: 502
404 to another call  passed on whatever it is: what an upstream does not offer, it answers as it likes
3xx                  502

An error under a 200 before any output, and a refusal of what the gateway added, are handed back (`NotAnAnswer`),
because another upstream may do better.
"""

from __future__ import annotations

from gateway.billing.lifecycle import TRANSITIONS, Event, Outcome
from gateway.concurrency.cancellation import CancelScope, Reason
from gateway.errors import GatewayError
from gateway.ledger.known_responses import KnownResponses
from gateway.protocol.dialects.dialect import StreamSummary
from gateway.proxy.admission import Opened
from gateway.proxy.answer_record import OUTCOMES
from gateway.proxy.exchange import Exchange
from gateway.proxy.failover import Search
from gateway.proxy.kept_answer import KeptAnswer
from gateway.proxy.kept_stream import KeptStreamRelay
from gateway.proxy.media import pass_media
from gateway.proxy.stream_relay import StreamRelay
from gateway.proxy.upstream_answer import peeked, readable_type, status_of_error
from gateway.proxy.whole_answer import read_refusal_body, read_whole
from gateway.upstream.decoded_answer import uncompressed

_NO_CONTENT = 204


class Relay:
    """Step 6 for one request. Mutable, as are the records of its exchange.

    `responses`: where a stream's response is remembered as soon as its id is shown; None: nobody names it later.
    """

    def __init__(self, exchange: Exchange, responses: KnownResponses | None = None) -> None:
        turn = exchange.admitted.turn
        self.exchange = exchange
        self.record = exchange.record
        self._responses = responses
        self._kept = None if turn is None else KeptAnswer(turn, exchange.record)
        self._opened: Opened | None = None
        self._stream: StreamRelay | None = None

    async def run(self, opened: Opened) -> None:
        """Passes the answer on.

        Raises while nothing has been sent: GatewayError, NotAnAnswer. After that: UpstreamFault, CapReached.
        """
        admitted, _, record, answer = self.exchange
        self._opened, self._stream, answer.upstream_key = opened, None, opened.key.fingerprint
        if self._kept is not None:
            self._kept.turn.maker = f"{opened.upstream.name} {opened.key.fingerprint}"
        if not 200 <= opened.answer.status < 300:  # noqa: PLR2004 - the range is HTTP's
            await self._pass_refusal(opened._replace(answer=uncompressed(opened.answer)))
            return
        answer.unconfirmed = opened
        if not answer.answered:
            answer.answered = True
            record.state = TRANSITIONS[record.state, Event.OPEN]
        kind, is_compressed = readable_type(opened.answer.headers)
        if is_compressed:
            opened = opened._replace(answer=uncompressed(opened.answer))
        dialect = admitted.target.operation.dialect
        form = dialect.stream if admitted.request.stream else None
        is_events = kind == b"text/event-stream"
        if form is not None and not is_events:
            opened, is_events = await peeked(opened, kind)
        self._opened = opened
        if form is not None and is_events:
            if self._kept is None:
                self._stream = StreamRelay(self.exchange, opened, form, self._responses)
            else:
                self._stream = KeptStreamRelay(self.exchange, opened, form, self._kept)
            await self._stream.run()
        elif kind.startswith(dialect.media):
            await self._pass_media(opened)
        else:
            await self._pass_whole(opened, kind)

    async def _pass_media(self, opened: Opened) -> None:
        self.exchange.confirm(opened)
        await pass_media(opened, self.exchange.client, self.exchange.head(opened, []))
        self.exchange.answer.outcome = Outcome.COMPLETED

    async def _pass_whole(self, opened: Opened, kind: bytes) -> None:
        admitted, client, record, answer = self.exchange
        body, fields, facts = await read_whole(self.exchange, opened, kind)
        status = opened.answer.status
        if facts.error is not None:
            status = status_of_error(opened, admitted.target.operation.dialect, facts.error, body)
            answer.outcome = Outcome.UPSTREAM_REFUSED
        else:
            answer.facts, answer.body = facts, fields
            record.response_id, record.answered_model = facts.response_id, fields.get("model")
            answer.outcome = OUTCOMES[facts.ended]
            self.exchange.confirm(opened)
            if self._kept is not None:
                body = await self._kept.whole(body)
        length = [] if status == _NO_CONTENT else [(b"content-length", b"%d" % len(body))]  # RFC 9110, 8.6
        await client.answer(status, self.exchange.head(opened, length), body)

    async def _pass_refusal(self, opened: Opened) -> None:
        self.exchange.answer.outcome = Outcome.UPSTREAM_REFUSED
        body = await read_refusal_body(self.exchange, opened)
        extra = [(b"content-length", b"%d" % len(body)), (b"x-gateway-limit-source", b"upstream")]
        await self.exchange.client.answer(opened.answer.status, self.exchange.head(opened, extra), body)

    def check_times(self, now_s: float) -> bool:
        """See `StreamRelay.check_times`."""
        return self._stream is not None and self._stream.check_times(now_s)

    def client_left(self, cancel_scope: CancelScope, search: Search) -> None:
        """Ends the request, or reads its answer on for its usage if the operator chose so, for `drain_timeout_s`.

        Before an answer, the request goes on if an upstream may have it already.
        """
        upstream = search.awaited_upstream if self._opened is None else self._opened.upstream
        if upstream is None or upstream.policy.on_client_leave == "abort":
            cancel_scope.cancel(Reason.CLIENT_LEFT)
        else:
            # The relay goes on, and its writes lead nowhere. To cancel its read would close the upstream's connection.
            self.exchange.answer.client_left = True
            search.give_up()
            cancel_scope.cancel_later(Reason.CLIENT_LEFT, upstream.policy.drain_timeout_s)

    def close(self) -> None:
        """Gives the upstream up: its connection is closed unless the answer was read to its end.

        What ends the client's stream may follow.
        """
        answer = self.exchange.answer
        if self._opened is not None:
            self._opened.answer.abort()
        if answer.unconfirmed is not None:
            answer.unconfirmed.upstream.health.released(self.exchange.admitted.route.upstream_model)
            answer.unconfirmed = None
        if self._stream is not None and answer.stream is None:
            answer.end_stream(self._stream.observer)

    async def end(self) -> None:
        """Ends the client's stream where nothing that matters can follow, though the upstream's goes on."""
        if self._stream is not None:
            await self._stream.end()

    async def end_at_cap(self) -> None:
        """Ends the client's stream as an answer that has reached its length."""
        if self._stream is not None:
            await self._stream.end_at_cap()

    async def end_broken(self, error: GatewayError) -> None:
        """Ends the client's stream with an error. If the answer is no stream, nothing can end it, and it breaks off."""
        if self._stream is not None:
            await self._stream.end_broken(error)

    def closing_before_any_event(self, error: GatewayError) -> bytes:
        """Returns what ends a stream that began before an upstream had answered, and for which none came."""
        form = self.exchange.admitted.target.operation.dialect.stream
        if form is None:
            raise RuntimeError("there is no such stream")
        return form.close_broken(StreamSummary(answer={}), error, self.exchange.origin())
