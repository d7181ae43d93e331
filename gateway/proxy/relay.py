"""Step 6 of the request line: an upstream's answer on its way to the client.

2xx, event stream    whole events, past the tap; its usage, or the gateway's own ending where it breaks off
2xx, JSON            read whole, then passed on: what is no response must not look like one
401, 402, a 429 of   502: the gateway's own account, never the caller's
  insufficient_quota
other 4xx, 5xx       passed on unchanged where it is JSON (a 4xx: or nothing); 502 for a page of what stands before it
404 to another call  passed on whatever it is: what an upstream does not offer, it answers as it likes
3xx                  502
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from itertools import takewhile
from types import MappingProxyType
from typing import Any, Final

from gateway.billing.lifecycle import TRANSITIONS, Event, Outcome
from gateway.billing.settlement import ExchangeResult
from gateway.concurrency.cancellation import CancelScope, Reason
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.observability.request_record import RequestRecord
from gateway.protocol.closing_events import Origin, failure_frames, incomplete_frames
from gateway.protocol.lenient_json import is_json, parse_object
from gateway.protocol.operations import CREATE, is_response_id
from gateway.protocol.quantities import Usage
from gateway.protocol.retry_after import retry_after_s
from gateway.protocol.sse_framing import split_events
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.usage_reader import RequestFacts, read_usage
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.failover import fault_error
from gateway.proxy.refusals import account_status
from gateway.types import Headers
from gateway.upstream.transport import UpstreamFault
from gateway.upstream.upstream import ACCOUNT_REFUSED

PASSED_ON: Final = frozenset(
    {
        b"content-type",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"openai-processing-ms",
        b"openai-version",
        b"openai-model",
    }
)
"""Answer headers of an upstream that go on to the client."""

_TERMINALS: Final[Mapping[str, Outcome]] = MappingProxyType(
    {
        "response.completed": Outcome.COMPLETED,
        "response.incomplete": Outcome.INCOMPLETE,
        "response.failed": Outcome.FAILED,
    }
)
_STATUSES: Final[Mapping[str, Outcome]] = MappingProxyType({"incomplete": Outcome.INCOMPLETE, "failed": Outcome.FAILED})
_BROKEN: Final = (Outcome.UPSTREAM_CUT, Outcome.UPSTREAM_STALLED)  # unless a terminal event came before
_LOOKS: Final = 4  # in a time of silence, at what was written
_IN_PROGRESS: Final = ("queued", "in_progress")


class Relay:
    """Step 6 for one request: an upstream's answer on its way to the client.

    State that changes: all of it. `outcome` starts as what a bug would leave.
    """

    def __init__(self, admitted: Admitted, client: Client, record: RequestRecord) -> None:
        self.outcome = Outcome.INTERNAL_ERROR
        self._admitted = admitted
        self._client = client
        self._record = record
        self._opened: Opened | None = None
        self._observer: SseObserver | None = None
        self._answer: dict[str, Any] = {}
        self._output_bytes = 0
        self._answered = False
        self._in_progress = False  # a whole answer that says so: the upstream works on in the background
        self._left = False  # the client has left, and the relay reads on

    async def run(self, opened: Opened) -> None:
        """Passes the answer on. Raises GatewayError while nothing has been sent, UpstreamFault in mid-stream."""
        self._opened = opened
        status = opened.answer.status
        if not 200 <= status < 300:  # noqa: PLR2004 - the range is HTTP's
            await self._pass_refusal(opened)
            return
        self._answered = True
        self._record.state = TRANSITIONS[self._record.state, Event.OPEN]
        _refuse_encoded(opened.answer.headers)
        kind = content_type(opened.answer.headers)
        if kind == b"text/event-stream" and self._admitted.request.stream:
            await self._pass_stream(opened)
        else:
            await self._pass_whole(opened, kind)

    async def _pass_stream(self, opened: Opened) -> None:
        client, answer = self._client, opened.answer
        observer = self._observer = SseObserver(opened.upstream.policy.max_event_bytes)
        await client.start(
            answer.status, self._head(opened, [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")])
        )
        self._record.state = TRANSITIONS[self._record.state, Event.RELAY]
        rule, admission = self._admitted.route.rule, self._admitted.admission
        cap = admission.hold.output_tokens if rule.cut_at_cap or admission.cut_at_cap else None

        feed, write_now = observer.feed, client.write_now

        def over_cap() -> bool:
            return cap is not None and observer.terminal is None and observer.output_tokens_estimate() > cap

        def pass_on(data: bytes) -> bool:
            ready = feed(data)
            if answer.ended:  # the end is next: one write for both
                client.buffer(ready)
                return True
            return not ready or write_now(ready)

        def pass_on_to_cap(data: bytes) -> bool:
            # Event by event: one read may bring many times what the hold pays for. With its end, it brings its price.
            if any(name.encode() in data for name in _TERMINALS):
                return pass_on(data) and not over_cap()
            keeps_up = [pass_on(event) for event in takewhile(lambda _: not over_cap(), split_events(data))]
            return all(keeps_up) and not over_cap()

        first = answer.read_nowait()  # what came with the head goes with the head
        take = pass_on if cap is None else pass_on_to_cap
        paused = bool(first) and not take(first)
        if not answer.ended:
            client.flush()
        with self._keeping_alive(observer, rule.keepalive_s):
            while paused or await answer.pump(take):
                paused = False
                await client.drained()
                if over_cap():
                    await self._cut_at_cap(observer)
                    return
        rest = observer.finish(half=False)
        self._record.response_id = observer.response_id
        if observer.terminal is None and not observer.done:
            self.outcome = Outcome.UPSTREAM_CUT
            self._record.detail = "the stream ended without a terminal event"
            cut = GatewayError("upstream_invalid_response", "The provider's stream ended too early.")
            self._record.code = cut.code
            await client.end(self.closing_events(cut))
            return
        self.outcome = _TERMINALS.get(observer.terminal or "", Outcome.COMPLETED)
        await client.end(rest)

    async def _cut_at_cap(self, observer: SseObserver) -> None:
        """Its route or key wants no answer to cost more than its hold: ends it as one that has reached its length."""
        self.outcome = Outcome.CAPPED
        self.abort()
        observer.finish(clean=False)
        await self._client.end(incomplete_frames(observer, self._origin()))

    @contextlib.contextmanager
    def _keeping_alive(self, observer: SseObserver, silence_s: float | None) -> Iterator[None]:
        """Where the route wants it: a comment between events after so much silence. The one task of a relay."""
        if silence_s is None:
            yield
            return
        task = asyncio.create_task(self._keep_alive(observer, silence_s))
        try:
            yield
        finally:
            task.cancel()

    async def _keep_alive(self, observer: SseObserver, silence_s: float) -> None:
        client, quiet = self._client, 0
        while True:
            before = client.bytes_out
            await asyncio.sleep(silence_s / _LOOKS)
            quiet = quiet + 1 if client.bytes_out == before else 0
            if quiet >= _LOOKS and observer.aligned:
                await client.write(b": keep-alive\n\n")
                quiet = 0

    async def _pass_whole(self, opened: Opened, kind: bytes) -> None:
        """A JSON answer, read whole before its head is passed on: a 2xx that is no response must not look like one."""
        body = await self._read_whole(opened)
        fields = parse_object(body)
        operation = self._admitted.target.operation
        if not body and operation.by_id and operation.method != "GET":
            fields, kind = {}, b"application/json"  # 204, to DELETE
        if fields is None and kind == b"application/json":
            # Cut short, with the work behind it probably done: the policy's "2xx without usage".
            self.outcome = Outcome.UPSTREAM_CUT
            self._output_bytes = 0
            raise InvalidAnswer(self.outcome, "The provider's answer was cut short.")
        if fields is None or kind != b"application/json" or _is_error(fields):
            self._record.detail = f"2xx with {kind.decode('latin-1') or 'no content type'}: not a response"
            raise InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer was not a response.")
        self._in_progress = fields.get("status") in _IN_PROGRESS
        self._answer = fields
        self._output_bytes = len(body)
        response_id = fields.get("id")
        self._record.response_id = response_id if isinstance(response_id, str) else None
        self.outcome = _STATUSES.get(str(fields.get("status")), Outcome.COMPLETED)
        self._record.state = TRANSITIONS[self._record.state, Event.RELAY]
        status = opened.answer.status
        length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]  # noqa: PLR2004 - RFC 9110, 8.6
        await self._client.answer(status, self._head(opened, length), body)

    async def _pass_refusal(self, opened: Opened) -> None:
        """An upstream's own refusal goes on unchanged; one of the gateway's account must not read as the caller's."""
        status = opened.answer.status
        self.outcome = Outcome.UPSTREAM_REFUSED
        body = await self._read_whole(opened)
        if account_status(status, body) in ACCOUNT_REFUSED:
            raise GatewayError(
                "upstream_rejected_gateway", "The provider refused the gateway's own account. Tell its operator."
            )
        if not self._is_refusal(status, body):
            wait_s = retry_after_s(opened.answer.headers, time.time())
            wait_ms = None if wait_s is None else int(wait_s * 1000)
            raise GatewayError("upstream_invalid_response", "The provider's answer was not valid.", wait_ms=wait_ms)
        extra = [(b"content-length", b"%d" % len(body)), (b"x-gateway-limit-source", b"upstream")]
        await self._client.answer(status, self._head(opened, extra), body)

    def _is_refusal(self, status: int, body: bytes) -> bool:
        if status < 400:  # noqa: PLR2004 - a redirect is no answer
            return False
        not_offered = status == 404 and self._admitted.target.operation is not CREATE  # noqa: PLR2004 - the same
        if not body:  # a broken server's silence explains nothing, a refusal's status may
            return status < 500  # noqa: PLR2004 - the same
        return not_offered or is_json(body)

    async def _read_whole(self, opened: Opened) -> bytes:
        answer, bound = opened.answer, opened.upstream.policy.max_answer_bytes
        pieces: list[bytes] = []
        size = 0
        try:
            while data := await answer.read():
                pieces.append(data)
                size += len(data)
                if size > bound:
                    answer.abort()
                    raise InvalidAnswer(Outcome.UPSTREAM_CUT, "The provider's answer was too large.")
        except UpstreamFault as fault:
            if self._answered:
                raise
            raise fault_error(fault) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _head(self, opened: Opened, extra: Headers) -> Headers:
        headers = [(name, value) for name, value in opened.answer.headers if name in PASSED_ON]
        for name, value in opened.answer.headers:
            if name == b"x-request-id":
                headers.append((b"x-upstream-request-id", value))
                self._record.upstream_request_id = value.decode("latin-1")
        headers += extra
        headers.append((b"x-request-id", self._record.request_id.encode()))
        headers += self._admitted.admission.rates.headers()
        if self._admitted.admission.unchecked:
            headers.append((b"x-gateway-unchecked", b"store_unavailable"))
        return headers + self._record.debug_headers()

    def client_left(self, cancel_scope: CancelScope) -> None:
        """Ends the request, or lets it go on for its usage where the operator chose so, for `drain_timeout_s`."""
        opened = self._opened
        if opened is None or opened.upstream.policy.on_client_leave == "abort":
            cancel_scope.cancel(Reason.CLIENT_LEFT)
        else:
            # The relay goes on, and its writes lead nowhere. To cancel its read would close the upstream's connection.
            self._left = True
            cancel_scope.cancel_later(Reason.CLIENT_LEFT, opened.upstream.policy.drain_timeout_s)

    def abort(self) -> None:
        """Closes the upstream's connection if its answer has not been read to the end. Idempotent."""
        if self._opened is not None:
            self._opened.answer.abort()

    def closing_events(self, error: GatewayError) -> bytes:
        """What ends a stream that the upstream did not end."""
        if self._observer is None:
            return b""
        self._observer.finish(clean=False)
        return failure_frames(self._observer, error, self._origin())

    def _origin(self) -> Origin:
        return Origin(f"resp_{self._record.request_id[4:]}", self._admitted.request.model, int(time.time()))

    def result(self) -> ExchangeResult:
        """What the policy decides on."""
        if self._left:
            self.outcome = Outcome.CLIENT_LEFT
        observer = self._observer
        if observer is None:
            answer, output_tokens = self._answer, self._output_bytes // 4
            reported = None if self._in_progress else answer.get("usage")
        else:
            if self.outcome in _BROKEN and observer.terminal is not None:
                self.outcome = _TERMINALS[observer.terminal]
            answer = observer.answer or {}
            reported = answer.get("usage")
            output_tokens = 0
        usage = None if reported is None else read_usage("responses", reported, answer, self._facts())
        if usage is None and observer is not None:
            output_tokens = observer.output_tokens_estimate()
        if self._works_on():
            output_tokens = self._admitted.admission.hold.output_tokens
        return ExchangeResult(self.outcome, self._answered and self._is_charged(usage), usage, output_tokens)

    def _facts(self) -> RequestFacts:
        facts, conditions = self._admitted.request.facts, self._admitted.route.price.conditions
        return facts._replace(conditions=conditions) if conditions else facts

    def _works_on(self) -> bool:
        """Whether the upstream goes on with the response after this, unseen: then its whole hold is the estimate."""
        observer = self._observer
        if observer is None or observer.terminal is not None or observer.created is None:
            return self._in_progress
        response = (parse_object(observer.created) or {}).get("response")
        return isinstance(response, dict) and response.get("background") is True

    def _is_charged(self, usage: Usage | None) -> bool:
        charge, known_response = self._admitted.target.operation.charge, self._admitted.known_response
        if charge == "usage":
            return usage is not None and known_response is not None and not known_response.settled
        return charge != "nothing"

    @property
    def response_id(self) -> str | None:
        """The id of the response that was made, where it can be named later."""
        admitted, observer = self._admitted, self._observer
        if admitted.target.operation is not CREATE or not admitted.request.store or not self._answered:
            return None
        found = self._record.response_id if observer is None else observer.response_id
        return found if found is not None and is_response_id(found) else None

    @property
    def upstream_key(self) -> str:
        """Which of the gateway's keys was used."""
        return self._opened.key.fingerprint if self._opened is not None else ""


class InvalidAnswer(GatewayError):
    """A 2xx that is no response; `outcome` says what the policy goes by."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__("upstream_invalid_response", message)
        self.outcome = outcome


def content_type(headers: Headers) -> bytes:
    """An answer's media type, in lower case and without parameters; b"" if there is none."""
    for name, value in headers:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower()
    return b""


def _refuse_encoded(headers: Headers) -> None:
    """Identity was asked for. The header is not passed on, and usage cannot be seen: the bytes would be noise."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer is compressed, which was not asked for.")


def _is_error(fields: dict[str, object]) -> bool:
    """An error body behind a 2xx. A response that failed has an error too, and its object says "response"."""
    return bool(fields.get("error")) and fields.get("object") != "response"
