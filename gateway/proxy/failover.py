"""Step 5 of a request: tries the route's candidates until one answers. Nothing has been sent to the client yet.

| result of a candidate                   | consequence                                                   |
|-----------------------------------------|---------------------------------------------------------------|
| its breaker is open, or its keys rest   | the next candidate                                            |
| all candidates rest                     | the key that rests for the shortest time is tried anyway      |
| it cannot be reached                    | the next upstream                                             |
| it fails after the request may have     | the error, unless the route says `repeat_started`             |
|   arrived                               |                                                               |
| 401, 402, 429                           | the next key, then the next upstream                          |
| 5xx                                     | the next upstream                                             |
| 404, 405, 501 for an operation that not | the next upstream; the health of key and model is unaffected  |
|   all upstreams offer                   |                                                               |
| an error under a 200, before the output | the same as for the status that the error stands for          |
| a 4xx that names a field which the      | one retry without the field, which the upstream's policy then |
|   gateway added                         |   remembers                                                   |
| any other answer                        | it is the answer                                              |

An attempt that failed after the request may have started work is noted in `Search.started_attempts`, because its
provider may charge for it. The whole search ends within `failover_s`. If no candidate succeeds, the most helpful
refusal is the answer (refusals.py), or a 503 if there is none. An operation that no upstream offers is a 404.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from gateway.billing.lifecycle import Outcome
from gateway.concurrency.disk_body import SentBody, disk_unavailable
from gateway.errors import Cause, GatewayError
from gateway.http.client import Client
from gateway.observability.request_record import RequestRecord
from gateway.protocol.body_changes import Addition
from gateway.protocol.forwarded_headers import to_upstream
from gateway.protocol.retry_after import retry_after_s
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.offers import not_offered
from gateway.proxy.refusals import NOT_OFFERED, Rank, account_status, rank
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.proxy.upstream_body import UpstreamBody
from gateway.routing.router import Route
from gateway.types import Headers
from gateway.upstream.buffered_answer import BufferedAnswer, read_whole
from gateway.upstream.decoded_answer import uncompressed
from gateway.upstream.health import UpstreamKey
from gateway.upstream.transport import Answer, FaultKind, UpstreamFault
from gateway.upstream.upstream import Upstream
from gateway.upstream.websocket_pool import TurnTransport
from gateway.upstream.websocket_steering import SteeringTransport

_TRY_NEXT_KEY: Final = frozenset({401, 402, 429})
_SUCCESS: Final = range(200, 300)
_NOT_FOUND: Final = 404
_NOT_OFFERED: Final = frozenset({_NOT_FOUND, 405, 501})
_SERVER_ERROR: Final = 500
# An upstream that was not reached, or got half a body, has not started any work, so another one may be asked.
_UNSENT: Final = frozenset(
    {FaultKind.CONNECT, FaultKind.TLS, FaultKind.CONNECT_TIMEOUT, FaultKind.POOL_FULL, FaultKind.BODY_LOST}
)
_MIN_REFUSAL_READ_S: Final = 1.0  # the body of a refusal has at least this time to arrive after its head
_PROXY_TIMEOUTS: Final = frozenset({504, 520, 524})
"""Statuses of servers in front of a provider's own, which may go on with the work (RFC 9110, 15.6.5; Cloudflare)."""
_TIMEOUTS: Final = frozenset({FaultKind.FIRST_BYTE_TIMEOUT, FaultKind.CHUNK_TIMEOUT})


