"""Step 5 of the request line: asks a route's candidates until one answers. Nothing has been sent to the client yet.

| a candidate                             | then                                                          |
|-----------------------------------------|---------------------------------------------------------------|
| its breaker is open, its keys rest      | the next                                                      |
| rests like all others                   | the one that rests shortest is asked nevertheless             |
| cannot be reached                       | the next upstream                                             |
| fails after the request may have arrived| the error, unless the route says `repeat_started`             |
| 401, 402, 429                           | the next key, then the next upstream                          |
| 5xx                                     | the next upstream                                             |
| any other answer                        | it is the answer                                              |

All within `failover_s`. The last refusal is the answer where nobody does better; 503 where there is none to pass on.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.observability.request_record import RequestRecord
from gateway.protocol.request_body import with_model
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.routing.router import Route
from gateway.types import Headers
from gateway.upstream.health import UpstreamKey
from gateway.upstream.transport import FaultKind, UpstreamFault
from gateway.upstream.upstream import Upstream

FORWARDED: Final = frozenset(
    {b"accept", b"user-agent", b"openai-beta", b"x-client-request-id", b"traceparent", b"tracestate"}
)
"""Request headers that go on to the upstream; everything else (keys, cookies, addresses) stays here."""
_FORWARDED_IN_A_TRACE: Final = FORWARDED - {b"traceparent", b"tracestate"}  # the gateway's own span is the parent then

_NEXT_KEY: Final = frozenset({401, 402, 429})
_SERVER_ERROR: Final = 500
_RATE_LIMITED: Final = 429
# Nothing has been asked of an upstream that could not be reached: another may be asked.
_UNSENT: Final = frozenset({FaultKind.CONNECT, FaultKind.TLS, FaultKind.CONNECT_TIMEOUT, FaultKind.POOL_FULL})
_SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?")
_TIMEOUTS: Final = frozenset({FaultKind.FIRST_BYTE_TIMEOUT, FaultKind.CHUNK_TIMEOUT})


async def open_upstream(snapshot: ConfigSnapshot, admitted: Admitted, client: Client, record: RequestRecord) -> Opened:
    """An upstream's answer, its head read. Raises GatewayError when there is none."""
    search = _Search(admitted, client, record)
    began_s = time.monotonic()
    for upstream, key in _candidates(snapshot, admitted, began_s):
        if record.tried and time.monotonic() - began_s >= snapshot.limits.failover_s:
            break
        if search.is_worth_asking(upstream) and await search.admission_request(upstream, key):
            break
    if not record.tried:
        # What the provider says now is better than what it said to somebody else, perhaps of another model.
        for upstream, key in _candidates(snapshot, admitted, time.monotonic(), resting=True):
            if search.is_worth_asking(upstream):
                await search.admission_request(upstream, key)
                break
    if search.answer is not None:
        return search.answer
    if search.failure is not None and len(record.tried) == 1:
        raise search.failure
    raise GatewayError(
        "no_available_provider",
        f"No provider for {admitted.route.model!r} is available just now.",
        wait_ms=_soonest_ms(snapshot, admitted.route, time.monotonic()),
    )


