"""Steps 6 to 9 of the request line, and its one exit.

    6 relay    Opened -> bytes to the client, past the tap    Relay.run
    7 decide   Ending -> Settlement                           exchange.decide, pure
    8 settle   Settlement -> the ledger                       Ledger.settle: no cancellation takes it back
    9 record   Record -> one log line

From step 4 on a request holds credits and a slot. Whatever happens then (an error, a client that leaves, a deadline, a
shutdown, a bug), `RequestLine` passes 7 to 9 once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Final

import orjson
import structlog

from gateway import endings, pipeline
from gateway.downstream import ClientLeft, Downstream, Headers, Receive, Scope, Send
from gateway.errors import GatewayError
from gateway.exchange import TRANSITIONS, Ending, Event, Outcome, decide
from gateway.interrupt import DisconnectWatch, Interrupt, Interrupted, Reason
from gateway.ledger.ledger import Ledger
from gateway.pipeline import Admitted, Opened, Plan
from gateway.sse import Tap
from gateway.telemetry import Record, RequestLog
from gateway.upstream.transport import FaultKind, UpstreamFault
from gateway.usage import Usage, parse_usage

PASSED_ON: Final = frozenset(
    {
        b"content-type",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"openai-processing-ms",
        b"openai-version",
        b"openai-model",
        b"cf-ray",
    }
)
"""Answer headers of an upstream that go on to the client."""

_OUTCOMES: Final = {
    Reason.CLIENT_LEFT: Outcome.CLIENT_LEFT,
    Reason.TIMED_OUT: Outcome.TIMED_OUT,
    Reason.SHUT_DOWN: Outcome.SHUT_DOWN,
}
_TERMINALS: Final = {
    "response.completed": Outcome.COMPLETED,
    "response.incomplete": Outcome.INCOMPLETE,
    "response.failed": Outcome.FAILED,
}
_STATUSES: Final = {"incomplete": Outcome.INCOMPLETE, "failed": Outcome.FAILED}
_OUR_ACCOUNT: Final = (401, 402)
_SWEEP_S: Final = 1.0


class RequestLine:
    """Serves requests; one object a worker.

    State that changes: `plan` (a reload replaces it; running requests keep theirs), `running` (a handle for each request that
    talks to an upstream, by which it can be ended), `stopping`.
    """

    def __init__(
        self, plan: Plan, ledger: Ledger, log: RequestLog, *, total_timeout_s: float, numeric_codes: bool
    ) -> None:
        self.plan = plan
        self.running: set[Interrupt] = set()
        self.stopping = False
        self._ledger = ledger
        self._log = log
        self._total_timeout_s = total_timeout_s
        self._numeric_codes = numeric_codes
        self._diagnostics = structlog.get_logger("gateway.relay")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its first byte to its log line."""
        record = Record(request_id=f"req_{os.urandom(16).hex()}", method=scope["method"], path=scope["path"])
        client = Downstream(scope, receive, send)
        try:
            admitted = await self._admit(client, record)
            if admitted is not None:
                await self._exchange(admitted, client, record)
        finally:
            record.status = client.status or 0
            record.bytes_out = client.bytes_out
            record.ended = time.perf_counter()
            self._log.write(record)

    async def watch_deadlines(self) -> None:
        """Ends requests whose total time is over. One sweep for all, so that a request needs no timer. Until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = clock()
            for interrupt in [one for one in self.running if one.deadline_s <= now_s]:
                interrupt.fire(Reason.TIMED_OUT)

    def drain(self, timeout_s: float) -> None:
        """Takes no new requests; what still runs after `timeout_s` is ended properly: a stream with its last words."""
        self.stopping = True
        asyncio.get_running_loop().call_later(timeout_s, self._end_all)

    def _end_all(self) -> None:
        for interrupt in list(self.running):
            interrupt.fire(Reason.SHUT_DOWN)

    async def _admit(self, client: Downstream, record: Record) -> Admitted | None:
        """Steps 1 to 4; None where the request was refused, and the client has been told."""
        try:
            if self.stopping:
                raise GatewayError("shutting_down", "This gateway is stopping. Try again.", wait_ms=1000)
            return await pipeline.admit(self.plan, self._ledger, client, record)
        except GatewayError as error:
            await self.refuse(client, record, error)
        except ClientLeft:
            record.outcome = Outcome.CLIENT_LEFT
        except Exception:
            self._diagnostics.exception("admission_failed", request_id=record.request_id)
            await self.refuse(client, record, internal_error())
        record.state = TRANSITIONS[record.state, Event.REFUSE]
        return None

    async def _exchange(self, admitted: Admitted, client: Downstream, record: Record) -> None:
        """Steps 5 to 9 for an admitted request. The one exit."""
        relay = Relay(admitted, client, record)
        try:
            await self._run(relay, admitted, client, record)
        except GatewayError as error:
            # Nothing has been sent: the answer is ours to give.
            relay.outcome = _outcome_of(error)
            await self.refuse(client, record, error)
        except Exception:
            relay.outcome = Outcome.INTERNAL_ERROR
            self._diagnostics.exception("request_failed", request_id=record.request_id)
            with contextlib.suppress(Exception):
                await self._end_broken(relay, client, record, internal_error())
        finally:
            await self._settle(relay, admitted, record)

    async def _run(self, relay: Relay, admitted: Admitted, client: Downstream, record: Record) -> None:
        interrupt = Interrupt(asyncio.get_running_loop().time() + self._total_timeout_s)
        self.running.add(interrupt)
        watch = DisconnectWatch(client.receive, lambda: interrupt.fire(Reason.CLIENT_LEFT))
        try:
            with interrupt:
                opened = await pipeline.open_upstream(self.plan, admitted, client, record)
                record.opened = time.perf_counter()
                await relay.run(opened)
        except Interrupted as ended:
            relay.outcome = _OUTCOMES[ended.reason]
            if ended.reason is Reason.CLIENT_LEFT:
                await relay.drain_or_abort()
            else:
                relay.abort()
                await self._end_broken(relay, client, record, _ended_error(ended.reason))
        except UpstreamFault as fault:
            record.detail = str(fault)
            relay.outcome = Outcome.UPSTREAM_STALLED if fault.kind is FaultKind.CHUNK_TIMEOUT else Outcome.UPSTREAM_CUT
            await self._end_broken(relay, client, record, pipeline.fault_error(fault))
        finally:
            watch.close()
            relay.abort()
            self.running.discard(interrupt)

    async def _end_broken(self, relay: Relay, client: Downstream, record: Record, error: GatewayError) -> None:
        """Tells the client of a failure: as an answer of its own, or at the end of a stream that has begun."""
        if client.status is None:
            await self.refuse(client, record, error)
        else:
            record.code = error.code
            await client.end(relay.last_words(error))

    async def _settle(self, relay: Relay, admitted: Admitted, record: Record) -> None:
        relay.abort()
        ending = relay.ending()
        settlement = decide(
            ending,
            admitted.admission.hold,
            admitted.route.price,
            model=admitted.route.model,
            upstream=record.upstream or "",
            trust_upstream_cost=admitted.route.rule.cost_source == "upstream",
        )
        settled = self._ledger.settle(settlement)
        record.outcome = ending.outcome
        record.settlement = settlement
        record.state = TRANSITIONS[record.state, Event.SETTLE if settlement.kind == "settle" else Event.VOID]
        # Shielded: a cancellation ends the waiting, not the settlement. The store's timeout is the deadline.
        record.spooled = await asyncio.shield(settled) is None

    async def refuse(self, client: Downstream, record: Record, error: GatewayError) -> None:
        """Answers with an error of the gateway's own."""
        record.code = error.code
        status, headers, body = error.render(numeric_codes=self._numeric_codes)
        await client.answer(status, [*headers, (b"x-request-id", record.request_id.encode())], body)


