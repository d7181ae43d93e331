"""Steps 1 to 3 of a request: from a client's bytes to what step 4 asks for (admitting.py).

    1 authenticate   headers -> ApiKey         api_keys.key_of_request        local: garbage never reaches the store
    2 read           body -> RequestBody       body_reading.read_request
    3 route          model -> Route            Router.resolve; a response that is named pins the upstream that made it
    4 admit          Route -> Admitted         admitting.admit                one script call; a hold is reserved

Each step takes the last one's frozen value and returns the next, or raises GatewayError. Before step 4 the store is
asked only for a request that names a response (`KnownResponses.find`) or sends a large body (`KnownResponses.check`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple, Protocol

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError
from gateway.http.client import Client, of_head
from gateway.identity.api_keys import ApiKey, key_of_request
from gateway.ledger.admissions import Admission, AdmissionRequest
from gateway.ledger.known_responses import KnownResponse, KnownResponses
from gateway.ledger.refusals import Demand
from gateway.observability.request_record import RequestRecord
from gateway.protocol.body_changes import Addition, with_model
from gateway.protocol.forwarded_headers import SESSION_HEADERS
from gateway.protocol.operations import CREATE, CREATE_TARGET, Operation, Target
from gateway.protocol.request_body import MAX_OUTPUT_TOKENS_FIELD, RequestBody, read_request_body
from gateway.protocol.request_work import NO_WORK
from gateway.proxy.body_reading import read_request
from gateway.proxy.field_checks import checked
from gateway.proxy.offers import offering
from gateway.proxy.pinning import pinned, to_maker, wanted
from gateway.proxy.reservation import NOTHING, reserve
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.proxy.unnamed_models import by_its_answer, completed, streams
from gateway.routing.affinity import Affinity
from gateway.routing.router import Route
from gateway.state.past import PREVIOUS
from gateway.state.responses import previous_not_found
from gateway.state.turn import Turn
from gateway.state.turns import TurnSource
from gateway.upstream.health import UpstreamKey
from gateway.upstream.transport import Answer
from gateway.upstream.upstream import Upstream

MAX_IDEMPOTENCY_KEY: Final = 255


class Routed(NamedTuple):
    """After step 3. `known_response`: the response that this is about, or goes on from, where an upstream keeps it.

    `turn`: where the gateway keeps the state itself; it is to be closed.
    """

    key: ApiKey
    target: Target
    request: RequestBody
    route: Route
    known_response: KnownResponse | None
    admission_request: AdmissionRequest
    turn: Turn | None = None


class Before(Protocol):
    """A summary that is made before a request in the background. See `compactor.Summary`."""

    @property
    def record(self) -> RequestRecord:
        """Its own."""

    async def made(self, admitted: Admitted, client: Client | None = None) -> Routed | None:
        """Makes it. Returns the request as it goes on, or None if it was ended on purpose. Raises GatewayError."""

    async def drop(self, admitted: Admitted) -> None:
        """Gives its hold back, because it is not made."""


class Admitted(NamedTuple):
    """After step 4. `snapshot`: the one it runs on to its end. `asked`: what it asked the ledger for.

    `before`: what is admitted is this summary, and the request itself is not yet.
    """

    snapshot: ConfigSnapshot
    target: Target
    request: RequestBody
    route: Route
    known_response: KnownResponse | None
    asked: AdmissionRequest
    admission: Admission
    turn: Turn | None = None
    before: Before | None = None


class Opened(NamedTuple):
    """After step 5: an upstream's answer, its head read. A 2xx, or a refusal of the upstream's own for the client.

    `added`: what the gateway has added to the request's body, `output_bound` as a bound that its caller did not state.
    `read`: what has been read of the answer's body already. `is_last`: nobody else is to be asked, whatever it is.
    """

    upstream: Upstream
    key: UpstreamKey
    answer: Answer
    added: tuple[Addition, ...] = ()
    output_bound: int | None = None
    read: bytes = b""
    is_last: bool = False


async def prepare(
    snapshot: ConfigSnapshot,
    responses: KnownResponses,
    target: Target,
    client: Client,
    record: RequestRecord,
    turns: TurnSource | None = None,
) -> Routed:
    """Steps 1 to 3, and the question for step 4."""
    key = of_head(client, key_of_request)
    record.key = key
    _refuse_upgrade(client)
    query: bytes = client.scope["query_string"]
    if query:
        target = replace(target, path=target.path + b"?" + query)
    known_response: KnownResponse | None = None
    if target.response_id is not None:
        known_response = found = await responses.find(key, target.response_id, "response_id")
        request = about(found, query)
    else:
        request = await read_request(snapshot, responses, target, client, record, key)
        if query or not request.model:
            request, known_response = await completed(request, query, snapshot, responses, turns, key)
    record.model, record.stream = request.model, request.stream
    record.asked_model = request.model
    charge = target.operation.charge
    route = snapshot.router.resolve(
        request.model, free=charge != "usage or estimate", pinned=target.response_id is not None
    )
    record.model = route.model
    several = snapshot.has_several_keys or snapshot.offers_differ
    if several or route.rule.weights or request.preferences is not None:
        route = _chosen(snapshot, route, client, request, key, None if known_response else target.operation)
    record.upstream.chosen_by = route.chosen_by or None
    if turns is not None and route.rule.state == "gateway" and target.operation.begins_turn:
        return await _begin_turn(_Kept(turns, responses), snapshot, target, client, record, key, request, route)
    if route.rule.state == "none" and request.previous_response_id:
        raise previous_not_found(request.previous_response_id)
    if known_response is None and request.previous_response_id:
        known_response = await responses.find(key, request.previous_response_id)
    if known_response is not None:
        route = pinned(snapshot, route, known_response, target)
        if request.preferences is not None:
            route = wanted(snapshot, route, request.preferences)
        record.upstream.chosen_by = "response"
    route, ask = _ask(snapshot, record, client, key, request, route, target, known_response)
    return Routed(key, target, request, route, known_response, ask)


class _Kept(NamedTuple):
    """Where responses are found: those that the gateway keeps, and who made those that it does not."""

    turns: TurnSource
    responses: KnownResponses

    async def made(self, key: ApiKey, response_id: str) -> KnownResponse | None:
        """Who made a response that its provider keeps; None if no request here has."""
        try:
            return await self.responses.find(key, response_id)
        except GatewayError as error:
            if error.code != "response_not_found":
                raise
            return None


async def _begin_turn(
    kept: _Kept,
    snapshot: ConfigSnapshot,
    target: Target,
    client: Client,
    record: RequestRecord,
    key: ApiKey,
    request: RequestBody,
    route: Route,
) -> Routed:
    """Where the gateway keeps the state: the past is resolved into the request, and so into its hold."""
    body = request.body
    if not (request.names_model or request.model_in_prompt):  # what names it here is not sent
        body = await snapshot.off_loop.run(partial(with_model, body, request.model))
    if target.operation.summarises:
        turn, target = await kept.turns.begin_compaction(key, body, route.rule), CREATE_TARGET
    else:
        turn = await kept.turns.begin(key, body, route.rule)
    try:
        route, known_response = to_maker(snapshot, route, turn), None
        if turn.base is not None and turn.base.member == PREVIOUS and not turn.base_maker:
            known_response = await kept.made(key, turn.base.id)
            route = route if known_response is None else pinned(snapshot, route, known_response, target)
        record.upstream.chosen_by = route.chosen_by or None
        routed = await _with_body(snapshot, key, target, route, turn.body, client, record, known_response)
        return routed._replace(turn=turn)
    except BaseException:
        await turn.close()
        raise


async def routed_again(
    snapshot: ConfigSnapshot, routed: Routed, body: bytes, client: Client, record: RequestRecord
) -> Routed:
    """Returns a request with another body, for the same key on the same route. Raises GatewayError."""
    again = await _with_body(snapshot, routed.key, routed.target, routed.route, body, client, record)
    return again._replace(turn=routed.turn)


async def _with_body(
    snapshot: ConfigSnapshot,
    key: ApiKey,
    target: Target,
    route: Route,
    body: bytes,
    client: Client,
    record: RequestRecord,
    known_response: KnownResponse | None = None,
) -> Routed:
    form, bounds = target.operation.dialect.request, snapshot.limits.body_bounds
    read = partial(read_request_body, body, form, body_bounds=bounds)
    request = await snapshot.off_loop.run(read) if len(body) > LONG_BYTES else read()
    if request.model_in_prompt:
        request = request._replace(model=route.model)
    if request.previous_response_id and known_response is None:  # of the provider's: nobody here knows its length
        request = request._replace(work=request.work._replace(unseen=True))
    route, ask = _ask(snapshot, record, client, key, request, route, target, known_response)
    return Routed(key, target, request, route, known_response, ask)


def about(known_response: KnownResponse, query: bytes) -> RequestBody:
    """A request about a response that exists: it has no body, and its model is the response's."""
    return RequestBody(
        body=b"",
        model=known_response.model,
        stream=streams(query),
        max_output_tokens=None,
        previous_response_id=None,
        input_tokens_estimate=0,
    )