class InvalidAnswer(GatewayError):
    """A 2xx without a valid answer. `outcome` decides what is charged."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__("upstream_invalid_response", message)
        self.outcome = outcome


class NotAnAnswer(Exception):
    """An upstream's answer is an error, and nothing has been sent to the client, so that another one may be tried.

    `status` is the status that the error stands for. `already_read` is what has been read of its body.
    `refused_addition` is a field that the gateway added and the upstream refuses: a retry without it is possible.
    """

    def __init__(
        self, opened: Opened, status: int, already_read: bytes, refused_addition: Addition | None = None
    ) -> None:
        super().__init__(status)
        self.opened = opened
        self.status = status
        self.already_read = already_read
        self.refused_addition = refused_addition


class StartedAttempt(NamedTuple):
    """An attempt without an answer whose upstream may have started work. `reason` is its status or its fault."""

    upstream: str
    reason: str
    has_head: bool = False


class Search:
    """The search of one request through its candidates. It ends at `_deadline_s`, by the monotonic clock.

    Mutable: `_best_answer` (the answer, or else the most helpful refusal so far), `_failure` (the last fault),
    `_is_not_offered` (an upstream does not offer the operation), `_attempted_keys`, and `_excluded` (upstreams for
    which another key would change nothing). `sent`: the current upstream may have the request (`transport.Progress`).
    `started_attempts`: those that failed after that. `turn_transport` sends a turn over a WebSocket.
    """

    __slots__ = (
        "_admitted", "_answered", "_attempted_keys", "_best_answer", "_body", "_client_headers", "_current_upstream",
        "_deadline_s", "_excluded", "_failure", "_given_up", "_headers", "_is_not_offered", "_rank", "_record",
        "_snapshot", "_turn_transport", "sent", "started_attempts",
    )  # fmt: skip

    def __init__(
        self,
        snapshot: ConfigSnapshot,
        admitted: Admitted,
        client: Client,
        record: RequestRecord,
        turn_transport: TurnTransport | SteeringTransport | None = None,
    ) -> None:
        self.sent = False
        self.started_attempts: list[StartedAttempt] = []
        self._current_upstream: Upstream | None = None
        self._answered = False
        self._given_up = False
        self._best_answer: Opened | None = None
        self._failure: GatewayError | None = None
        self._is_not_offered = False
        self._deadline_s = time.monotonic() + snapshot.limits.failover_s
        self._rank: Rank | None = None
        self._turn_transport = turn_transport
        self._snapshot = snapshot
        self._admitted = admitted
        self._headers = _upstream_headers(client, admitted, record)
        self._client_headers = client.headers
        self._record = record
        self._excluded: tuple[str, ...] = ()  # a set would take four times the memory of an open stream's few names
        self._attempted_keys: tuple[UpstreamKey, ...] = ()
        self._body = UpstreamBody(admitted)

    async def open(self) -> Opened:
        """Returns an upstream's answer, of which the head was read. Raises GatewayError if there is none."""
        snapshot, admitted, record = self._snapshot, self._admitted, self._record
        for resting in (False, True):
            # If all keys rest, one is tried anyway: its refusal is more current than the one that made it rest.
            candidates = _candidates(snapshot, admitted, time.monotonic(), resting=resting)
            if (turn_transport := self._turn_transport) is not None:
                candidates.sort(key=lambda one: not turn_transport.prefers(one[0].sockets, one[1].fingerprint))
            for upstream, key in candidates:
                if record.upstream.tried and (self._given_up or time.monotonic() >= self._deadline_s):
                    break
                if self._may_attempt(upstream, key) and await self._attempt(upstream, key):
                    return self._take_answer()
            if self._best_answer is not None:
                return self._take_answer()
        if self._failure is not None and (self._given_up or len(record.upstream.tried) == 1):
            raise self._failure
        if self._is_not_offered and self._failure is None:
            raise not_offered(admitted.target.operation, admitted.route.model)
        raise GatewayError(
            "no_available_provider",
            f"No provider for {admitted.route.model!r} is available just now.",
            wait_ms=_next_probe_ms(snapshot, admitted.route, time.monotonic()),
            cause=Cause("", self._explain_failure(time.monotonic())),
        )

    def _explain_failure(self, now_s: float) -> str:
        """Returns, for operators, why each candidate gave no answer."""
        results: dict[str, str] = {}
        for name, result, _seconds in self._record.upstream.attempts:
            results[name] = f"{results[name]}, {result}" if name in results else f"tried: {result}"
        model, upstreams = self._admitted.route.upstream_model, self._snapshot.upstreams
        return "; ".join(
            f"{name}: {results.get(name) or upstreams[name].unavailable_because(model, now_s) or 'not tried in time'}"
            for name in self._admitted.route.candidates
        )

    async def resume(self, rejected: NotAnAnswer) -> Opened:
        """Continues the search after an error under a 2xx. Returns an answer, or else the most helpful refusal."""
        opened, record, model = rejected.opened, self._record, self._admitted.route.upstream_model
        upstream, key = opened.upstream, opened.key
        if rejected.refused_addition is not None:
            self._body.leave_out(upstream, rejected.refused_addition)
            opened.answer.abort()
            self._best_answer, self._answered = None, False
            return self._take_answer() if await self._attempt(upstream, key) else await self.open()
        name, _, seconds = record.upstream.attempts[-1]
        record.upstream.attempts[-1] = name, str(rejected.status), seconds
        upstream.note_answer(key, model, rejected.status, None, time.monotonic())
        self._best_answer = last_resort = opened._replace(already_read=rejected.already_read, is_last=True)
        self._rank = rank(rejected.status, b"{}", None)
        if rejected.status >= _SERVER_ERROR:
            self._excluded += (name,)
        elif rejected.status not in _TRY_NEXT_KEY:
            return last_resort
        try:
            found = await self.open()
        except GatewayError:
            return last_resort
        if found is not last_resort:
            opened.answer.abort()
        return found

    @property
    def awaited_upstream(self) -> Upstream | None:
        """The upstream that may have the request and has not answered yet, or None."""
        return self._current_upstream if self.sent else None

    def give_up(self) -> None:
        """Ends the search after the current attempt, because no client waits for an answer any more."""
        self._given_up = True

    def unanswered(self, *, ended_by: str) -> StartedAttempt | None:
        """Returns the last attempt that may have started work, if the search ended without the head of an answer.

        The attempt is removed from `started_attempts`. `ended_by` is how the request ended, which becomes the attempt's
        reason if its upstream was still awaited then.
        """
        if (asking := self.awaited_upstream) is not None:
            self.sent = False
            return StartedAttempt(asking.name, ended_by)
        if not self._answered:
            for at in reversed(range(len(self.started_attempts))):
                if not self.started_attempts[at].has_head:
                    return self.started_attempts.pop(at)
        return None

    def _may_attempt(self, upstream: Upstream, key: UpstreamKey) -> bool:
        return (
            upstream.enabled
            and upstream.name not in self._excluded
            and key not in self._attempted_keys
            and upstream.health.allows(self._admitted.route.upstream_model, time.monotonic())
        )

    def _take_answer(self) -> Opened:
        """Returns the answer, and notes in the request's record which upstream gave it."""
        found = self._best_answer
        if found is None:
            raise LookupError("no upstream has answered")
        self._answered = True
        self._record.upstream.name, self._record.upstream.status = found.upstream.name, found.answer.status
        return found

    async def _attempt(self, upstream: Upstream, key: UpstreamKey) -> bool:
        """Tries one key. Returns whether there is an answer. Raises GatewayError if no other candidate may be tried."""
        admitted, record, name = self._admitted, self._record, upstream.name
        self._attempted_keys += (key,)
        record.upstream.tried.append(f"{name}#{key.number}")
        record.upstream.name = name
        headers, target, model = self._headers, admitted.target, admitted.route.upstream_model
        if upstream.additions is not None:
            headers = upstream.additions.forwarded(headers, self._client_headers)
        if record.trace is not None:
            headers = headers + record.trace.attempt(name, *upstream.address, model, admitted.request.max_output_tokens)
        began, began_s = time.perf_counter(), time.monotonic()
        self._current_upstream = upstream
        try:
            body, added = await self._body.build_for(upstream)
            method, turn_transport = target.operation.method.encode(), self._turn_transport
            answer = await (
                upstream.attempt(key, method, target.path, headers, body, self)
                if turn_transport is None or isinstance(body, SentBody)
                else upstream.attempt_on_socket(turn_transport, key, target.path, headers, body, self)
            )
        except UpstreamFault as fault:
            self.sent = False
            record.upstream.attempts.append((name, fault.kind.value, time.perf_counter() - began))
            self._note_fault(upstream, fault, began_s)
            return False
        except BaseException as error:
            upstream.health.released(model)
            if isinstance(error, ValueError):
                raise GatewayError("invalid_field", f"The request cannot be passed on: {error}.") from None
            raise
        self.sent, status = False, answer.status
        record.upstream.attempts.append((name, str(status), time.perf_counter() - began))
        if status in _NOT_OFFERED and target.operation.may_be_missing and not target.operation.by_id:
            await self._note_missing(upstream, key, answer)
            return False
        if status < _SERVER_ERROR and status not in _TRY_NEXT_KEY:
            if status not in _SUCCESS:  # a 2xx is noted by `Exchange.confirm`, once it has proved to be an answer
                upstream.note_answer(key, model, status, None, time.monotonic())
            self._best_answer = Opened(upstream, key, answer, added, self._body.output_bound)
            if self._body.refused:
                self._best_answer = self._best_answer._replace(refused=self._body.refused_by(upstream))
            return True
        await self._keep_refusal(upstream, key, answer)
        return False

    async def _note_missing(self, upstream: Upstream, key: UpstreamKey, answer: Answer) -> None:
        """Excludes an upstream that does not offer the operation. Its 404 is the answer if no better one follows."""
        self._is_not_offered = True
        self._excluded += (upstream.name,)
        upstream.health.released(self._admitted.route.upstream_model)
        if answer.status != _NOT_FOUND or self._best_answer is not None:
            answer.abort()
            return
        timeout_s = max(_MIN_REFUSAL_READ_S, self._deadline_s - time.monotonic())
        self._rank = NOT_OFFERED
        self._best_answer = Opened(upstream, key, await read_refusal(answer, upstream, timeout_s))

    async def _keep_refusal(self, upstream: Upstream, key: UpstreamKey, answer: Answer) -> None:
        """Reads a refusal, and keeps it if it is more helpful than the earlier ones. Its connection becomes free."""
        if answer.status in _PROXY_TIMEOUTS:
            self.started_attempts.append(StartedAttempt(upstream.name, str(answer.status), has_head=True))
        try:
            timeout_s = max(_MIN_REFUSAL_READ_S, self._deadline_s - time.monotonic())
            whole = await read_refusal(answer, upstream, timeout_s)
        except BaseException:
            upstream.health.released(self._admitted.route.upstream_model)
            raise
        wait_s = retry_after_s(whole.headers, time.time())
        status = account_status(whole.status, whole.body)
        upstream.note_answer(key, self._admitted.route.upstream_model, status, wait_s, time.monotonic())
        if status >= _SERVER_ERROR:
            self._excluded += (upstream.name,)
        its_rank = rank(status, whole.body, wait_s)
        if self._rank is None or its_rank > self._rank:
            self._rank = its_rank
            self._best_answer = Opened(upstream, key, whole)

    def _note_fault(self, upstream: Upstream, fault: UpstreamFault, began_s: float) -> None:
        upstream.note_fault(fault, self._admitted.route.upstream_model, began_s, time.monotonic())
        self._excluded += (upstream.name,)
        self._record.detail = str(fault)
        self._failure = fault_error(fault)
        if fault.sent and fault.kind not in _UNSENT:
            self.started_attempts.append(StartedAttempt(upstream.name, fault.kind.value))
            if not self._admitted.route.rule.repeat_started:
                raise self._failure from None


