"""Step 6 for a stream: passes an upstream's events on to the client, whole events per write.

    upstream -> SseFramer -> client
                   |
                   +-> SseObserver -> StreamSummary, for the settlement

An error before any output raises `NotAnAnswer`, because another upstream may succeed. If the stream ends without a
terminal event, the gateway adds its own closing events. If the answer may have ended but the stream stays open, it is
read on for at most `end_wait_s`. None of this needs a task or a timer. A long read is passed on in slices, between
which the event loop serves others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.billing.lifecycle import Outcome
from gateway.errors import GatewayError
from gateway.ledger.known_responses import KnownResponses
from gateway.protocol.dialects.dialect import Ended, StreamForm
from gateway.protocol.opening_event import id_shown_first
from gateway.protocol.operations import is_response_id
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_framing import LONG_READ_BYTES, slice_end
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.usage_dropping import UsageDroppingFramer
from gateway.proxy.admission import Opened
from gateway.proxy.answer_record import OUTCOMES
from gateway.proxy.exchange import Exchange
from gateway.proxy.keep_alive import keeping_alive
from gateway.proxy.large_answers import examine, finish
from gateway.proxy.output_cap import CapReached, OutputCap, cap_of
from gateway.proxy.preamble import MAX_BYTES, FirstEvent, HeldStart, Preamble, begins_with_error
from gateway.proxy.upstream_answer import EVENT_HEADERS
from gateway.types import Body, Headers

_SEARCHED_BYTES: Final = 64 * 1024
_MARKER_BYTES: Final = 256  # what is searched for is shorter


class StreamRelay:
    """Passes one stream on. Mutable.

    `responses` remembers the response as soon as its id is shown. None: no other request can refer to it.
    """

    def __init__(
        self,
        exchange: Exchange,
        opened: Opened,
        form: StreamForm,
        responses: KnownResponses | None = None,
    ) -> None:
        request, policy = exchange.admitted.request, opened.upstream.policy
        framer_class = UsageDroppingFramer if request.usage_unasked else SseFramer
        self.observer = SseObserver(form, request.bounds.choices, policy.max_answer_values)
        self._framer = framer_class(self.observer, policy.max_event_bytes)
        self._exchange = exchange
        self._opened = opened
        self._responses = responses
        self._off_loop = exchange.admitted.snapshot.off_loop
        self._later = b""  # a long read, which is passed on in slices
        self._is_slicing = False  # slices of such a read are being passed on
        self._has_more = False  # and another one follows
        self._held_start: HeldStart | None = None  # the stream's first events, while they are held back
        self._is_reading = False  # the relay waits for the upstream, and not for the client
        self._is_refusal = False  # the stream begins with an error that is passed on
        self._ended_since_s: float | None = None  # since when the answer may have ended

    async def run(self) -> None:
        """Passes the stream on to its end.

        Raises NotAnAnswer and GatewayError while nothing has been sent, then UpstreamFault, and CapReached.
        """
        client, answer, rule = self._exchange.client, self._opened.answer, self._exchange.admitted.route.rule
        max_tokens = cap_of(self._exchange.admitted)
        cap = None if max_tokens is None else OutputCap(max_tokens, self.observer, self._take)
        take = self._take if cap is None else self._capped(cap)
        first = self._opened.already_read + answer.read_nowait()  # sent together with the head
        with keeping_alive(client, self._framer, rule.keepalive_s):
            if self.observer.form.holds_preamble:
                is_paused = await self._pass_preamble(first)
            else:
                first = await self._begin_with_event(first)
                is_paused = bool(first) and not take(first)
            if not answer.ended:
                client.flush()
            self._is_reading = not is_paused
            try:
                while is_paused or await answer.pump(take):
                    self._is_reading = is_paused = False
                    await self._catch_up(cap)
                    self._is_reading = True
            finally:
                self._is_reading = False
        await self.end()

    async def _catch_up(self, cap: OutputCap | None) -> None:
        """Waits until the next read may follow: passes on what is left of a long one. Raises CapReached."""
        data, self._later = self._later, b""
        take = self._take if cap is None or await self._may_end_in(data) else cap.take
        self._is_slicing, at = bool(data), 0
        while True:
            if data:
                piece, at = data[at : (end := slice_end(data, at))], end
                self._has_more = at < len(data)
                take(piece)
            await self._exchange.client.drained()
            await examine(self.observer, self._off_loop)
            if cap is not None and cap.is_reached():
                raise CapReached
            if not self._has_more:
                break
            await asyncio.sleep(0)
        self._is_slicing = False

    async def _may_end_in(self, data: bytes) -> bool:
        """Whether a long read may bring the end of the answer."""
        for start in range(0, len(data), _SEARCHED_BYTES):
            if self.observer.form.may_end_in(data[start : start + _SEARCHED_BYTES + _MARKER_BYTES]):
                return True
            await asyncio.sleep(0)
        return False

    def _capped(self, cap: OutputCap) -> Callable[[bytes], bool]:
        """Returns `_take`, with a cap on what passes."""

        def take(data: bytes) -> bool:
            if len(data) <= LONG_READ_BYTES:
                return cap.take(data)
            self._later = data
            return False

        return take

    def _take(self, data: bytes) -> bool:
        """Passes on the data of one read. Returns whether the next read may follow at once.

        If not, the client has to catch up, a large event has to be examined first, or the read is a long one.
        """
        if len(data) > LONG_READ_BYTES and not self._is_slicing:
            self._later = data
            return False
        client, ends = self._exchange.client, self._opened.answer.ended and not self._has_more
        ready = self._framer.feed(data)
        if self._responses is not None and ready and not ends:  # at its end the request is settled anyway
            self._remember_response(self._responses, ready)
        if ends:  # one write together with the end, which follows at once
            client.buffer(ready)
            return True
        return (not ready or client.write_now(ready)) and not self.observer.large

    def _remember_response(self, responses: KnownResponses, ready: Body) -> None:
        """Remembers the response as soon as events name it, before they are sent to the client."""
        shown_id = id_shown_first(ready)
        if shown_id is None and b'"response"' in ready and not self._framer.takes_long:
            shown_id = self.observer.summary().response_id
        if shown_id is None or not is_response_id(shown_id):
            return
        admitted, opened = self._exchange.admitted, self._opened
        hold, model = admitted.admission.hold, admitted.route.model
        responses.remember_running(hold, model, shown_id, opened.upstream.name, opened.key.fingerprint)
        self._exchange.answer.remembered_id = shown_id
        self._responses = None

    def _begin(self) -> Headers:
        """Notes that the stream goes to the client from here on. Returns its head."""
        self._exchange.confirm(self._opened, is_answer=not self._is_refusal)
        return self._exchange.head(self._opened, [*EVENT_HEADERS])

    async def _begin_with_event(self, data: bytes) -> bytes:
        """Begins the client's stream with its first event. Raises NotAnAnswer if that is an error.

        `data` is what has been read of the stream. Returns it with what has been read since.
        """
        client, opened, form, has_begun = self._exchange.client, self._opened, self.observer.form, False
        if (b"\n\n" not in data or data[:1] == b":") and client.starts_now and not opened.answer.ended:
            self._held_start = held_start = FirstEvent(opened, client, self._begin)
            self._is_reading = True
            try:
                data = await held_start.read(data)
            finally:
                self._is_reading, self._held_start = False, None
            has_begun = held_start.has_begun
        if not has_begun:
            if form.error.search(data, 0, MAX_BYTES) is not None:  # it may be an error
                dialect = self._exchange.admitted.target.operation.dialect
                self._is_refusal = begins_with_error(opened, dialect, form, data)
            await client.start(opened.answer.status, self._begin())
        return data

    async def _pass_preamble(self, first: bytes) -> bool:
        """Begins the client's stream as soon as there is output. Returns whether there is more to catch up with."""
        client, opened = self._exchange.client, self._opened
        dialect = self._exchange.admitted.target.operation.dialect
        opened_with_first = opened._replace(already_read=first)
        preamble = Preamble(opened_with_first, self._framer, dialect, client, self._begin, self._off_loop)
        self._held_start, self._is_reading = preamble, True
        try:
            ready = await preamble.read()
        finally:
            self._is_reading = False
        self._is_refusal, self._held_start = preamble.is_refusal, None
        if client.status is None:
            await client.start(opened.answer.status, self._begin())
        self._later = preamble.unread
        if opened.answer.ended and not self._later:
            client.buffer(ready)
            return False
        return not client.write_now(ready) or bool(self._later) if ready else bool(self._later)

    def check_times(self, now_s: float) -> bool:
        """Starts a stream that was held back for too long. Returns whether the stream has to be ended.

        It has to if its answer ended a while ago. To be called about once a second, which saves a timer per stream.
        """
        if not self._is_reading or self.observer.large:
            return False
        if self._held_start is not None:
            self._held_start.check_times(now_s)
        summary = self.observer.summary()
        if summary.ended is None and not summary.may_end:
            self._ended_since_s = None
        elif self._ended_since_s is None:
            self._ended_since_s = now_s
        else:
            wait_s = self._opened.upstream.policy.max_end_wait_s(has_ended=summary.ended is not None)
            return now_s - self._ended_since_s >= wait_s
        return False

    async def end(self) -> None:
        """Ends the client's stream, because the upstream's stream or its answer has ended."""
        admitted, _, record, answer = self._exchange
        rest = await finish(self._framer, self._off_loop)
        stream, closing, form = answer.end_stream(self.observer), b"", self.observer.form
        record.response_id = stream.response_id
        record.answered_model = stream.answer.get("model")
        may_end = stream.may_end or admitted.target.operation.by_id  # a stream by id may be a part of the response
        ended: Ended | None = stream.ended or ("completed" if may_end else None)
        if self._is_refusal:
            answer.outcome = Outcome.UPSTREAM_REFUSED
            refused = GatewayError("upstream_invalid_response", "The provider's stream began with an error.")
            closing = form.close_broken(stream, refused, self._exchange.origin())
        elif ended is not None:
            answer.outcome = OUTCOMES[ended]
        else:
            answer.outcome = Outcome.UPSTREAM_CUT if stream.error is None else Outcome.FAILED
            record.detail = "the stream ended without a terminal event"
            cut = GatewayError("upstream_invalid_response", "The provider's stream ended too early.")
            record.code = cut.code
            closing = form.close_broken(stream, cut, self._exchange.origin())
        await self._write_end(rest, self._framer.separated(closing))

    async def end_at_cap(self) -> None:
        """Ends the client's stream like an answer that has reached its maximum length."""
        answer, form = self._exchange.answer, self.observer.form
        answer.outcome = Outcome.CAPPED
        rest = await finish(self._framer, self._off_loop, was_cut=True)
        closing = form.close_capped(answer.end_stream(self.observer), self._exchange.origin())
        await self._write_cut(rest, closing)

    async def end_broken(self, error: GatewayError) -> None:
        """Ends the client's stream, which the upstream did not end, with an error."""
        rest = await finish(self._framer, self._off_loop, was_cut=True)
        answer, form = self._exchange.answer, self.observer.form
        closing = form.close_broken(answer.end_stream(self.observer), error, self._exchange.origin())
        is_told = await self._write_cut(rest, closing)
        self._exchange.record.code = error.code if is_told else None

    async def _write_cut(self, rest: Body, closing: bytes) -> bool:
        """Writes the end of a stream that broke off: half an event, if it is passed on. Returns whether it has one."""
        client, closing = self._exchange.client, await self._shown(self._framer.separated(closing))
        client.buffer(rest)
        await client.end(closing)
        return bool(rest or closing)

    async def _write_end(self, rest: Body, closing: bytes) -> None:
        """Writes the rest of the upstream's stream, and the gateway's own closing events, if there are any."""
        client = self._exchange.client
        if closing:
            client.buffer(rest)
        await client.end(closing or rest)

    async def _shown(self, closing: bytes) -> bytes:
        """Returns the gateway's own closing events, in the form that the client receives."""
        return closing
