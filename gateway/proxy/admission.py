"""Steps 1 to 3 of a request: from the client's bytes to the `AdmissionRequest` of step 4 (admitting.py).

    1 authenticate   headers -> ApiKey         api_keys.key_of_request        local: garbage never reaches the store
    2 read           body -> RequestBody       body_reading.read_request
    3 route          model -> Route            Router.resolve; a request that names a response goes to its maker
    4 admit          Route -> Admitted         admitting.admit                one script call, which reserves a hold

Each step takes the frozen value of the previous one and returns the next one, or raises GatewayError. Before step 4
only two kinds of requests query the store: those that name a response (`KnownResponses.find`), and those with a large
body (`KnownResponses.check`).
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
from gateway.protocol.attribution import END_USER_HEADER, NO_LABELS, NOBODY, counted_as, named_by
from gateway.protocol.body_changes import Addition, with_model
from gateway.protocol.forwarded_headers import SESSION_HEADERS
from gateway.protocol.operations import CREATE, CREATE_TARGET, Operation, Target
from gateway.protocol.request_body import MAX_OUTPUT_TOKENS_FIELD, HeldBody, RequestBody, read_request_body
from gateway.protocol.request_work import NO_WORK
from gateway.proxy.body_reading import read_request
from gateway.proxy.field_checks import check_fields
from gateway.proxy.offers import restrict_to_offering
from gateway.proxy.pinning import apply_preferences, pin_to_response, pin_to_turn
from gateway.proxy.reservation import NO_RESERVATION, reserve
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.proxy.unnamed_models import asks_for_stream, complete_request, price_by_answer
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
    """A request after step 3.

    `known_response` is the response that the request reads or continues, if an upstream keeps it. `turn` is set if the
    gateway keeps the state itself. It must be closed.
    """

    key: ApiKey
    target: Target
    request: RequestBody
    route: Route
    known_response: KnownResponse | None
    admission_request: AdmissionRequest
    turn: Turn | None = None


class PendingSummary(Protocol):
    """A summary of the conversation that is due before a request. `compactor.Summary` implements it."""

    @property
    def record(self) -> RequestRecord:
        """The record of the summary's own call."""

    async def admit(self) -> Admitted:
        """Reserves the summary's hold. Raises GatewayError."""

    async def make(self, admitted: Admitted, client: Client | None = None) -> Routed | None:
        """Makes the summary. Returns the request that continues from it, or None if its call was ended on purpose.

        `client` waits for the summary, if not the request's own client. Raises GatewayError.
        """

    async def discard(self, admitted: Admitted) -> None:
        """Releases the hold of a summary that will not be made."""

    async def give_up(self) -> None:
        """To be called behind the summary if the request does not run: its Idempotency-Key may be used again."""


class Admitted(NamedTuple):
    """A request after step 4. It runs on `snapshot` to its end.

    `pending_summary` means that only this summary has been admitted so far, and not yet the request itself.
    """

    snapshot: ConfigSnapshot
    target: Target
    request: RequestBody
    route: Route
    known_response: KnownResponse | None
    admission_request: AdmissionRequest
    admission: Admission
    turn: Turn | None = None
    pending_summary: PendingSummary | None = None


class Opened(NamedTuple):
    """A request after step 5: an upstream's answer of which the head was read. It is a 2xx, or the upstream's refusal.

    `added` lists what the gateway has added to the request's body. `output_bound` is the bound that it has added, in
    tokens. `already_read` is what has been read of the answer's body. `is_last` means that no other upstream may be
    tried, even if the answer turns out to be an error. `refused` names the additions that this upstream has refused; it
    was then asked without them.
    """

    upstream: Upstream
    key: UpstreamKey
    answer: Answer
    added: tuple[Addition, ...] = ()
    output_bound: int | None = None
    already_read: bytes = b""
    is_last: bool = False
    refused: frozenset[str] = frozenset()