def _chosen(
    snapshot: ConfigSnapshot,
    route: Route,
    client: Client,
    request: RequestBody,
    key: ApiKey,
    operation: Operation | None,
) -> Route:
    """The route with the candidates that offer the operation, as the session orders them, and its caller's wishes."""
    if route.rule.weights or snapshot.has_several_keys:
        route = snapshot.router.in_session(route, _session(route.rule.affinity, client, request, key))
    if operation is not None:
        is_own = route.rule.state == "gateway" and operation.begins_turn
        route = offering(snapshot, route, CREATE if is_own else operation)
    return route if request.preferences is None else wanted(snapshot, route, request.preferences)


def _session(affinity: Affinity, client: Client, request: RequestBody, key: ApiKey) -> str:
    """What the request belongs to, in its team; "" where nothing says so, or its route does not care."""
    if affinity == "none":
        return ""
    fields = client.fields
    named = next((fields[name].decode("latin-1") for name in SESSION_HEADERS if fields.get(name)), request.session)
    if not named and affinity == "api_key":
        named = key.key_id
    return f"{key.team_id}/{named}" if named else ""


def _ask(
    snapshot: ConfigSnapshot,
    record: RequestRecord,
    client: Client,
    key: ApiKey,
    request: RequestBody,
    route: Route,
    target: Target,
    known_response: KnownResponse | None,
) -> tuple[Route, AdmissionRequest]:
    reserved = NOTHING  # counted and limited as a request; nothing to reserve
    form = target.operation.dialect.request
    now_ms = time.time_ns() // 1_000_000
    if request.model_in_prompt:
        route = by_its_answer(snapshot, route, request)
    says_more = request.work is not NO_WORK or request.facts.service_tier or route.variants
    if says_more and target.response_id is None:
        route = checked(request, route, snapshot, now_ms)
    if target.operation.charge == "usage or estimate":
        reserved = reserve(request, target.operation, route, snapshot.router, snapshot.limits, known_response, now_ms)
    input_tokens, output_tokens, worst, sends_bound = reserved
    unsaid = MAX_OUTPUT_TOKENS_FIELD if request.max_output_tokens is None and form.has_output else 0
    operation = target.operation
    demand = Demand(route.model, worst.amount_nano_usd, input_tokens, output_tokens, worst, unsaid, operation.name)
    free = operation.charge == "free"
    idempotency_key = None if free else client.text(b"idempotency-key")
    if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_IDEMPOTENCY_KEY:
        raise GatewayError(
            "invalid_field",
            f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} characters.",
            param="Idempotency-Key",
        )
    most = request.max_output_tokens
    return route, AdmissionRequest(
        record.request_id,
        key,
        route.patterns,
        demand,
        most,
        idempotency_key,
        sends_bound,
        operation.grants,
        free,
        limited=route.limited,
        tags=record.tags,
    )


def _refuse_upgrade(client: Client) -> None:
    """RFC 9110 lets a server ignore an upgrade, but llhttp stops at the head of such a request: its body is lost."""
    if client.fields.get(b"upgrade") is not None and b"upgrade" in (client.fields.get(b"connection") or b"").lower():
        raise GatewayError("upgrade_unsupported", "This gateway speaks HTTP/1.1: send the request without 'Upgrade'.")