class _Search:
    """One request's way through its candidates. State that changes: `answer` and `failure`, the last one's; `_down`."""

    __slots__ = ("_admitted", "_body", "_down", "_headers", "_record", "answer", "failure")

    def __init__(self, admitted: Admitted, client: Client, record: RequestRecord) -> None:
        route, request = admitted.route, admitted.request
        renamed = request.body and route.upstream_model != request.model
        self.answer: Opened | None = None
        self.failure: GatewayError | None = None
        self._admitted = admitted
        self._body = with_model(request, route.upstream_model) if renamed else request.body
        self._headers = _upstream_headers(client, record)
        self._record = record
        self._down: set[str] = set()  # upstreams for which another key would change nothing

    def is_worth_asking(self, upstream: Upstream) -> bool:
        return upstream.enabled and upstream.name not in self._down and upstream.breaker.allows(time.monotonic())

    async def admission_request(self, upstream: Upstream, key: UpstreamKey) -> bool:
        """Whether the search is over. Raises GatewayError where it must not go on."""
        if self.answer is not None:
            self.answer.answer.abort()
            self.answer = None
        admitted, record, name = self._admitted, self._record, upstream.name
        record.tried.append(f"{name}#{key.number}")
        record.upstream = name
        headers, target = self._headers, admitted.target
        if record.trace is not None:
            model, most = admitted.route.upstream_model, admitted.request.max_output_tokens
            headers = headers + record.trace.attempt(name, *upstream.address, model, most)
        began = time.perf_counter()
        try:
            answer = await upstream.attempt(key, target.operation.method.encode(), target.path, headers, self._body)
        except UpstreamFault as fault:
            record.attempts.append((name, fault.kind.value, time.perf_counter() - began))
            self._failed(upstream, fault)
            return False
        except BaseException as error:
            upstream.breaker.released()
            if isinstance(error, ValueError):
                raise GatewayError("invalid_field", f"The request cannot be passed on: {error}.") from None
            raise
        status = answer.status
        record.attempts.append((name, str(status), time.perf_counter() - began))
        record.upstream_status = status
        rest_s = retry_after_s(answer.headers) if status == _RATE_LIMITED else None
        upstream.note_answer(key, status, rest_s, time.monotonic())
        self.answer = Opened(upstream, key, answer)
        broken = status >= _SERVER_ERROR
        if broken:
            self._down.add(name)
        return not broken and status not in _NEXT_KEY

    def _failed(self, upstream: Upstream, fault: UpstreamFault) -> None:
        upstream.note_fault(fault.kind, time.monotonic())
        self._down.add(upstream.name)
        self._record.detail = str(fault)
        self.failure = fault_error(fault)
        if fault.sent and fault.kind not in _UNSENT and not self._admitted.route.rule.repeat_started:
            raise self.failure from None


def fault_error(fault: UpstreamFault) -> GatewayError:
    """What a client reads of a transport's failure; the detail is for the log alone."""
    if fault.kind in _TIMEOUTS:
        return GatewayError("upstream_timeout", "The provider did not answer in time.")
    if fault.kind in (FaultKind.PROTOCOL, FaultKind.TOO_LARGE, FaultKind.CUT):
        return GatewayError("upstream_invalid_response", "The provider's answer was not valid.")
    if fault.kind is FaultKind.POOL_FULL:
        return GatewayError("no_available_provider", "All connections to the provider are in use.", wait_ms=1000)
    return GatewayError("upstream_unreachable", "The provider could not be reached.")


def _candidates(
    snapshot: ConfigSnapshot, admitted: Admitted, now_s: float, *, resting: bool = False
) -> list[tuple[Upstream, UpstreamKey]]:
    found: list[tuple[Upstream, UpstreamKey]] = []
    for name in admitted.route.candidates:
        upstream = snapshot.upstreams[name]
        for key in upstream.keys.keys if resting else upstream.keys.candidates(now_s):
            found.append((upstream, key))  # noqa: PERF401 - one candidate is the rule: a comprehension is a call more
    if resting:
        found.sort(key=lambda candidate: candidate[1].rests_until_s)
    if admitted.known_response is None:
        return found
    # A response lives with the key that made it. One that was rotated since has no successor but its upstream's others.
    makers = [(upstream, key) for upstream, key in found if key.fingerprint == admitted.known_response.upstream_key]
    known = any(
        key.fingerprint == admitted.known_response.upstream_key
        for name in admitted.route.candidates
        for key in snapshot.upstreams[name].keys.keys
    )
    return makers if known else found


def _soonest_ms(snapshot: ConfigSnapshot, route: Route, now_s: float) -> int:
    """When the first breaker lets a probe through; at least a second."""
    waits = [snapshot.upstreams[name].breaker.wait_s(now_s) for name in route.candidates]
    return max(1000, int(min((wait for wait in waits if wait > 0), default=1.0) * 1000))


def _upstream_headers(client: Client, record: RequestRecord) -> Headers:
    headers = [
        (b"content-type", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"x-request-id", record.request_id.encode()),
    ]
    forwarded = FORWARDED if record.trace is None else _FORWARDED_IN_A_TRACE
    for header in client.headers:
        if header[0] in forwarded:
            headers.append(header)  # noqa: PERF401 - a comprehension is a call more
    return headers


def retry_after_s(headers: Headers) -> float | None:
    """How long an upstream asks to wait, in seconds; None where it does not say (RFC 9110, 10.2.3)."""
    told = dict(headers)
    for name, unit_s in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        if name not in told:
            continue
        text = told[name].decode("latin-1").strip()
        if _SECONDS.fullmatch(text):
            return float(text) * unit_s
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError):
            continue
    return None