async def prepare(
    snapshot: ConfigSnapshot,
    responses: KnownResponses,
    target: Target,
    client: Client,
    record: RequestRecord,
    turns: TurnSource | None = None,
) -> Routed:
    """Runs steps 1 to 3, and makes the `AdmissionRequest` for step 4. Raises GatewayError."""
    key = of_head(client, key_of_request)
    record.key = key
    _refuse_upgrade(client)
    query: bytes = client.scope["query_string"]
    if query:
        target = replace(target, path=target.path + b"?" + query)
    known_response: KnownResponse | None = None
    if target.response_id is not None:
        known_response = found = await responses.find(key, target.response_id, "response_id")
        request = request_about(found, query)
    else:
        request = await read_request(snapshot, responses, target, client, record, key)
        if query or not request.model:
            request, known_response = await complete_request(request, query, snapshot, responses, turns, key)
    record.model, record.stream = request.model, request.stream
    record.asked_model = request.model
    charge = target.operation.charge
    route = snapshot.router.resolve(
        request.model, free=charge != "usage or estimate", pinned=target.response_id is not None
    )
    record.model = route.model
    several = snapshot.has_several_keys or snapshot.offers_differ
    if several or route.rule.weights or request.preferences is not None:
        route = _with_chosen_candidates(
            snapshot, route, client, request, key, None if known_response else target.operation
        )
    record.upstream.chosen_by = route.chosen_by or None
    if turns is not None and route.rule.state == "gateway" and target.operation.begins_turn:
        return await _begin_turn(
            _ResponseSources(turns, responses), snapshot, target, client, record, key, request, route
        )
    if route.rule.state == "none" and request.previous_response_id:
        raise previous_not_found(request.previous_response_id)
    if known_response is None and request.previous_response_id:
        known_response = await responses.find(key, request.previous_response_id)
    if known_response is not None:
        route = pin_to_response(snapshot, route, known_response, target)
        if request.preferences is not None:
            route = apply_preferences(snapshot, route, request.preferences)
        record.upstream.chosen_by = "response"
    route, admission_request = _admission_request(snapshot, record, client, key, request, route, target, known_response)
    return Routed(key, target, request, route, known_response, admission_request)


class _ResponseSources(NamedTuple):
    """Where earlier responses are looked up: those that the gateway stores, and those that providers keep."""

    turns: TurnSource
    responses: KnownResponses

    async def find_known(self, key: ApiKey, response_id: str) -> KnownResponse | None:
        """Returns what is known of a response that its provider keeps. None: it was not made through this gateway."""
        try:
            return await self.responses.find(key, response_id)
        except GatewayError as error:
            if error.code != "response_not_found":
                raise
            return None


async def _begin_turn(
    sources: _ResponseSources,
    snapshot: ConfigSnapshot,
    target: Target,
    client: Client,
    record: RequestRecord,
    key: ApiKey,
    request: RequestBody,
    route: Route,
) -> Routed:
    """Begins a turn whose state the gateway keeps: earlier turns become part of the request, and of its hold."""
    body = request.body
    if not (request.names_model or request.model_in_prompt):  # the gateway has chosen it, so the body lacks it
        body = await snapshot.off_loop.run(partial(with_model, body, request.model))
    if target.operation.summarises:
        turn, target = await sources.turns.begin_compaction(key, body, route.rule), CREATE_TARGET
    else:
        turn = await sources.turns.begin(key, body, route.rule)
    try:
        route, known_response = pin_to_turn(snapshot, route, turn), None
        if turn.base is not None and turn.base.member == PREVIOUS and not turn.base_maker:
            known_response = await sources.find_known(key, turn.base.id)
            route = route if known_response is None else pin_to_response(snapshot, route, known_response, target)
        record.upstream.chosen_by = route.chosen_by or None
        routed = await _route_with_body(snapshot, key, target, route, turn.body, client, record, known_response)
        return routed._replace(turn=turn)
    except BaseException:
        await turn.close()
        raise


async def with_new_body(
    snapshot: ConfigSnapshot, routed: Routed, body: bytes, client: Client, record: RequestRecord
) -> Routed:
    """Returns the request with another body, for the same key and on the same route. Raises GatewayError."""
    again = await _route_with_body(snapshot, routed.key, routed.target, routed.route, body, client, record)
    return again._replace(turn=routed.turn)