async def read_refusal(answer: Answer, upstream: Upstream, timeout_s: float) -> BufferedAnswer:
    """Reads a refusal to its end or to one of its bounds."""
    return await read_whole(uncompressed(answer), upstream.policy.max_answer_bytes, timeout_s)


def fault_error(fault: UpstreamFault, *, answer_begun: bool = False) -> GatewayError:
    """Returns the error that a client receives for a transport's failure. The detail is only for the log.

    An answer that had begun is charged. `answer_begun` therefore keeps clients from repeating the request by
    themselves.
    """
    repeat_helps = not answer_begun
    if fault.kind in _TIMEOUTS:
        return GatewayError("upstream_timeout", "The provider did not answer in time.", repeat_helps=repeat_helps)
    if fault.kind in (FaultKind.PROTOCOL, FaultKind.TOO_LARGE, FaultKind.CUT):
        return GatewayError(
            "upstream_invalid_response", "The provider's answer was not valid.", repeat_helps=repeat_helps
        )
    if fault.kind is FaultKind.BODY_LOST:
        return disk_unavailable(fault.detail)
    if fault.kind is FaultKind.POOL_FULL:
        return GatewayError("no_available_provider", "All connections to the provider are in use.", wait_ms=1000)
    return GatewayError("upstream_unreachable", "The provider could not be reached.", repeat_helps=repeat_helps)


