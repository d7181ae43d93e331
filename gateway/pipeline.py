"""Steps 1 to 5 of the request line: from a client's bytes to an upstream that answers.

    1 present   Authorization -> ApiKey        identity.present      local: garbage never reaches the store
    2 read      body -> Envelope               envelope.read_envelope
    3 route     model -> Route                 routing.Router.resolve
    4 admit     Route -> Admitted              Ledger.admit          one script call; a hold is reserved
    5 open      Admitted -> Opened             open_upstream         nothing has been sent to the client yet

Each step takes the last one's frozen value and returns the next; each fails by raising GatewayError.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.downstream import Downstream
from gateway.envelope import Envelope, read_envelope, with_model
from gateway.errors import GatewayError
from gateway.exchange import State
from gateway.identity import ApiKey, present
from gateway.ledger.ledger import Admission, Ask, Ledger
from gateway.ledger.refusals import Demand
from gateway.pricing import worst_case_nano_usd
from gateway.routing import Route, Router
from gateway.telemetry import Record
from gateway.upstream.health import UpstreamKey
from gateway.upstream.transport import Answer, FaultKind, UpstreamFault
from gateway.upstream.upstream import Upstream

Headers = list[tuple[bytes, bytes]]

FORWARDED: Final = frozenset(
    {b"accept", b"user-agent", b"openai-beta", b"x-client-request-id", b"traceparent", b"tracestate"}
)
"""Request headers that go on to the upstream; everything else (keys, cookies, addresses) stays here."""

MAX_IDEMPOTENCY_KEY: Final = 255
_CREATE: Final = b"/responses"
_NEXT_CANDIDATE: Final = frozenset({429, 500, 502, 503, 504})
_OWN_ACCOUNT: Final = frozenset({401, 402})
# Nothing has been asked of an upstream that could not be reached: another may be asked.
_UNSENT: Final = frozenset({FaultKind.CONNECT, FaultKind.TLS, FaultKind.CONNECT_TIMEOUT, FaultKind.POOL_FULL})
_TIMEOUTS: Final = frozenset({FaultKind.FIRST_BYTE_TIMEOUT, FaultKind.CHUNK_TIMEOUT})


@dataclass(frozen=True, slots=True)
class Limits:
    """What the line accepts from clients."""

    max_body_bytes: int
    body_timeout_s: float
    default_max_output_tokens: int
    failover_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The configuration that a request runs on, from its first step to its last; a reload makes another."""

    router: Router
    upstreams: Mapping[str, Upstream]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Admitted:
    """After step 4."""

    key: ApiKey
    envelope: Envelope
    route: Route
    admission: Admission


@dataclass(frozen=True, slots=True)
class Opened:
    """After step 5: an upstream's answer, its head read. A 2xx, or a refusal of the upstream's own for the client."""

    upstream: Upstream
    key: UpstreamKey
    answer: Answer


async def prepare(plan: Plan, client: Downstream, record: Record) -> tuple[ApiKey, Envelope, Route, Ask]:
    """Steps 1 to 3, and the question for step 4."""
    key = present(client.text(b"authorization"))
    record.team_id, record.key_id = key.team_id, key.key_id
    _refuse_upgrade(client)
    _refuse_media(client)
    body = await client.read_body(plan.limits.max_body_bytes, plan.limits.body_timeout_s)
    record.bytes_in = len(body)
    envelope = read_envelope(body)
    record.model, record.stream = envelope.model, envelope.stream
    route = plan.router.resolve(envelope.model)
    record.model = route.model
    return key, envelope, route, _ask(plan, record, client, key, envelope, route)


async def admit(plan: Plan, ledger: Ledger, client: Downstream, record: Record) -> Admitted:
    """Steps 1 to 4. Raises GatewayError, or ClientLeft from the body's read."""
    key, envelope, route, ask = await prepare(plan, client, record)
    admission = await ledger.admit(ask)
    record.admitted = time.perf_counter()
    record.state = State.ADMITTED
    record.unchecked = admission.unchecked
    return Admitted(key, envelope, route, admission)


