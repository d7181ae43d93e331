"""Answers that need no provider: calls for responses that the gateway stores, and other answers of its own.

No upstream is called, and nothing is held or charged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.billing.lifecycle import Outcome
from gateway.concurrency.cancellation import CancelScope, Reason, ScopeCancelled
from gateway.http.client import Client
from gateway.identity.api_keys import key_of_request
from gateway.ledger.known_responses import KnownResponses
from gateway.observability.request_record import RequestRecord
from gateway.protocol.lenient_json import dumps
from gateway.protocol.operations import Target
from gateway.proxy.admission import Routed
from gateway.state.stored_calls import LocalAnswer, LocalStream
from gateway.state.turns import Turns


async def serve_stored(
    turns: Turns, responses: KnownResponses, target: Target, client: Client, record: RequestRecord
) -> LocalAnswer | LocalStream | None:
    """Returns the answer, or None if the gateway does not store the response. Raises GatewayError."""
    key = key_of_request(client.fields)
    record.key = key
    await responses.check(key, target.operation)
    operation, response_id = target.operation.name.rpartition(".")[2], target.response_id or ""
    answer = await turns.stored.serve(operation, key, response_id, client.scope["query_string"])
    if answer is not None:
        record.outcome, record.response_id = Outcome.SERVED, response_id
    return answer


_SSE: Final = b"text/event-stream"
LocalResponder = Callable[[Routed], bytes]
"""Makes the answer, as events, to a request that has passed steps 1 to 3 and needs no upstream."""


async def answer_locally(
    responder: LocalResponder | None, routed: Routed, responses: KnownResponses, client: Client, record: RequestRecord
) -> bool:
    """Answers a request by `responder`, or counts the tokens of its turn. Returns whether the request was answered.

    Tokens are counted here on routes whose state the gateway keeps. Raises GatewayError if the key is not valid.
    """
    if responder is None and routed.turn is None:
        return False
    try:
        await responses.check(routed.key)
        answer = _count(routed) if responder is None else LocalAnswer(_SSE, responder(routed))
    finally:
        if routed.turn is not None:
            await routed.turn.close()
    record.outcome = Outcome.SERVED
    await client.answer(200, answer.head(record.request_id), answer.body)
    return True


def _count(routed: Routed) -> LocalAnswer:
    """Returns the number of tokens of the input and of what it continues, which is the number that would be held."""
    count = {"object": "response.input_tokens", "input_tokens": routed.request.input_tokens_estimate}
    return LocalAnswer(b"application/json", dumps(count))


async def pass_on(
    answer: LocalAnswer | LocalStream, client: Client, request_id: str, scopes: set[CancelScope], deadline_s: float
) -> None:
    """Sends the answer. A stream lasts until its events end, its client leaves, or its scope in `scopes` is cancelled.

    `deadline_s`: the event loop's time at which a stream is over. A client can resume it.
    """
    if isinstance(answer, LocalAnswer):
        await client.answer(200, answer.head(request_id), answer.body)
        return
    scope = CancelScope(deadline_s)
    scopes.add(scope)
    await client.start(200, answer.head(request_id))
    client.flush()
    watch = client.watch(lambda: scope.cancel(Reason.CLIENT_LEFT))
    try:
        with scope:
            async for data in answer.events:
                await client.write(data)
    except ScopeCancelled:
        pass  # the response goes on, and its client can follow it again
    finally:
        watch.close()
        scopes.discard(scope)
    await client.end()
