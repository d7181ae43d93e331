"""Step 5 of a request: asks the route's candidates until one answers. Nothing has been sent to the client yet.

| a candidate                             | then                                                          |
|-----------------------------------------|---------------------------------------------------------------|
| its breaker is open, its keys rest      | the next                                                      |
| rests, and nobody else has answered     | the one that rests shortest is asked nevertheless             |
| cannot be reached                       | the next upstream                                             |
| fails after the request may have arrived| the error, unless the route says `repeat_started`             |
| 401, 402, 429                           | the next key, then the next upstream                          |
| 5xx                                     | the next upstream                                             |
| 404, 405, 501 to what not all upstreams | the next upstream; it says nothing about the model or the key |
|   offer                                 |                                                               |
| an error under a 200, before the output | as the status that it stands for                              |
| 4xx that names a field which the gateway| the same once more, without it; remembered                    |
|   added                                 |                                                               |
| any other answer                        | it is the answer                                              |

An attempt that failed after the request may have begun there is kept in `Search.begun`: its provider may charge for it.
All of it ends within `failover_s`. If no candidate succeeds, the most helpful refusal is the answer (refusals.py), or
503 if there is none to pass on. What nobody offers is a 404.
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
from gateway.upstream.websocket_pool import Passage
from gateway.upstream.websocket_steering import SteeringPassage

_NEXT_KEY: Final = frozenset({401, 402, 429})
_SUCCESS: Final = range(200, 300)
_NOT_FOUND: Final = 404
_NOT_OFFERED: Final = frozenset({_NOT_FOUND, 405, 501})
_SERVER_ERROR: Final = 500
# An upstream that was not reached, or got half a body, has not started any work, so another one may be asked.
_UNSENT: Final = frozenset(
    {FaultKind.CONNECT, FaultKind.TLS, FaultKind.CONNECT_TIMEOUT, FaultKind.POOL_FULL, FaultKind.BODY_LOST}
)
_REFUSAL_S: Final = 1.0  # the least time that the body of a refusal has to arrive after its head
_WAITED_IN_VAIN: Final = frozenset({504, 520, 524})
"""Statuses of servers in front of a provider's own, which may go on with the work (RFC 9110, 15.6.5; Cloudflare)."""
_TIMEOUTS: Final = frozenset({FaultKind.FIRST_BYTE_TIMEOUT, FaultKind.CHUNK_TIMEOUT})