class Relay:
    """Step 6 for one request: an upstream's answer on its way to the client.

    State that changes: all of it. `outcome` starts as what a bug would leave.
    """

    def __init__(self, admitted: Admitted, client: Downstream, record: Record) -> None:
        self.outcome = Outcome.INTERNAL_ERROR
        self._admitted = admitted
        self._client = client
        self._record = record
        self._opened: Opened | None = None
        self._tap: Tap | None = None
        self._usage: Usage | None = None
        self._output_bytes = 0
        self._answered = False

    async def run(self, opened: Opened) -> None:
        """Passes the answer on. Raises GatewayError while nothing has been sent, UpstreamFault once a stream has begun."""
        self._opened = opened
        status = opened.answer.status
        if not 200 <= status < 300:  # noqa: PLR2004 - the range is HTTP's
            await self._pass_refusal(opened)
            return
        self._answered = True
        self._record.state = TRANSITIONS[self._record.state, Event.OPEN]
        kind = content_type(opened.answer.headers)
        if kind == b"text/event-stream" and self._admitted.envelope.stream:
            await self._pass_stream(opened)
        else:
            await self._pass_whole(opened, kind)

    async def _pass_stream(self, opened: Opened) -> None:
        client, answer = self._client, opened.answer
        tap = self._tap = Tap(opened.upstream.policy.max_event_bytes)
        await client.start(
            answer.status, self._head(opened, [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")])
        )
        self._record.state = TRANSITIONS[self._record.state, Event.RELAY]
        self._record.first_byte = time.perf_counter()
        while data := await answer.read():
            if ready := tap.feed(data):
                await client.write(ready)
        rest = tap.finish()
        self._record.response_id = tap.response_id
        if tap.terminal is None and not tap.done:
            self.outcome = Outcome.UPSTREAM_CUT
            self._record.detail = "the stream ended without a terminal event"
            cut = GatewayError("upstream_invalid_response", "The provider's stream ended too early.")
            self._record.code = cut.code
            await client.end(self.last_words(cut))
            return
        self.outcome = _TERMINALS.get(tap.terminal or "", Outcome.COMPLETED)
        await client.end(rest)

    async def _pass_whole(self, opened: Opened, kind: bytes) -> None:
        """A JSON answer, read whole before its head is passed on: a 2xx that is no response must not look like one."""
        body = await self._read_whole(opened)
        fields = _object(body)
        if fields is None and kind == b"application/json":
            # Cut short, with the work behind it probably done: the policy's "2xx without usage".
            self.outcome = Outcome.UPSTREAM_CUT
            self._output_bytes = 0
            raise _InvalidAnswer(self.outcome, "The provider's answer was cut short.")
        if fields is None or kind != b"application/json" or _is_error(fields):
            self._record.detail = f"2xx with {kind.decode('latin-1') or 'no content type'}: not a response"
            raise _InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer was not a response.")
        self._usage = parse_usage(fields.get("usage"))
        self._output_bytes = len(body)
        response_id = fields.get("id")
        self._record.response_id = response_id if isinstance(response_id, str) else None
        self.outcome = _STATUSES.get(str(fields.get("status")), Outcome.COMPLETED)
        self._record.state = TRANSITIONS[self._record.state, Event.RELAY]
        self._record.first_byte = time.perf_counter()
        await self._client.answer(
            opened.answer.status, self._head(opened, [(b"content-length", b"%d" % len(body))]), body
        )

    async def _pass_refusal(self, opened: Opened) -> None:
        """An upstream's own refusal goes on unchanged; one of the gateway's account must not read as the caller's."""
        status = opened.answer.status
        self.outcome = Outcome.UPSTREAM_REFUSED
        body = await self._read_whole(opened)
        if status in _OUR_ACCOUNT:
            raise GatewayError(
                "upstream_rejected_gateway", "The provider refused the gateway's own account. Tell its operator."
            )
        if status < 400 or _object(body) is None:  # noqa: PLR2004 - a redirect is no answer
            raise GatewayError("upstream_invalid_response", "The provider's answer was not valid.")
        extra = [(b"content-length", b"%d" % len(body)), (b"x-gateway-limit-source", b"upstream")]
        await self._client.answer(status, self._head(opened, extra), body)

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
                    raise _InvalidAnswer(Outcome.UPSTREAM_CUT, "The provider's answer was too large.")
        except UpstreamFault as fault:
            if self._answered:
                raise
            raise pipeline.fault_error(fault) from None
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
        return headers

    async def drain_or_abort(self) -> None:
        """The client is gone: stop the upstream, or read on for its usage where the operator chose so."""
        opened, tap = self._opened, self._tap
        if opened is None or opened.upstream.policy.on_client_leave == "abort" or tap is None:
            self.abort()
            return
        with contextlib.suppress(TimeoutError, UpstreamFault):
            async with asyncio.timeout(opened.upstream.policy.drain_timeout_s):
                while tap.terminal is None and (data := await opened.answer.read()):
                    tap.feed(data)
                tap.finish()
        self.abort()

    def abort(self) -> None:
        """Closes the upstream's connection if its answer has not been read to the end. Idempotent."""
        if self._opened is not None:
            self._opened.answer.abort()

    def last_words(self, error: GatewayError) -> bytes:
        """What ends a stream that the upstream did not end."""
        if self._tap is None:
            return b""
        self._tap.finish(clean=False)
        origin = endings.Origin(f"resp_{self._record.request_id[4:]}", self._admitted.envelope.model, int(time.time()))
        return endings.failure_frames(self._tap, error, origin)

    def ending(self) -> Ending:
        """What the policy decides on."""
        tap = self._tap
        if tap is None:
            return Ending(self.outcome, self._answered, self._usage, self._output_bytes // 4)
        if self.outcome is Outcome.UPSTREAM_CUT and tap.terminal is not None:
            self.outcome = _TERMINALS[tap.terminal]
        return Ending(self.outcome, self._answered, tap.usage, tap.output_tokens_estimate())


class _InvalidAnswer(GatewayError):
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


def internal_error() -> GatewayError:
    """The error for a bug: nothing of it is shown."""
    return GatewayError("internal_error", "The gateway failed. The operator's log has the reason.")


def _outcome_of(error: GatewayError) -> Outcome:
    if isinstance(error, _InvalidAnswer):
        return error.outcome
    return {
        "upstream_timeout": Outcome.UPSTREAM_TIMEOUT,
        "upstream_rejected_gateway": Outcome.UPSTREAM_REFUSED,
        "upstream_invalid_response": Outcome.UPSTREAM_REFUSED,
    }.get(error.code, Outcome.UPSTREAM_UNREACHABLE)


def _ended_error(reason: Reason) -> GatewayError:
    if reason is Reason.TIMED_OUT:
        return GatewayError("upstream_timeout", "The request took longer than this gateway allows.")
    return GatewayError("shutting_down", "This gateway is stopping.", wait_ms=1000)


def _object(body: bytes) -> dict[str, object] | None:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def _is_error(fields: dict[str, object]) -> bool:
    """An error body behind a 2xx. A response that failed has an error too, and its object says "response"."""
    return bool(fields.get("error")) and fields.get("object") != "response"
