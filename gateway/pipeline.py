"""Steps 1 to 4 of the request line: from a client's bytes to a hold.

    1 present   Authorization -> ApiKey        identity.present      local: garbage never reaches the store
    2 read      body -> Envelope               envelope.read_envelope
    3 route     model -> Route                 routing.Router.resolve; a response that is named pins its maker
    4 admit     Route -> Admitted              Ledger.admit          one script call; a hold is reserved

Each step takes the last one's frozen value and returns the next; each fails by raising GatewayError. Only a request
that names a response, or sends a large body, asks the store before step 4: `Responses.find`, `Responses.check`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from gateway.downstream import Downstream
from gateway.envelope import MAX_OUTPUT_TOKENS_FIELD, Envelope, read_envelope
from gateway.errors import GatewayError
from gateway.exchange import State
from gateway.identity import ApiKey, present
from gateway.ledger.ledger import Admission, Ask, Ledger
from gateway.ledger.refusals import Demand
from gateway.ledger.responses import Made, Responses
from gateway.operations import Target
from gateway.pricing import worst_case_nano_usd
from gateway.routing import Route, Router
from gateway.telemetry import Record
from gateway.upstream.health import UpstreamKey
from gateway.upstream.transport import Answer
from gateway.upstream.upstream import Upstream

Headers = list[tuple[bytes, bytes]]

MAX_IDEMPOTENCY_KEY: Final = 255
UNCHECKED_BODY_BYTES: Final = 256 * 1024
"""A body up to this is read before the key is looked up: admission does that, in the same call as everything else."""


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
    admin_key: bytes | None = None


class Routed(NamedTuple):
    """After step 3. `made`: the response that this is about, or goes on from."""

    key: ApiKey
    target: Target
    envelope: Envelope
    route: Route
    made: Made | None
    ask: Ask


class Admitted(NamedTuple):
    """After step 4. `plan`: the one it runs on to its end."""

    plan: Plan
    target: Target
    envelope: Envelope
    route: Route
    made: Made | None
    admission: Admission


class Opened(NamedTuple):
    """After step 5: an upstream's answer, its head read. A 2xx, or a refusal of the upstream's own for the client."""

    upstream: Upstream
    key: UpstreamKey
    answer: Answer


async def prepare(plan: Plan, responses: Responses, target: Target, client: Downstream, record: Record) -> Routed:
    """Steps 1 to 3, and the question for step 4."""
    key = present(client.text(b"authorization"))
    record.team_id, record.key_id, record.secret_hash = key.team_id, key.key_id, key.secret_hash
    _refuse_upgrade(client)
    query: bytes = client.scope["query_string"]
    if query:
        target = replace(target, path=target.path + b"?" + query)
    made: Made | None = None
    if target.response_id is not None:
        made = found = await responses.find(key, target.response_id)
        envelope = _about(found, query)
    else:
        envelope = await _read(plan.limits, responses, target, client, record, key)
        if envelope.previous_response_id:
            made = await responses.find(key, envelope.previous_response_id)
    record.model, record.stream = envelope.model, envelope.stream
    route = plan.router.resolve(envelope.model)
    record.model = route.model
    if made is not None:
        route = _pinned(plan, route, made, target)
    return Routed(key, target, envelope, route, made, _ask(plan, record, client, key, envelope, route, target))


async def admit(
    plan: Plan, ledger: Ledger, responses: Responses, target: Target, client: Downstream, record: Record
) -> Admitted:
    """Steps 1 to 4. Raises GatewayError, or ClientLeft from the body's read."""
    routed = await prepare(plan, responses, target, client, record)
    record.routed = time.perf_counter()
    admission = await ledger.admit(routed.ask)
    record.admitted = time.perf_counter()
    record.state = State.ADMITTED
    record.unchecked = admission.unchecked
    return Admitted(plan, routed.target, routed.envelope, routed.route, routed.made, admission)


async def _read(
    limits: Limits, responses: Responses, target: Target, client: Downstream, record: Record, key: ApiKey
) -> Envelope:
    _refuse_media(client)
    length = client.body_length(limits.max_body_bytes)
    if length is None or length > UNCHECKED_BODY_BYTES:
        await responses.check(key)
    body = await client.read_body(limits.max_body_bytes, limits.body_timeout_s, length)
    record.bytes_in = len(body)
    record.received = time.perf_counter()
    return read_envelope(body, needs_input=target.operation.needs_input)


def _about(made: Made, query: bytes) -> Envelope:
    """A request about a response that exists: it has no body, and its model is the response's."""
    return Envelope(
        body=b"",
        model=made.model,
        stream=b"stream=true" in query.split(b"&"),
        max_output_tokens=None,
        previous_response_id=None,
        input_tokens_estimate=0,
    )


def _pinned(plan: Plan, route: Route, made: Made, target: Target) -> Route:
    """The route to the upstream that made the response: nobody else knows it."""
    if made.upstream not in plan.upstreams:
        raise GatewayError("response_not_found", f"The provider of {made.response_id!r} is not used here any more.")
    if not target.operation.by_id and made.upstream not in route.rule.upstreams:
        raise GatewayError(
            "invalid_field",
            f"{made.response_id!r} was made by a provider that the model {route.model!r} is not routed to.",
            param="previous_response_id",
        )
    return route._replace(candidates=(made.upstream,))


def _ask(
    plan: Plan, record: Record, client: Downstream, key: ApiKey, envelope: Envelope, route: Route, target: Target
) -> Ask:
    input_tokens, output_tokens = (
        envelope.input_tokens_estimate,
        (envelope.max_output_tokens or route.rule.default_max_output_tokens or plan.limits.default_max_output_tokens),
    )
    if target.operation.charge != "usage or estimate":
        input_tokens, output_tokens = 0, 0  # counted and limited as a request; nothing to reserve
    amount = worst_case_nano_usd(route.price, input_tokens, output_tokens)
    unsaid = MAX_OUTPUT_TOKENS_FIELD if envelope.max_output_tokens is None else 0
    demand = Demand(route.model, amount, input_tokens, output_tokens, route.price, unsaid)
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
    if client.fields.get(b"upgrade") is not None and b"upgrade" in (client.fields.get(b"connection") or b"").lower():
        raise GatewayError("upgrade_unsupported", "This gateway speaks HTTP/1.1: send the request without 'Upgrade'.")


def _refuse_media(client: Downstream) -> None:
    kind = client.fields.get(b"content-type")
    if kind is not None and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise GatewayError("unsupported_media_type", "Send the request as JSON: 'Content-Type: application/json'.")
    encoding, coding = client.fields.get(b"content-encoding"), client.fields.get(b"transfer-encoding")
    if coding is not None and coding.strip().lower() != b"chunked":
        raise GatewayError("unsupported_media_type", "Send the body without a Transfer-Encoding other than chunked.")
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise GatewayError("unsupported_media_type", "Send the body as it is, without Content-Encoding.")