async def open_upstream(plan: Plan, admitted: Admitted, client: Downstream, record: Record) -> Opened:
    """Step 5: asks the route's candidates until one answers. Raises GatewayError when none does.

    A candidate that refuses for its own reasons (429, 5xx, our key) or cannot be reached is followed by the next,
    within `failover_s`. A request that may have started work is not repeated unless the route allows it.
    """
    route, envelope = admitted.route, admitted.envelope
    body = envelope.body if route.wire_model == envelope.model else with_model(envelope, route.wire_model)
    headers = _upstream_headers(client, record.request_id)
    clock = asyncio.get_running_loop().time
    give_up_s = clock() + plan.limits.failover_s
    failure: GatewayError | None = None
    refused: Opened | None = None
    for upstream, key in _candidates(plan, route, clock()):
        if (failure or refused) and clock() >= give_up_s:
            break
        if not upstream.breaker.allows(clock()):
            continue
        if refused is not None:
            refused.answer.abort()
            refused = None
        record.tried.append(f"{upstream.name}#{key.number}")
        record.upstream = upstream.name
        try:
            answer = await upstream.attempt(key, b"POST", _CREATE, headers, body)
        except UpstreamFault as fault:
            upstream.note_fault(clock())
            record.detail = str(fault)
            failure = fault_error(fault)
            if fault.kind not in _UNSENT and fault.sent and not route.rule.repeat_started:
                raise failure from None
            continue
        except asyncio.CancelledError:
            upstream.breaker.released()
            raise
        record.upstream_status = answer.status
        upstream.note_answer(key, answer.status, _retry_after_s(answer), clock())
        refused = Opened(upstream, key, answer)
        if answer.status not in _NEXT_CANDIDATE and answer.status not in _OWN_ACCOUNT:
            break
    if refused is not None:
        return refused
    raise failure or GatewayError(
        "no_available_provider",
        f"No provider for {route.model!r} is available just now.",
        wait_ms=_soonest_ms(plan, route, clock()),
    )


def fault_error(fault: UpstreamFault) -> GatewayError:
    """What a client reads of a transport's failure; the detail is for the log alone."""
    if fault.kind in _TIMEOUTS:
        return GatewayError("upstream_timeout", "The provider did not answer in time.")
    if fault.kind in (FaultKind.PROTOCOL, FaultKind.TOO_LARGE, FaultKind.CUT):
        return GatewayError("upstream_invalid_response", "The provider's answer was not valid.")
    return GatewayError("upstream_unreachable", "The provider could not be reached.")


def _candidates(plan: Plan, route: Route, now_s: float) -> list[tuple[Upstream, UpstreamKey]]:
    return [
        (upstream, key)
        for upstream in (plan.upstreams[name] for name in route.candidates)
        for key in upstream.keys.candidates(now_s)
    ]


def _soonest_ms(plan: Plan, route: Route, now_s: float) -> int:
    """When the first key has rested or the first breaker lets a probe through; at least a second."""
    waits = [
        key.rests_until_s - now_s
        for name in route.candidates
        for key in plan.upstreams[name].keys.keys
        if key.rests_until_s > now_s
    ]
    waits += [plan.upstreams[name].breaker.wait_s(now_s) for name in route.candidates]
    return max(1000, int(min((wait for wait in waits if wait > 0), default=1.0) * 1000))


def _ask(plan: Plan, record: Record, client: Downstream, key: ApiKey, envelope: Envelope, route: Route) -> Ask:
    output_tokens = (
        envelope.max_output_tokens or route.rule.default_max_output_tokens or plan.limits.default_max_output_tokens
    )
    amount = worst_case_nano_usd(route.price, envelope.input_tokens_estimate, output_tokens)
    demand = Demand(route.model, amount, envelope.input_tokens_estimate, output_tokens, route.price)
    mark = client.text(b"idempotency-key")
    if mark is not None and not 0 < len(mark) <= MAX_IDEMPOTENCY_KEY:
        raise GatewayError(
            "invalid_field",
            f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} characters.",
            param="Idempotency-Key",
        )
    return Ask(record.request_id, key, route.patterns, demand, envelope.max_output_tokens, mark)


def _refuse_upgrade(client: Downstream) -> None:
    """RFC 9110 lets a server ignore an upgrade, but llhttp stops at the head of such a request: its body is lost."""
    if client.header(b"upgrade") is not None and b"upgrade" in (client.header(b"connection") or b"").lower():
        raise GatewayError("upgrade_unsupported", "This gateway speaks HTTP/1.1: send the request without 'Upgrade'.")


def _refuse_media(client: Downstream) -> None:
    kind = client.header(b"content-type")
    if kind is not None and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise GatewayError("unsupported_media_type", "Send the request as JSON: 'Content-Type: application/json'.")
    encoding = client.header(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise GatewayError("unsupported_media_type", "Send the body as it is, without Content-Encoding.")


def _upstream_headers(client: Downstream, request_id: str) -> Headers:
    headers = [
        (b"content-type", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"x-request-id", request_id.encode()),
    ]
    headers += [(name, value) for name, value in client.headers if name in FORWARDED]
    return headers


def _retry_after_s(answer: Answer) -> float | None:
    for name, value in answer.headers:
        if name == b"retry-after":
            try:
                return max(0.0, float(value))
            except ValueError:
                return None
    return None
