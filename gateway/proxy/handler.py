"""Runs the nine steps of a request, and is the one exit through which every request leaves.

    1-5 open     admission.py, failover.py  Authorization, body, route, hold, an upstream that answers
    6 relay      Opened -> bytes            Relay.run
    7, 8 settle  ExchangeResult -> Settlement -> the ledger   Settler.settle
    9 record     -> one log line            RequestLog.write; Counters.note

From step 4 on a request holds credits and a slot. `RequestHandler` therefore runs steps 7 to 9 exactly once, whatever
happens: an error, a client that leaves, a deadline, a shutdown, or a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway.billing.lifecycle import TRANSITIONS, Event, Outcome
from gateway.concurrency.cancellation import CancelScope, Reason, ScopeCancelled
from gateway.errors import GatewayError
from gateway.http.auth_throttle import AuthThrottle
from gateway.http.client import Client, ClientDisconnected
from gateway.identity.api_keys import key_of_request
from gateway.ledger.known_responses import KnownResponses
from gateway.ledger.ledger import Ledger
from gateway.observability.metrics.counters import Counters
from gateway.observability.request_log import RequestLog
from gateway.observability.request_record import ErrorSummary, RequestRecord, Trace
from gateway.protocol.operations import Operation, Target
from gateway.proxy import admission
from gateway.proxy.admission import Admitted
from gateway.proxy.admitting import SummaryMaker, admit
from gateway.proxy.answer_record import AnswerRecord
from gateway.proxy.background_runner import BackgroundRunner
from gateway.proxy.call_limit import CallLimit
from gateway.proxy.dry_run import answer_dry_run, is_dry_run
from gateway.proxy.early_stream import early_client
from gateway.proxy.exchange import Exchange
from gateway.proxy.failover import NotAnAnswer, Search, fault_error
from gateway.proxy.outcomes import ENDED_BY, ended_error, internal_error, outcome_of
from gateway.proxy.output_cap import CapReached
from gateway.proxy.relay import Relay
from gateway.proxy.settling import Settler
from gateway.proxy.snapshot import ActiveSnapshot, ConfigSnapshot
from gateway.proxy.stored_answers import LocalResponder, answer_locally, pass_on, serve_stored
from gateway.state.background_turn import BackgroundTurn
from gateway.state.stored_calls import LocalAnswer, LocalStream
from gateway.state.turns import Turns, TurnSource
from gateway.types import Headers
from gateway.upstream.transport import FaultKind, UpstreamFault
from gateway.upstream.websocket_pool import TurnTransport
from gateway.upstream.websocket_steering import SteeringTransport

SWEEP_S: Final = 1.0
"""How often `RequestHandler.end_overdue` is to be called."""


class RequestHandler:
    """Serves the requests of one worker.

    `on_end` is called with the record of each request that has ended. `begin_trace` is called for each request that
    begins, if traces are on. `turns` gives access to the responses that the gateway stores, `background` runs
    background responses, and `compactor` makes summaries of long conversations.

    State that changes: `snapshot` (a reload replaces it, and running requests keep theirs), `running` (the requests
    that talk to an upstream, by the scope that can cancel each), `following` (the scopes of clients that follow a
    background response), `streams` (how many requests stream), `stopping`, `request_count` (requests since the start).
    """

    def __init__(
        self,
        snapshot: ConfigSnapshot,
        ledger: Ledger,
        responses: KnownResponses,
        log: RequestLog,
        counters: Counters,
        throttle: AuthThrottle,
        *,
        total_timeout_s: float,
        numeric_codes: bool,
    ) -> None:
        self.on_end: Callable[[RequestRecord], None] | None = None
        self.turns: Turns | None = None
        self.background: BackgroundRunner | None = None
        self.compactor: SummaryMaker | None = None
        self.following: set[CancelScope] = set()
        self.begin_trace: Callable[[RequestRecord, Operation, Headers], Trace] | None = None
        self._active_snapshot = ActiveSnapshot(snapshot)
        self.running: dict[CancelScope, Relay] = {}
        self.stopping = False
        self.request_count = 0
        self._drained = False
        self.streams = 0
        self._ledger = ledger
        self._responses = responses
        self.settler = Settler(ledger, responses)
        self._log = log
        self._loop = asyncio.get_running_loop()  # read once, because Python 3.11 makes a system call each time
        self._counters = counters
        self._throttle = throttle
        self._dry_runs, self._token_counts = CallLimit("dry runs"), CallLimit("counts of tokens")
        self._total_timeout_s = total_timeout_s
        self._numeric_codes = numeric_codes
        self._diagnostics = structlog.get_logger("gateway.relay")

    async def __call__(
        self,
        target: Target,
        client: Client,
        turns: TurnSource | None = None,
        responder: LocalResponder | None = None,
        turn_transport: TurnTransport | SteeringTransport | None = None,
    ) -> None:
        """Serves one request, from its first byte to its log line.

        `turns` begins turns on routes with state, instead of `self.turns`. `responder` gives an answer without an
        upstream: see `answer_locally`. `turn_transport` sends a turn over a WebSocket: see `Search`.
        """
        scope, address = client.scope, self._throttle.addresses.of(client.scope)
        record = RequestRecord(
            self._ledger.new_request_id(), scope["method"], scope["path"], target.operation.route, address
        )
        if self.begin_trace is not None:
            record.trace = self.begin_trace(record, target.operation, client.headers)
        self.request_count += 1
        active = self._active_snapshot
        active.requests += 1
        runs_in_background = False  # it goes on after its client was answered
        try:
            admitted = await self._admit(active.snapshot, target, client, record, turns or self.turns, responder)
            if admitted is not None:
                if isinstance(admitted.turn, BackgroundTurn) and self.background is not None:
                    runs_in_background = True
                    answer = self.background.accept(
                        admitted, admitted.turn, client, record, lambda: self._end(active, client, record)
                    )
                    await self._pass_on(answer, client, record)
                else:
                    await self.exchange(admitted, client, record, turn_transport)
        finally:
            if not runs_in_background:
                self._end(active, client, record)

    def _end(self, active: ActiveSnapshot, client: Client, record: RequestRecord) -> None:
        active.requests -= 1
        if record.body_held_bytes:
            active.snapshot.body_memory.give_back(record.body_held_bytes)
        if record.spooled_form is not None:
            record.spooled_form.close()
        self.record_end(client, record)

    def record_end(self, client: Client, record: RequestRecord) -> None:
        """Runs step 9: counts the request, and writes its log line. To be called once for every request."""
        record.status = record.early_refusal or client.status or 0
        record.bytes_out = client.bytes_out
        record.times.first_byte = client.first_byte
        record.times.ended = time.perf_counter()
        self._counters.note(record)
        self._log.write(record)
        if self.on_end is not None:
            self.on_end(record)
        if record.trace is not None:
            record.trace.end(record)

    @property
    def snapshot(self) -> ConfigSnapshot:
        """The configuration that the next request runs on."""
        return self._active_snapshot.snapshot

    def replace_snapshot(self, snapshot: ConfigSnapshot) -> ActiveSnapshot:
        """Sets the configuration of the requests to come. Returns the old one, which running requests keep."""
        replaced, self._active_snapshot = self._active_snapshot, ActiveSnapshot(snapshot)
        return replaced

    async def end_overdue(self) -> None:
        """Ends the requests whose time or whose answer is over. One sweep for all spares each a timer of its own."""
        now_s = self._loop.time()
        for cancel_scope, relay in list(self.running.items()):
            if cancel_scope.deadline_s <= now_s:
                cancel_scope.cancel(Reason.TIMED_OUT)
            elif relay.check_times(now_s):
                cancel_scope.cancel(Reason.ENDED)
        for cancel_scope in list(self.following):
            if cancel_scope.deadline_s <= now_s:
                cancel_scope.cancel(Reason.TIMED_OUT)

    async def run_background(self) -> None:
        """Runs a round of the background responses. Raises GatewayError `store_unavailable`."""
        if self.background is not None and (self.snapshot.keeps_state or self.background.running):
            await self.background.round()

    async def renew_conversations(self) -> None:
        """Renews the locks of running turns. Raises GatewayError `store_unavailable`."""
        if self.turns is not None:
            await self.turns.conversations.renew_locks()

    def drain(self, timeout_s: float) -> None:
        """Begins to stop. Requests that run for longer than `timeout_s` are ended, streams with their closing events.

        The server accepts no new connections meanwhile, but requests on open connections are still served. A reverse
        proxy that has not noticed the shutdown would otherwise pass a refusal to its client.
        """
        self.stopping = True
        self._ledger.queue.stop()
        self._loop.call_later(timeout_s, self.end_all)

    def end_all(self) -> None:
        """Ends all running requests, and admits no more."""
        self._drained = True
        for cancel_scope in [*self.running, *self.following]:
            cancel_scope.cancel(Reason.SHUT_DOWN)
        if self.background is not None:
            self.background.stop()

    async def _admit(
        self,
        snapshot: ConfigSnapshot,
        target: Target,
        client: Client,
        record: RequestRecord,
        turns: TurnSource | None,
        responder: LocalResponder | None,
    ) -> Admitted | None:
        """Runs steps 1 to 4. Returns None if the client has its answer already, for example a refusal."""
        try:
            if self._drained:
                self._refuse_drained()
            if is_dry_run(client):
                await self._preview(snapshot, target, client, record)
                return None
            if target.response_id is not None and self.turns is not None and snapshot.keeps_state:
                answer = await serve_stored(self.turns, self._responses, target, client, record)
                if answer is not None:
                    await self._pass_on(answer, client, record)
                    return None
            if target.operation.charge == "free":
                self._token_counts.take(key_of_request(client.fields), snapshot.limits.token_counts_per_minute)
            routed = await admission.prepare(snapshot, self._responses, target, client, record, turns)
            may_answer_locally = responder is not None or target.operation.counts_input
            if may_answer_locally and await answer_locally(responder, routed, self._responses, client, record):
                return None
            return await admit(snapshot, self._ledger, routed, client, record, self.compactor)
        except GatewayError as error:
            await self.refuse(target.operation, client, record, self._throttle.throttle(client.scope, error))
        except ClientDisconnected:
            record.outcome = Outcome.CLIENT_LEFT
        except Exception:  # noqa: BLE001 - the one exit: a bug is logged and answered, and leaves nothing behind
            self._diagnostics.exception("admission_failed", request_id=record.request_id)
            await self.refuse(target.operation, client, record, internal_error())
        record.state = TRANSITIONS[record.state, Event.REFUSE]
        return None

    @staticmethod
    def _refuse_drained() -> None:
        raise GatewayError("shutting_down", "This gateway is stopping. Try again.", wait_ms=1000)

    async def _preview(self, snapshot: ConfigSnapshot, target: Target, client: Client, record: RequestRecord) -> None:
        """Runs steps 1 to 4 without any effect, for a request that asks for a dry run."""
        self._dry_runs.take(key_of_request(client.fields), snapshot.limits.dry_runs_per_minute)
        routed = await admission.prepare(snapshot, self._responses, target, client, record, self.turns)
        await answer_dry_run(routed, self._ledger, client, record)

    async def exchange(
        self,
        admitted: Admitted,
        client: Client,
        record: RequestRecord,
        turn_transport: TurnTransport | SteeringTransport | None = None,
    ) -> None:
        """Runs steps 5 to 8 for an admitted request. This is the one exit: it settles whatever happens."""
        turn, early = admitted.turn, None
        if admitted.route.rule.early_keepalive_s is not None and (early := early_client(client, admitted, record)):
            client = early
        exchange = Exchange(admitted, client, record, AnswerRecord())
        relay = Relay(exchange, self._responses if self._is_remembered_early(admitted) else None)
        search = Search(admitted.snapshot, admitted, client, record, turn_transport)
        record.rates = admitted.admission.rates
        if early is not None:
            early.closing = relay.closing_before_any_event
        try:
            with contextlib.nullcontext() if early is None else early.waiting():
                await self._run(relay, search)
        except GatewayError as error:
            # Nothing has been sent, so the gateway answers itself.
            exchange.answer.outcome = outcome_of(error)
            await self.refuse(admitted.target.operation, client, record, error)
        except Exception:  # noqa: BLE001 - the one exit: a bug is answered, settled and logged
            exchange.answer.outcome = Outcome.INTERNAL_ERROR
            self._diagnostics.exception("request_failed", request_id=record.request_id)
            with contextlib.suppress(Exception):
                await self._end_broken(relay, internal_error())
        finally:
            answered = client.status is not None and client.status < 400  # noqa: PLR2004 - the range is HTTP's
            record.times.relayed = time.perf_counter()
            await self.settler.settle(exchange, search, answered=answered)
            if turn is not None:
                await asyncio.shield(turn.close())

    async def _pass_on(self, answer: LocalAnswer | LocalStream, client: Client, record: RequestRecord) -> None:
        deadline_s = self._loop.time() + self._total_timeout_s
        await pass_on(answer, client, record.request_id, self.following, deadline_s)

    def _is_remembered_early(self, admitted: Admitted) -> bool:
        """Whether other requests may refer to a stream's response while its own request still runs."""
        request, named = admitted.request, admitted.target.operation.makes_response
        is_kept = named and request.store and admitted.route.rule.state == "upstream"
        return is_kept and request.stream and self._responses.remembers

    async def _run(self, relay: Relay, search: Search) -> None:
        """Runs steps 5 and 6. Whatever ends the answer, the upstream is released here before the stream is closed."""
        _, client, record, answer = relay.exchange
        cancel_scope = CancelScope(self._loop.time() + self._total_timeout_s, self._loop)
        self.running[cancel_scope] = relay
        self.streams += record.stream
        watch = client.watch(lambda: relay.client_left(cancel_scope, search))
        try:
            try:
                with cancel_scope:
                    await self._pass_answer(relay, search, record)
            finally:
                relay.close()
        except CapReached:
            await relay.end_at_cap()
        except ScopeCancelled as ended:
            if ended.reason is Reason.ENDED:
                await relay.end()
                return
            answer.outcome = ENDED_BY[ended.reason]
            if ended.reason not in (Reason.CLIENT_LEFT, Reason.CANCELLED):
                await self._end_broken(relay, ended_error(ended.reason))
        except UpstreamFault as fault:
            record.detail = str(fault)
            is_stalled = fault.kind is FaultKind.CHUNK_TIMEOUT
            answer.outcome = Outcome.UPSTREAM_STALLED if is_stalled else Outcome.UPSTREAM_CUT
            await self._end_broken(relay, fault_error(fault, answer_begun=True))
        finally:
            watch.close()
            del self.running[cancel_scope]
            self.streams -= record.stream

    @staticmethod
    async def _pass_answer(relay: Relay, search: Search, record: RequestRecord) -> None:
        """Runs steps 5 and 6: tries upstreams until one gives a valid answer, and passes that on."""
        opened = await search.open()
        while True:
            record.times.opened = time.perf_counter()
            try:
                await relay.run(opened)
            except NotAnAnswer as rejected:
                opened = await search.resume(rejected)
            else:
                return

    async def _end_broken(self, relay: Relay, error: GatewayError) -> None:
        """Reports a failure to the client: as the answer, or at the end of a stream that has begun."""
        admitted, client, record, _ = relay.exchange
        if client.status is None:
            await self.refuse(admitted.target.operation, client, record, error)
        else:
            await relay.end_broken(error)

    async def refuse(self, operation: Operation, client: Client, record: RequestRecord, error: GatewayError) -> None:
        """Answers with an error of the gateway's own, in the format of the operation's dialect."""
        record.code = error.code
        record.refusal = ErrorSummary(error.message, error.explain, error.cause.reason)
        record.detail = error.cause.detail or record.detail
        error_body = operation.dialect.error_body(error, record.request_id, self._numeric_codes)
        status, headers, body = error.render(error_body)
        if record.queued_ms is not None:
            headers.append((b"x-gateway-queued-ms", b"%d" % record.queued_ms))
        headers += [*record.rates.headers(), (b"x-request-id", record.request_id.encode())]
        await client.answer(status, headers, body)
