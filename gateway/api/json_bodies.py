"""Large JSON bodies of routes that FastAPI serves, which are read and written like those of model requests.

    async with json_object(request) as fields:     counted against `server.max_bodies_bytes` until the block ends
    await json_answer(request, value)              an answer that may be as large

Long bodies are parsed and written in a thread, so that other requests are served meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import Request, Response

from gateway.api.dependencies import services_of
from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError
from gateway.http.asgi_client import AsgiClient
from gateway.http.client import ClientDisconnected
from gateway.protocol.attachments import cut_places, find_attachments, without
from gateway.protocol.body_bounds import BodyBounds, check_bounds
from gateway.state.large_work import LargeWork, dump_whole, is_long, parse_object_whole
from gateway.types import Body, Message


@contextlib.asynccontextmanager
async def json_object(request: Request) -> AsyncIterator[dict[str, Any]]:
    """The object in a request's body; an empty body is an empty object.

    Raises GatewayError `body_too_large`, `too_many_bodies`, `request_timeout`, `invalid_json`.
    """
    snapshot = services_of(request).handler.snapshot
    limits, memory = snapshot.limits, snapshot.body_memory
    client = AsgiClient(request.scope, request.receive, _send_nothing)
    length = client.body_length(limits.max_body_bytes)
    max_bytes = limits.max_body_bytes if length is None else length
    held_bytes = max_bytes if max_bytes > LONG_BYTES else 0
    if held_bytes:
        memory.take(held_bytes)
    try:
        body = await client.read_body(limits.max_body_bytes, limits.body_timeout_s)
        if held_bytes:
            memory.give_back(held_bytes - len(body))
            held_bytes = len(body)
        work = partial(_parsed, body, limits.body_bounds)
        yield await LargeWork(snapshot.off_loop).run(work, is_long=len(body) > LONG_BYTES)
    except ClientDisconnected:
        raise GatewayError("invalid_http", "The body ended too early.") from None  # the client has left
    finally:
        memory.give_back(held_bytes)


async def json_answer(request: Request, value: Any) -> Response:
    """Returns a value as an answer."""
    work = LargeWork(services_of(request).handler.snapshot.off_loop)
    body = await work.run(partial(dump_whole, value), is_long=is_long(value))
    return Response(body, media_type="application/json")


def _parsed(body: Body, bounds: BodyBounds) -> dict[str, Any]:
    if len(body) > LONG_BYTES:
        check_bounds(without(body, cut_places(body, find_attachments(body))), bounds)
    fields = parse_object_whole(bytes(body)) if body else {}
    if fields is None:
        raise GatewayError("invalid_json", "The body must be a JSON object.")
    return fields


async def _send_nothing(message: Message) -> None:
    del message
