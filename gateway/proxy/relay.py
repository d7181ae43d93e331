"""Step 6 of a request: an upstream's answer on its way to the client.

2xx, event stream    whole events, past the observer; its usage, or the gateway's own ending where it breaks off
2xx, JSON            read whole, then passed on: what is no answer must not look like one
401, 402, no quota   502: the gateway's own account, never the caller's
other 4xx, 5xx       unchanged where SDKs can read it (a 4xx: or nothing), else its status in our form; 5xx page: 502
404 to another call  passed on whatever it is: what an upstream does not offer, it answers as it likes
3xx                  502

An error under a 200 before any output, and a refusal of what the gateway added, are handed back (`NotAnAnswer`):
another upstream may do better. A stream whose answer may have ended is waited for `end_wait_s` more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from gateway.billing.lifecycle import TRANSITIONS, Event, Outcome
from gateway.billing.settlement import ExchangeResult
from gateway.concurrency.cancellation import CancelScope, Reason
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.ledger.known_responses import KnownResponses
from gateway.observability.request_record import RequestRecord
from gateway.protocol.dialects.dialect import Ended, Origin, StreamForm, StreamSummary
from gateway.protocol.opening_event import id_shown_first
from gateway.protocol.operations import is_response_id
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.usage_dropping import UsageDroppingFramer
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.failover import InvalidAnswer, NotAnAnswer, Search
from gateway.proxy.keep_alive import keeping_alive
from gateway.proxy.kept_answer import KeptAnswer
from gateway.proxy.large_answers import decoded, examine, finish
from gateway.proxy.learnt import OUTCOMES, UNFINISHED, Learnt, exchange_result
from gateway.proxy.media import pass_media
from gateway.proxy.preamble import FirstEvent, Preamble, Waiting, begins_with_error
from gateway.proxy.stream_passing import passing
from gateway.proxy.upstream_answer import (
    EVENT_HEADERS,
    client_headers,
    peeked,
    read_body,
    readable_type,
    refuse_unreadable,
    refused_addition,
    status_of_error,
)
from gateway.types import Headers
from gateway.upstream.decoded_answer import uncompressed


class Relay:
    """Step 6 for one request: an upstream's answer on its way to the client. Mutable.

    `outcome` starts as what a bug would leave.
    """

    def __init__(
        self, admitted: Admitted, client: Client, record: RequestRecord, responses: KnownResponses | None = None
    ) -> None:
        self.shown_id = ""  # the response is known under it already, though its request still runs
        self.outcome = Outcome.INTERNAL_ERROR
        self.billed_as: str | None = None  # the provider's id of an answer; the client may be shown another one
        self._admitted = admitted
        self._responses = responses  # None: nobody names a response that this makes
        self._off_loop = admitted.snapshot.off_loop
        self._dialect = admitted.target.operation.dialect
        self._client = client
        self.record = record
        self._opened: Opened | None = None
        self._framer: SseFramer | None = None  # of the stream, if the answer is one
        self._preamble: Waiting | None = None
        self._kept: KeptAnswer | None = None  # where the gateway keeps the response: what is shown goes through it
        self.learnt = Learnt(self._dialect)
        self._unconfirmed: Opened | None = None  # a 2xx that may turn out to be no answer
        self._refused = False  # the answer is an error, and the client gets it as it is
        self._left = False  # the client has left, and the relay reads on
        self._reading = False  # the upstream is waited for, and not the client
        self._ended_since_s: float | None = None  # since when the answer is known to have ended

    async def run(self, opened: Opened) -> None:
        """Passes the answer on.

        Raises while nothing has been sent: GatewayError, NotAnAnswer. In mid-stream: UpstreamFault.
        """
        self._opened, self._framer, self._preamble = opened, None, None
        self.learnt.observer = self.learnt.stream = None
        status = opened.answer.status
        if not 200 <= status < 300:  # noqa: PLR2004 - the range is HTTP's
            await self._pass_refusal(opened._replace(answer=uncompressed(opened.answer)))
            return
        self._unconfirmed = opened
        if not self.learnt.answered:
            self.learnt.answered = True
            self.record.state = TRANSITIONS[self.record.state, Event.OPEN]
        kind, is_compressed = readable_type(opened.answer.headers)
        if is_compressed:
            opened = opened._replace(answer=uncompressed(opened.answer))
        form = self._dialect.stream if self._admitted.request.stream else None
        is_events = kind == b"text/event-stream"
        if form is not None and not is_events:
            opened, is_events = await peeked(opened, kind)
        self._opened = opened
        if form is not None and is_events:
            await self._pass_stream(opened, form)
        elif kind.startswith(self._dialect.media):
            await self._pass_media(opened)
        else:
            await self._pass_whole(opened, kind)

    async def _pass_stream(self, opened: Opened, form: StreamForm) -> None:
        client, answer, request = self._client, opened.answer, self._admitted.request
        framer, observer = self._framed(UsageDroppingFramer if request.usage_unasked else SseFramer, opened, form)
        show = None if self._responses is None else partial(self._show, opened, framer)
        take, over_cap = passing(client, answer, framer, self._cap(), show)
        first = opened.read + answer.read_nowait()  # what came with the head goes with the head
        with keeping_alive(client, framer, self._admitted.route.rule.keepalive_s):
            if form.holds_preamble:
                paused = await self._pass_preamble(opened._replace(read=first), framer)
            else:
                first = await self._begun(opened, form, first)
                paused = bool(first) and not take(first)
            if not answer.ended:
                client.flush()
            while paused or await self._pump(opened, take):
                paused = False
                await client.drained()
                await examine(observer, self._off_loop)
                if over_cap():
                    await self._cut_at_cap(framer)
                    return
        await self.end_stream()

    def _framed(self, framer_class: type[SseFramer], opened: Opened, form: StreamForm) -> tuple[SseFramer, SseObserver]:
        """Begins a stream."""
        policy, choices = opened.upstream.policy, self._admitted.request.bounds.choices
        observer = SseObserver(form, choices, policy.max_answer_values)
        self._framer = framer = framer_class(observer, policy.max_event_bytes)
        return framer, observer

    async def _begun(self, opened: Opened, form: StreamForm, data: bytes) -> bytes:
        """Begins the client's stream with its first event. Raises NotAnAnswer for an error in its place.

        `data`: what has come of it. Returns that, and what has come since.
        """
        has_begun = False
        if (b"\n\n" not in data or data[:1] == b":") and self._client.starts_now and not opened.answer.ended:
            self._preamble = waiting = FirstEvent(opened, self._client, self._begin_stream)
            self._reading = True
            try:
                data = await waiting.read(data)
            finally:
                self._reading, self._preamble = False, None
            has_begun = waiting.has_begun
        if not has_begun:
            may_be_one = form.error.search(data) is not None
            self._refused = may_be_one and begins_with_error(opened, self._dialect, form, data)
            await self._client.start(opened.answer.status, self._begin_stream())
        return data

    def _show(self, opened: Opened, framer: SseFramer, ready: bytes) -> bool:
        """Before these events go to the client: a response that they name is known from now on. Whether they do."""
        shown = id_shown_first(ready)
        if shown is None and b'"response"' in ready and not framer.takes_long:
            shown = framer.observer.summary().response_id
        if self._responses is None or shown is None or not is_response_id(shown):
            return False
        hold, model = self._admitted.admission.hold, self._admitted.route.model
        self._responses.remember_running(hold, model, shown, opened.upstream.name, opened.key.fingerprint)
        self.shown_id = shown
        return True

    def _cap(self) -> int | None:
        """The output tokens after which the answer is cut, where its route or key wants that."""
        rule, admission = self._admitted.route.rule, self._admitted.admission
        return admission.hold.output_tokens if rule.cut_at_cap or admission.cut_at_cap else None

    async def shown(self, closing: bytes) -> bytes:
        """The gateway's own closing events as the client gets them."""
        return closing if self._kept is None else await self._kept.broken(closing)

    async def _pass_preamble(self, opened: Opened, framer: SseFramer) -> bool:
        """Begins the client's stream as soon as there is output; whether the client is slower than that."""
        preamble = Preamble(opened, framer, self._dialect, self._client, self._begin_stream, self._off_loop)
        self._preamble = preamble
        self._reading = True
        try:
            ready = await preamble.read()
        finally:
            self._reading = False
        self._refused = preamble.is_refusal
        self._preamble = None
        if self._client.status is None:
            await self._client.start(opened.answer.status, self._begin_stream())
        if opened.answer.ended:
            self._client.buffer(ready)
            return False
        return bool(ready) and not self._client.write_now(ready)

    def _begin_stream(self) -> Headers:
        """The stream goes to the client from here on; gives its head."""
        opened = self._opened
        if opened is None:
            raise RuntimeError("a stream begins when an upstream has answered")
        self._confirm(opened)
        return self._head(opened, [*EVENT_HEADERS])

    def _confirm(self, opened: Opened) -> None:
        """It is an answer, and goes to the client."""
        self.record.state = TRANSITIONS[self.record.state, Event.RELAY]
        if self._unconfirmed is not None:
            self._unconfirmed = None
            model, status = self._admitted.route.upstream_model, opened.answer.status
            opened.upstream.note_answer(opened.key, model, status, None, time.monotonic())

    async def _pump(self, opened: Opened, take: Callable[[bytes], bool]) -> bool:
        self._reading = True
        try:
            return await opened.answer.pump(take)
        finally:
            self._reading = False

    def tick(self, now_s: float) -> bool:
        """To be called about once a second. Whether nothing more is waited for. Shows what was held for too long."""
        framer, opened = self._framer, self._opened
        if not self._reading or framer is None or opened is None or framer.observer.large:
            return False
        if self._preamble is not None:
            self._preamble.tick(now_s)
        summary = framer.observer.summary()
        if summary.ended is None and not summary.may_end:
            self._ended_since_s = None
        elif self._ended_since_s is None:
            self._ended_since_s = now_s
        else:
            wait_s = opened.upstream.policy.waits_s(has_ended=summary.ended is not None)
            return now_s - self._ended_since_s >= wait_s
        return False

    async def end_stream(self) -> None:
        """The upstream's stream is over, or nothing that matters can follow: so is the client's."""
        framer = self._framer
        if framer is None:
            raise RuntimeError("no stream has begun")
        rest = await finish(framer, self._off_loop)
        stream, closing, form = self.learnt.end_stream(framer.observer), b"", framer.observer.form
        self.billed_as = self.record.response_id = stream.response_id
        self.record.answered_model = stream.answer.get("model")
        may_end = stream.may_end or self._admitted.target.operation.by_id  # the latter ends where its upstream ends it
        ended: Ended | None = stream.ended or ("completed" if may_end else None)
        if self._refused:
            self.outcome = Outcome.UPSTREAM_REFUSED
            refused = GatewayError("upstream_invalid_response", "The provider's stream began with an error.")
            closing = form.close_broken(stream, refused, self._origin())
        elif ended is not None:
            self.outcome = OUTCOMES[ended]
        else:
            self.outcome = Outcome.UPSTREAM_CUT if stream.error is None else Outcome.FAILED
            self.record.detail = "the stream ended without a terminal event"
            cut = GatewayError("upstream_invalid_response", "The provider's stream ended too early.")
            self.record.code = cut.code
            closing = form.close_broken(stream, cut, self._origin())
        closing = framer.separated(closing)
        await self._client.end(rest + closing if self._kept is None else await self._kept.end(closing))

    async def _cut_at_cap(self, framer: SseFramer) -> None:
        """Its route or key wants no answer to cost more than its hold: ends it as one that has reached its length."""
        self.outcome = Outcome.CAPPED
        self.abort()
        rest = framer.finish(was_cut=True)
        closing = framer.observer.form.close_capped(self.learnt.end_stream(framer.observer), self._origin())
        await self._client.end(await self.shown(rest + framer.separated(closing)))

    async def _pass_media(self, opened: Opened) -> None:
        self._confirm(opened)
        await pass_media(opened, self._client, self._head(opened, []))
        self.outcome = Outcome.COMPLETED

    async def _pass_whole(self, opened: Opened, kind: bytes) -> None:
        """A JSON answer, read whole before its head is passed on: a 2xx that is no answer must not look like one."""
        body = opened.read or await read_body(opened, self._off_loop, answered=self.learnt.answered)
        fields = await decoded(body, opened.upstream.policy, self._off_loop)
        operation = self._admitted.target.operation
        if not body and operation.by_id and operation.method != "GET":
            fields, kind = {}, b"application/json"  # 204, to DELETE
        if fields is None and kind == b"application/json":
            # Cut short, with the work behind it probably done: the policy's "2xx without usage".
            self.outcome = Outcome.UPSTREAM_CUT
            raise InvalidAnswer(self.outcome, "The provider's answer was cut short.")
        facts = self._dialect.read_answer(fields) if fields is not None and kind == b"application/json" else None
        if fields is None or facts is None:
            self.record.detail = f"2xx with {kind.decode('latin-1') or 'no content type'}: not a response"
            raise InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer was not a response.")
        status, length = opened.answer.status, [(b"content-length", b"%d" % len(body))]
        if facts.error is not None:
            status = status_of_error(opened, self._dialect, facts.error, body)
            self.outcome = Outcome.UPSTREAM_REFUSED
        else:
            self.learnt.facts, self.learnt.answer = facts, fields
            self.billed_as = self.record.response_id = facts.response_id
            self.record.answered_model = fields.get("model")
            self.outcome = OUTCOMES[facts.ended]
            self._confirm(opened)
        if status == 204:  # noqa: PLR2004 - RFC 9110, 8.6
            length = []
        if facts.error is None and self._kept is not None:
            body = await self._kept.whole(body)
            length = [(b"content-length", b"%d" % len(body))]
        await self._client.answer(status, self._head(opened, length), body)

    async def _pass_refusal(self, opened: Opened) -> None:
        """An upstream's own refusal goes on unchanged; one of the gateway's account must not read as the caller's."""
        status = opened.answer.status
        self.outcome = Outcome.UPSTREAM_REFUSED
        body = await read_body(opened, self._off_loop, answered=self.learnt.answered)
        refused = refused_addition(opened, body) if status < 500 else None  # noqa: PLR2004 - 4xx
        if refused is not None:
            raise NotAnAnswer(opened, status, body, refused)
        refuse_unreadable(opened, body, may_be_missing=self._admitted.target.operation.may_be_missing)
        extra = [(b"content-length", b"%d" % len(body)), (b"x-gateway-limit-source", b"upstream")]
        await self._client.answer(status, self._head(opened, extra), body)

    def _head(self, opened: Opened, extra: Headers) -> Headers:
        return client_headers(opened, self._admitted, self.record, extra)

    def client_left(self, cancel_scope: CancelScope, search: Search) -> None:
        """Ends the request, or lets it go on for its usage where the operator chose so, for `drain_timeout_s`.

        Before an answer, it goes on if an upstream may have the request already.
        """
        upstream = search.waits_for if self._opened is None else self._opened.upstream
        if upstream is None or upstream.policy.on_client_leave == "abort":
            cancel_scope.cancel(Reason.CLIENT_LEFT)
        else:
            # The relay goes on, and its writes lead nowhere. To cancel its read would close the upstream's connection.
            self._left = True
            search.give_up()
            cancel_scope.cancel_later(Reason.CLIENT_LEFT, upstream.policy.drain_timeout_s)

    def abort(self) -> None:
        """Closes the upstream's connection if its answer has not been read to the end. Idempotent."""
        if self._opened is not None:
            self._opened.answer.abort()
        if self._unconfirmed is not None:
            self._unconfirmed.upstream.health.released(self._admitted.route.upstream_model)
            self._unconfirmed = None

    def closing_events(self, error: GatewayError) -> bytes | None:
        """What ends a stream that the upstream did not end; None: nothing can, its connection breaks off."""
        framer = self._framer
        if framer is None:
            return None
        rest = framer.finish(was_cut=True)
        stream = self.learnt.end_stream(framer.observer)
        closing = framer.observer.form.close_broken(stream, error, self._origin())
        return rest + framer.separated(closing)

    def closing_before_any_event(self, error: GatewayError) -> bytes:
        """What ends a stream that began before an upstream had answered, and for which none came."""
        form = self._dialect.stream
        if form is None:
            raise RuntimeError("there is no such stream")
        return form.close_broken(StreamSummary(answer={}), error, self._origin())

    def _origin(self) -> Origin:
        request = self._admitted.request
        works_on = self._admitted.target.operation.by_id or request.background or self.learnt.works_on
        return Origin(self.record.request_id, request.model, int(time.time()), works_on)

    def result(self, *, begun: bool) -> ExchangeResult:
        """What the policy decides on. `begun`: the request was sent, and no head of an answer came."""
        if self._framer is not None and self.learnt.stream is None:
            self.learnt.end_stream(self._framer.observer)
        outcome = Outcome.CLIENT_LEFT if self._left else self.outcome
        return exchange_result(self._admitted, outcome, self.learnt, begun=begun)

    @property
    def response_id(self) -> str | None:
        """The id of the response that was made, where it can be named later."""
        admitted, stream = self._admitted, self.learnt.stream
        kept = admitted.request.store and admitted.route.rule.state != "none"
        if not admitted.target.operation.makes_response or not kept or not self.learnt.answered:
            return None
        found = self.record.response_id if stream is None else stream.response_id
        return found if found is not None and is_response_id(found) else None

    @property
    def may_be_told_later(self) -> bool:
        """Whether its upstream may come to know a usage of the response that it did not tell yet."""
        return self._left or self.outcome in UNFINISHED or self.learnt.works_on

    @property
    def upstream_key(self) -> str:
        """Which of the gateway's keys was used."""
        return self._opened.key.fingerprint if self._opened is not None else ""
