"""Answers without a provider: calls about responses that the gateway stores itself, and what it answers here.

No upstream is asked, and nothing is held or charged.
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
AnswersHere = Callable[[Routed], bytes]
"""Gives the answer, as events, to a request that has passed steps 1 to 3 and goes to no upstream."""


async def answered_here(
    here: AnswersHere | None, routed: Routed, responses: KnownResponses, client: Client, record: RequestRecord
) -> bool:
    """Answers a request by `here`, or one for a count of tokens on a route whose state the gateway keeps.

    Returns whether it was answered. Raises GatewayError if its key is not valid.
    """
    if here is None and routed.turn is None:
        return False
    try:
        await responses.check(routed.key)
        answer = _count(routed) if here is None else LocalAnswer(_SSE, here(routed))
    finally:
        if routed.turn is not None:
            await routed.turn.close()
    record.outcome = Outcome.SERVED
    await client.answer(200, answer.head(record.request_id), answer.body)
    return True


def _count(routed: Routed) -> LocalAnswer:
    """How many tokens an input has, with what it continues: as many as would be held for it."""
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
        pass  # the response goes on, and whoever wants more of it asks again
    finally:
        watch.close()
        scopes.discard(scope)
    await client.end()