def _candidates(
    snapshot: ConfigSnapshot, admitted: Admitted, now_s: float, *, resting: bool = False
) -> list[tuple[Upstream, UpstreamKey]]:
    found: list[tuple[Upstream, UpstreamKey]] = []
    model = admitted.route.upstream_model
    for name in admitted.route.candidates:
        upstream = snapshot.upstreams[name]
        keys = upstream.keys.keys if resting else upstream.keys.candidates(model, now_s, admitted.route.session)
        for key in keys:
            found.append((upstream, key))  # noqa: PERF401 - there is usually one candidate, and a comprehension costs a call
    if resting:
        found.sort(key=lambda candidate: candidate[1].resting_until_s(model))
    if admitted.route.key_fingerprint:  # admission has checked that there is such a key
        return [(upstream, key) for upstream, key in found if key.fingerprint == admitted.route.key_fingerprint]
    if admitted.known_response is None:
        return found
    # A response belongs to the key that created it. If that key was rotated, the upstream's other keys are used.
    makers = [(upstream, key) for upstream, key in found if key.fingerprint == admitted.known_response.upstream_key]
    known = any(
        key.fingerprint == admitted.known_response.upstream_key
        for name in admitted.route.candidates
        for key in snapshot.upstreams[name].keys.keys
    )
    return makers if known else found


def _next_probe_ms(snapshot: ConfigSnapshot, route: Route, now_s: float) -> int:
    """Returns in how many milliseconds the first breaker permits a probe, at least a second."""
    waits = [snapshot.upstreams[name].health.wait_s(route.upstream_model, now_s) for name in route.candidates]
    return max(1000, int(min((wait for wait in waits if wait > 0), default=1.0) * 1000))


def _upstream_headers(client: Client, admitted: Admitted, record: RequestRecord) -> Headers:
    is_a_form, of_dialect = admitted.request.form is not None, admitted.target.operation.dialect.headers
    headers = [
        (b"content-type", client.fields[b"content-type"] if is_a_form else b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"x-request-id", record.request_id.encode()),
    ]
    return headers + to_upstream(client.headers, of_dialect, traced=record.trace is not None)
