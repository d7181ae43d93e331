"""Sends a plan as an answer, with the faults that its behaviour demands.

| behaviour  | streamed                | plain                       |
|------------|-------------------------|-----------------------------|
| slow       | waits before each token | waits the sum, then answers |
| stall, cut | after n events          | after half the body         |
| end        | after n events, cleanly | whole answer                |
| stall-head | no head at all          | no head at all              |

Returning without the last body message makes the server close the connection inside the body.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Final

import orjson

from gateway.simulator.behaviours import Behaviour
from gateway.simulator.events import AFTER_DONE, DONE, Frame, frames, in_lines, response_object
from gateway.simulator.http_exchange import JSON_HEADERS, Headers, HttpExchange
from gateway.simulator.plan import Plan
from gateway.simulator.request import ProviderError

_COALESCE_BYTES: Final = 16 * 1024
_SSE_HEADERS: Final = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))
_ERROR_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "insufficient_credits",
    403: "permission_denied",
    404: "not_found",
    408: "timeout",
    429: "too_many_requests",
    502: "model_error",
}
_RETRY_AFTER: Final = ((b"retry-after", b"1"),)
_RETRYABLE: Final = (429, 503)
_FIRST_SERVER_ERROR: Final = 500
_MS_PER_S: Final = 1000


def _request_id() -> tuple[bytes, bytes]:
    return (b"x-request-id", b"req_%b" % secrets.token_hex(12).encode())


async def send_error(exchange: HttpExchange, error: ProviderError, headers: Headers | None = None) -> None:
    """Sends an error in the form of the API that was asked."""
    name, request_id = _request_id()
    body = _error_body(exchange, error, request_id.decode())
    await exchange.respond(error.status, body, [*JSON_HEADERS, (name, request_id), *(headers or ())])


def _error_body(exchange: HttpExchange, error: ProviderError, request_id: str) -> bytes:
    is_message = exchange.scope["path"].startswith("/v1/messages")
    return error.message_body(request_id) if is_message else error.body()


async def send_misbehaviour(exchange: HttpExchange, behaviour: Behaviour, model: str) -> bool:
    """Answers for behaviours that need no plan. Returns False if there is still an answer to send."""
    if behaviour.stall_head:
        await exchange.wait_for_leaving()
    elif behaviour.error_status is not None:
        status = behaviour.error_status
        kind = _ERROR_TYPES.get(status, "invalid_request" if status < _FIRST_SERVER_ERROR else "server_error")
        error = ProviderError("simulated_error", f"{model} answers {status}", status=status, type_=kind)
        await send_error(exchange, error, _RETRY_AFTER if status in _RETRYABLE else None)
    elif behaviour.canned == "html":
        page = b"<!doctype html><title>Simulator</title><p>This is a page, not an answer."
        await exchange.respond(200, page, [(b"content-type", b"text/html; charset=utf-8")])
    elif behaviour.canned == "error":
        error = ProviderError("simulated_error", f"{model} answers 200 with an error", type_="server_error")
        await exchange.respond(200, _error_body(exchange, error, _request_id()[1].decode()))
    else:
        return False
    return True


async def send_plain(exchange: HttpExchange, plan: Plan, status: str = "") -> None:
    """Sends one response. `status` as in `response_object`."""
    body = orjson.dumps(response_object(plan, status))
    await send_text(exchange, plan.request.behaviour, body, 0 if status else plan.token_count)


async def send_text(
    exchange: HttpExchange, behaviour: Behaviour, body: bytes, tokens: int, kind: bytes = b"application/json"
) -> None:
    """Sends an answer of so many tokens in one piece."""
    delay_ms = behaviour.token_delay_ms * tokens
    if delay_ms and await exchange.wait_for_leaving(delay_ms / _MS_PER_S):
        return
    if behaviour.canned == "bad-json":
        body = body[: len(body) // 2]
    headers = [(b"content-type", kind), _request_id()]
    if behaviour.stall_after is None and behaviour.cut_after is None:
        await exchange.respond(200, body, headers)
        return
    await exchange.start(200, [(b"content-length", b"%d" % len(body)), *headers])
    await exchange.write(body[: len(body) // 2])
    if behaviour.stall_after is not None:
        await exchange.wait_for_leaving()


async def send_stream(exchange: HttpExchange, plan: Plan) -> None:
    """Sends the plan's events."""
    behaviour = plan.request.behaviour
    await send_frames(exchange, behaviour, frames(plan), DONE + (AFTER_DONE if behaviour.after_done else b""))


async def send_frames(exchange: HttpExchange, behaviour: Behaviour, events: Iterable[Frame], done: bytes) -> None:
    """Sends events and then `done`. Events without a delay are sent together, in writes of 16 KiB."""
    stops = [n for n in (behaviour.stall_after, behaviour.cut_after, behaviour.end_after) if n is not None]
    stop = min(stops, default=None)
    await exchange.start(200, [*_SSE_HEADERS, _request_id()])
    waiting = bytearray()
    count = 0
    for frame in events:
        if count == stop:
            await _stop(exchange, behaviour, bytes(waiting), count)
            return
        if frame.is_token and behaviour.token_delay_ms:
            await exchange.write(bytes(waiting))
            waiting.clear()
            if await exchange.wait_for_leaving(behaviour.token_delay_ms / _MS_PER_S):
                return
        waiting += frame.data
        count += 1
        if len(waiting) > _COALESCE_BYTES:
            await exchange.write(bytes(waiting))
            waiting.clear()
            if await exchange.wait_for_leaving(0):
                return
    if count == stop:
        await _stop(exchange, behaviour, bytes(waiting), count)
        return
    if behaviour.done:
        waiting += in_lines(done, behaviour.newline)
    await exchange.finish(bytes(waiting))


async def _stop(exchange: HttpExchange, behaviour: Behaviour, data: bytes, count: int) -> None:
    if behaviour.end_after == count:
        await exchange.finish(data)
        return
    await exchange.write(data)
    if behaviour.stall_after == count:
        await exchange.wait_for_leaving()


async def send_replay(exchange: HttpExchange, plan: Plan, after: int) -> None:
    """The plan's events again, those with a sequence number above `after`, without misbehaviour."""
    await exchange.start(200, [*_SSE_HEADERS, _request_id()])
    events = (frame.data for frame in frames(plan, well_behaved=True) if frame.sequence_number > after)
    await exchange.finish(b"".join(events) + DONE)
