"""Step 6 of a request: passes an upstream's answer on to the client.

2xx, event stream    whole events (stream_relay.py)
2xx, JSON            read completely, then passed on (whole_answer.py)
2xx, media           passed on as it arrives (media.py)
401, 402, no quota   502, because it concerns the gateway's own account and not the caller's
other 4xx, 5xx       unchanged if SDKs can read its body, or if a 4xx has none; otherwise an error of the dialect with
                     the same status, or 502 for a 5xx that is not JSON
404                  unchanged, for an operation that the upstream may not offer
3xx                  502

An error under a 200 before any output, and a refusal of what the gateway added, raise `NotAnAnswer`, because another
attempt may succeed.
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
from gateway.proxy.media import pass_media
from gateway.proxy.stream_relay import StreamRelay
from gateway.proxy.turn_answer import TurnAnswer
from gateway.proxy.turn_stream import TurnStreamRelay
from gateway.proxy.upstream_answer import detect_events, readable_type, status_of_error
from gateway.proxy.whole_answer import read_refusal_body, read_whole
from gateway.upstream.decoded_answer import uncompressed

_NO_CONTENT = 204


class Relay:
    """Runs step 6 for one request. Mutable, as are the records of its exchange.

    `responses` remembers a stream's response as soon as its id is shown. None: no other request can refer to it.
    """

    def __init__(self, exchange: Exchange, responses: KnownResponses | None = None) -> None:
        turn = exchange.admitted.turn
        self.exchange = exchange
        self.record = exchange.record
        self._responses = responses
        self._turn_answer = None if turn is None else TurnAnswer(turn, exchange.record)
        self._opened: Opened | None = None
        self._stream: StreamRelay | None = None

    async def run(self, opened: Opened) -> None:
        """Passes the answer on.

        Raises GatewayError or NotAnAnswer while nothing has been sent, and UpstreamFault or CapReached after that.
        """
        admitted, _, record, answer = self.exchange
        self._opened, self._stream, answer.upstream_key = opened, None, opened.key.fingerprint
        if self._turn_answer is not None:
            self._turn_answer.turn.maker = f"{opened.upstream.name} {opened.key.fingerprint}"
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
            opened, is_events = await detect_events(opened, kind)
        self._opened = opened
        if form is not None and is_events:
            if self._turn_answer is None:
                self._stream = StreamRelay(self.exchange, opened, form, self._responses)
            else:
                self._stream = TurnStreamRelay(self.exchange, opened, form, self._turn_answer)
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
            if self._turn_answer is not None:
                body = await self._turn_answer.whole(body)
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
        """Ends the request, or reads the answer on for its usage for `drain_timeout_s`, as the upstream's policy says.

        Before there is an answer, the request goes on only if an upstream may have received it.
        """
        upstream = search.awaited_upstream if self._opened is None else self._opened.upstream
        if upstream is None or upstream.policy.on_client_leave == "abort":
            cancel_scope.cancel(Reason.CLIENT_LEFT)
        else:
            # The relay goes on, and its writes are discarded. Cancelling its read would close the upstream's
            # connection.
            self.exchange.answer.client_left = True
            search.give_up()
            cancel_scope.cancel_later(Reason.CLIENT_LEFT, upstream.policy.drain_timeout_s)

    def close(self) -> None:
        """Releases the upstream. Its connection is closed unless the answer was read to its end.

        The client's stream may still be ended afterwards.
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
        """Ends the client's stream, although the upstream's stream is still open, because its answer has ended."""
        if self._stream is not None:
            await self._stream.end()

    async def end_at_cap(self) -> None:
        """Ends the client's stream as an answer that has reached its length."""
        if self._stream is not None:
            await self._stream.end_at_cap()

    async def end_broken(self, error: GatewayError) -> None:
        """Ends the client's stream with an error. An answer that is not a stream breaks off instead."""
        if self._stream is not None:
            await self._stream.end_broken(error)

    def closing_before_any_event(self, error: GatewayError) -> bytes:
        """Returns the closing events of a stream that began early, and for which no upstream's stream came."""
        form = self.exchange.admitted.target.operation.dialect.stream
        if form is None:
            raise RuntimeError("there is no such stream")
        return form.close_broken(StreamSummary(answer={}), error, self.exchange.origin())