class InvalidAnswer(GatewayError):
    """A 2xx that is no answer; `outcome` says what the policy goes by."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__("upstream_invalid_response", message)
        self.outcome = outcome


class NotAnAnswer(Exception):
    """An upstream's answer turned out to be none, and nothing has been sent to the client: another may be asked.

    `status`: what it stands for. `read`: what has been read of its body. `refused`: what the gateway added to the
    request, and what it refuses: it may be asked once more without it.
    """

    def __init__(self, opened: Opened, status: int, read: bytes, refused: Addition | None = None) -> None:
        super().__init__(status)
        self.opened = opened
        self.status = status
        self.read = read
        self.refused = refused


class Begun(NamedTuple):
    """An attempt that gave no answer, and may have begun the work. `reason`: the status or the fault in its place."""

    upstream: str
    reason: str
    has_head: bool = False


class Search:
    """The search of one request through its candidates.

    Mutable: `_refused` (the most helpful refusal so far, or the answer), `_failure` (the last failure without an
    answer), `_missing` (an upstream does not offer the operation), and the candidates that have been asked. It ends at
    `_until_s` (monotonic). `sent`: the upstream that is being asked may have the request (transport.Progress).
    `begun`: attempts that failed after that. `over`: how a turn of a client's socket goes over sockets of upstreams.
    """

    __slots__ = (
        "_admitted", "_answered", "_asked", "_asking", "_body", "_client_headers", "_down", "_failure", "_given_up",
        "_headers", "_missing", "_over", "_rank", "_record", "_refused", "_snapshot", "_until_s", "begun", "sent",
    )  # fmt: skip

    def __init__(
        self,
        snapshot: ConfigSnapshot,
        admitted: Admitted,
        client: Client,
        record: RequestRecord,
        over: Passage | SteeringPassage | None = None,
    ) -> None:
        self.sent = False
        self.begun: list[Begun] = []
        self._asking: Upstream | None = None
        self._answered = False
        self._given_up = False
        self._refused: Opened | None = None
        self._failure: GatewayError | None = None
        self._missing = False
        self._until_s = time.monotonic() + snapshot.limits.failover_s
        self._rank: Rank | None = None
        self._over = over
        self._snapshot = snapshot
        self._admitted = admitted
        self._headers = _upstream_headers(client, admitted, record)
        self._client_headers = client.headers
        self._record = record
        self._down: set[str] = set()  # upstreams for which another key would change nothing
        self._asked: set[UpstreamKey] = set()
        self._body = UpstreamBody(admitted)

    async def open(self) -> Opened:
        """An upstream's answer, its head read. Raises GatewayError when there is none."""
        snapshot, admitted, record = self._snapshot, self._admitted, self._record
        for resting in (False, True):
            # What the provider says now is better than what it said to somebody else, some time ago.
            candidates = _candidates(snapshot, admitted, time.monotonic(), resting=resting)
            if (over := self._over) is not None:
                candidates.sort(key=lambda one: not over.prefers(one[0].sockets, one[1].fingerprint))
            for upstream, key in candidates:
                if record.upstream.tried and (self._given_up or time.monotonic() >= self._until_s):
                    break
                if self._is_worth_asking(upstream, key) and await self._ask(upstream, key):
                    return self._told()
            if self._refused is not None:
                return self._told()
        if self._failure is not None and (self._given_up or len(record.upstream.tried) == 1):
            raise self._failure
        if self._missing and self._failure is None:
            raise not_offered(admitted.target.operation, admitted.route.model)
        raise GatewayError(
            "no_available_provider",
            f"No provider for {admitted.route.model!r} is available just now.",
            wait_ms=_soonest_ms(snapshot, admitted.route, time.monotonic()),
            cause=Cause("", self._why_nobody(time.monotonic())),
        )

    def _why_nobody(self, now_s: float) -> str:
        """Says of each candidate why it gives no answer, for operators."""
        results: dict[str, str] = {}
        for name, result, _seconds in self._record.upstream.attempts:
            results[name] = f"{results[name]}, {result}" if name in results else f"asked: {result}"
        model, upstreams = self._admitted.route.upstream_model, self._snapshot.upstreams
        return "; ".join(
            f"{name}: {results.get(name) or upstreams[name].unavailable_because(model, now_s) or 'not asked in time'}"
            for name in self._admitted.route.candidates
        )

    async def go_on(self, refused: NotAnAnswer) -> Opened:
        """A better answer than one that was none; where there is none, the most helpful of the refusals."""
        opened, record, model = refused.opened, self._record, self._admitted.route.upstream_model
        upstream, key = opened.upstream, opened.key
        if refused.refused is not None:
            self._body.leave_out(upstream, refused.refused)
            opened.answer.abort()
            self._refused, self._answered = None, False
            return self._told() if await self._ask(upstream, key) else await self.open()
        name, _, seconds = record.upstream.attempts[-1]
        record.upstream.attempts[-1] = name, str(refused.status), seconds
        upstream.note_answer(key, model, refused.status, None, time.monotonic())
        self._refused = last_resort = opened._replace(read=refused.read, is_last=True)
        self._rank = rank(refused.status, b"{}", None)
        if refused.status >= _SERVER_ERROR:
            self._down.add(name)
        elif refused.status not in _NEXT_KEY:
            return last_resort
        try:
            found = await self.open()
        except GatewayError:
            return last_resort
        if found is not last_resort:
            opened.answer.abort()
        return found

    @property
    def waits_for(self) -> Upstream | None:
        """The upstream that may have the request, and has not answered it yet."""
        return self._asking if self.sent else None

    def give_up(self) -> None:
        """Nobody waits for an answer any more: no other candidate is asked."""
        self._given_up = True

    def unanswered(self, *, ended_by: str) -> Begun | None:
        """The attempt that may have begun the work and got no head, where the whole search ended without an answer.

        `ended_by`: how the request ended, if an upstream was still being asked then. It is taken from `begun`.
        """
        if (asking := self.waits_for) is not None:
            self.sent = False
            return Begun(asking.name, ended_by)
        if not self._answered:
            for at in reversed(range(len(self.begun))):
                if not self.begun[at].has_head:
                    return self.begun.pop(at)
        return None

    def _is_worth_asking(self, upstream: Upstream, key: UpstreamKey) -> bool:
        return (
            upstream.enabled
            and upstream.name not in self._down
            and key not in self._asked
            and upstream.health.allows(self._admitted.route.upstream_model, time.monotonic())
        )

    def _told(self) -> Opened:
        """The answer: the record says who gave it."""
        found = self._refused
        if found is None:
            raise LookupError("nobody has answered")
        self._answered = True
        self._record.upstream.name, self._record.upstream.status = found.upstream.name, found.answer.status
        return found

    async def _ask(self, upstream: Upstream, key: UpstreamKey) -> bool:
        """Whether the search is over: there is an answer. Raises GatewayError where it must not go on."""
        admitted, record, name = self._admitted, self._record, upstream.name
        self._asked.add(key)
        record.upstream.tried.append(f"{name}#{key.number}")
        record.upstream.name = name
        headers, target, model = self._headers, admitted.target, admitted.route.upstream_model
        if upstream.additions is not None:
            headers = upstream.additions.forwarded(headers, self._client_headers)
        if record.trace is not None:
            headers = headers + record.trace.attempt(name, *upstream.address, model, admitted.request.max_output_tokens)
        began, began_s = time.perf_counter(), time.monotonic()
        self._asking = upstream
        try:
            body, added = await self._body.made_for(upstream)
            method, over = target.operation.method.encode(), self._over
            answer = await (
                upstream.attempt(key, method, target.path, headers, body, self)
                if over is None or isinstance(body, SentBody)
                else upstream.attempt_over(over, key, target.path, headers, body, self)
            )
        except UpstreamFault as fault:
            self.sent = False
            record.upstream.attempts.append((name, fault.kind.value, time.perf_counter() - began))
            self._failed(upstream, fault, began_s)
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
        if status < _SERVER_ERROR and status not in _NEXT_KEY:
            if status not in _SUCCESS:  # of a 2xx `confirm` tells, when it has turned out to be an answer
                upstream.note_answer(key, model, status, None, time.monotonic())
            elif self._body.refused:
                self._body.note_taken(upstream)
            self._refused = Opened(upstream, key, answer, added, self._body.output_bound)
            return True
        await self._refuse(upstream, key, answer)
        return False

    async def _note_missing(self, upstream: Upstream, key: UpstreamKey, answer: Answer) -> None:
        """Goes on without an upstream that does not offer the operation; its 404 stays the answer if none is better."""
        self._missing = True
        self._down.add(upstream.name)
        upstream.health.released(self._admitted.route.upstream_model)
        if answer.status != _NOT_FOUND or self._refused is not None:
            answer.abort()
            return
        timeout_s = max(_REFUSAL_S, self._until_s - time.monotonic())
        self._rank = NOT_OFFERED
        self._refused = Opened(upstream, key, await read_refusal(answer, upstream, timeout_s))

    async def _refuse(self, upstream: Upstream, key: UpstreamKey, answer: Answer) -> None:
        """Keeps a refusal where it is more helpful than the others: its body is read, its connection is free."""
        if answer.status in _WAITED_IN_VAIN:
            self.begun.append(Begun(upstream.name, str(answer.status), has_head=True))
        try:
            timeout_s = max(_REFUSAL_S, self._until_s - time.monotonic())
            whole = await read_refusal(answer, upstream, timeout_s)
        except BaseException:
            upstream.health.released(self._admitted.route.upstream_model)
            raise
        wait_s = retry_after_s(whole.headers, time.time())
        status = account_status(whole.status, whole.body)
        upstream.note_answer(key, self._admitted.route.upstream_model, status, wait_s, time.monotonic())
        if status >= _SERVER_ERROR:
            self._down.add(upstream.name)
        its_rank = rank(status, whole.body, wait_s)
        if self._rank is None or its_rank > self._rank:
            self._rank = its_rank
            self._refused = Opened(upstream, key, whole)

    def _failed(self, upstream: Upstream, fault: UpstreamFault, began_s: float) -> None:
        upstream.note_fault(fault.kind, self._admitted.route.upstream_model, began_s, time.monotonic())
        self._down.add(upstream.name)
        self._record.detail = str(fault)
        self._failure = fault_error(fault)
        if fault.sent and fault.kind not in _UNSENT:
            self.begun.append(Begun(upstream.name, fault.kind.value))
            if not self._admitted.route.rule.repeat_started:
                raise self._failure from None


async def read_refusal(answer: Answer, upstream: Upstream, timeout_s: float) -> BufferedAnswer:
    """Reads a refusal to its end or to one of its bounds."""
    return await read_whole(uncompressed(answer), upstream.policy.max_answer_bytes, timeout_s)


def fault_error(fault: UpstreamFault, *, begun: bool = False) -> GatewayError:
    """Returns the error that a client receives for a transport's failure. The detail is only for the log.

    `begun` means that an answer had begun: it is charged, and a client that repeated it by itself would pay again.
    """
    repeat_helps = not begun
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
    if admitted.route.key_fingerprint:  # admission has seen that there is such a key
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


def _soonest_ms(snapshot: ConfigSnapshot, route: Route, now_s: float) -> int:
    """Returns when the first breaker permits a probe, in ms; at least a second."""
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