async def _route_with_body(
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
    parse = partial(read_request_body, body, form, body_bounds=bounds)
    request = await snapshot.off_loop.run(parse) if len(body) > LONG_BYTES else parse()
    if request.model_in_prompt:
        request = request._replace(model=route.model)
    if request.previous_response_id and known_response is None:  # the provider keeps it, so its length is unknown
        request = request._replace(work=request.work._replace(unseen=True))
    route, admission_request = _admission_request(snapshot, record, client, key, request, route, target, known_response)
    return Routed(key, target, request, route, known_response, admission_request)


def request_about(known_response: KnownResponse, query: bytes) -> RequestBody:
    """Returns the request for a call that refers to a response by its id. It has no body, and the response's model."""
    return RequestBody(
        HeldBody(b""),
        model=known_response.model,
        stream=asks_for_stream(query),
        max_output_tokens=None,
        previous_response_id=None,
        input_tokens_estimate=0,
    )


def _with_chosen_candidates(
    snapshot: ConfigSnapshot,
    route: Route,
    client: Client,
    request: RequestBody,
    key: ApiKey,
    operation: Operation | None,
) -> Route:
    """Returns the route with its candidates filtered and ordered by operation, session and the caller's preferences."""
    if route.rule.weights or snapshot.has_several_keys:
        route = snapshot.router.in_session(route, _session(route.rule.affinity, client, request, key))
    if operation is not None:
        is_own = route.rule.state == "gateway" and operation.begins_turn
        route = restrict_to_offering(snapshot, route, CREATE if is_own else operation)
    return route if request.preferences is None else apply_preferences(snapshot, route, request.preferences)


def _session(affinity: Affinity, client: Client, request: RequestBody, key: ApiKey) -> str:
    """Returns the name of the request's session, with its team. "": it has none, or its route has no affinity."""
    if affinity == "none":
        return ""
    fields = client.fields
    named = next((fields[name].decode("latin-1") for name in SESSION_HEADERS if fields.get(name)), request.session)
    if not named and affinity == "api_key":
        named = key.key_id
    return f"{key.team_id}/{named}" if named else ""


def _admission_request(
    snapshot: ConfigSnapshot,
    record: RequestRecord,
    client: Client,
    key: ApiKey,
    request: RequestBody,
    route: Route,
    target: Target,
    known_response: KnownResponse | None,
) -> tuple[Route, AdmissionRequest]:
    reserved = NO_RESERVATION  # it counts as a request, but reserves no credits
    form = target.operation.dialect.request
    now_ms = time.time_ns() // 1_000_000
    if request.model_in_prompt:
        route = price_by_answer(snapshot, route, request)
    says_more = request.work is not NO_WORK or request.facts.service_tier or route.variants
    if says_more and target.response_id is None:
        route = check_fields(request, route, snapshot, now_ms)
    if target.operation.charge == "usage or estimate":
        reserved = reserve(request, target.operation, route, snapshot.router, snapshot.limits, known_response, now_ms)
    input_tokens, output_tokens, worst, sends_bound = reserved
    output_field_tokens = MAX_OUTPUT_TOKENS_FIELD if request.max_output_tokens is None and form.has_output else 0
    operation = target.operation
    demand = Demand(
        route.model, worst.amount_nano_usd, input_tokens, output_tokens, worst, output_field_tokens, operation.name
    )
    free = operation.charge == "free"
    idempotency_key = None if free else client.text(b"idempotency-key")
    if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_IDEMPOTENCY_KEY:
        raise GatewayError(
            "invalid_field",
            f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} characters.",
            param="Idempotency-Key",
        )
    max_output_tokens = request.max_output_tokens
    end_user = NOBODY if target.response_id is not None else snapshot.limits.unnamed
    if request.labels is not NO_LABELS or END_USER_HEADER in client.fields:
        labels = named_by(client.fields.get(END_USER_HEADER), request.labels)
        end_user = counted_as(labels, snapshot.limits.attribution, end_user)
    return route, AdmissionRequest(
        record.request_id,
        key,
        route.patterns,
        demand,
        max_output_tokens,
        idempotency_key,
        sends_bound,
        operation.grants,
        free,
        limited=route.limited,
        tags=record.tags,
        end_user=end_user,
    )


def _refuse_upgrade(client: Client) -> None:
    """Refuses an upgrade. RFC 9110 permits ignoring it, but llhttp stops behind the head, so that the body is lost."""
    if client.fields.get(b"upgrade") is not None and b"upgrade" in (client.fields.get(b"connection") or b"").lower():
        raise GatewayError("upgrade_unsupported", "This gateway speaks HTTP/1.1: send the request without 'Upgrade'.")
