"""One HTTP exchange on the ASGI interface, recorded as it proceeds.

    read body -> [respond]  or  [start, write*, finish]  or  [start, write*, break_off]

A writer pauses in `wait_for_leaving`. From its first call on, a task reads `receive()`, so that a client that leaves is
noticed while the simulator is silent. An answer in one write needs no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import orjson
from starlette.types import Message, Receive, Scope, Send

from gateway.simulator.record import Received
from gateway.simulator.request import ProviderError

Headers = Sequence[tuple[bytes, bytes]]
JSON_HEADERS: Final = ((b"content-type", b"application/json"),)


class ClientDisconnected(Exception):
    """The client closed the connection before the whole request was read."""


class HttpExchange:
    """The two ends of one exchange. Mutable: the record, the watching task."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: Received, max_body_bytes: int) -> None:
        """`record` receives body, status, digest and how it ended."""
        self._max_body_bytes = max_body_bytes
        self.scope = scope
        self._receive = receive
        self._send = send
        self._record = record
        self._watch: asyncio.Task[None] | None = None
        self._ended = False

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.scope["headers"] if key == name), None)

    async def read_body(self) -> bytes:
        """The whole body. Raises `ProviderError` (413) over `max_body_bytes`, and `ClientDisconnected`."""
        parts: list[bytes] = []
        size_bytes = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._record.client_left = True
                raise ClientDisconnected
            parts.append(message.get("body", b""))
            size_bytes += len(parts[-1])
            if size_bytes > self._max_body_bytes:
                raise ProviderError("body_too_large", f"A body may have {self._max_body_bytes} bytes", status=413)
            if not message.get("more_body"):
                body = parts[0] if len(parts) == 1 else b"".join(parts)
                self._record.body = body
                return body

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head."""
        self._record.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send body bytes."""
        self._record.sent.update(data)
        self._record.sent_bytes += len(data)
        message: Message = {"type": "http.response.body", "body": data, "more_body": more}
        await self._send(message)

    async def finish(self, data: bytes = b"") -> None:
        """Send the last body bytes and the end of the body."""
        self._ended = True
        await self.write(data, more=False)

    async def respond(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Send a complete answer with its length; JSON unless `headers` say otherwise."""
        length = (b"content-length", b"%d" % len(body))
        await self.start(status, [length, *(JSON_HEADERS if headers is None else headers)])
        await self.finish(body)

    async def respond_json(self, value: object, status: int = 200) -> None:
        """Send a complete JSON answer."""
        await self.respond(status, orjson.dumps(value))

    @property
    def left(self) -> bool:
        """Whether the client is known to have left."""
        return self._record.client_left

    async def wait_for_leaving(self, timeout_s: float | None = None) -> bool:
        """Wait for the time, or until the client leaves. Returns True if it has left."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_client())
        if timeout_s == 0:
            await asyncio.sleep(0)  # one turn of the loop, in which the watching task may notice it
        else:
            await asyncio.wait({self._watch}, timeout=timeout_s)
        return self.left

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # A server also reports "disconnect" after the end of the answer; that is not a client that left.
        self._record.client_left = not self._ended

    def close(self) -> None:
        """End the exchange: stop watching. An unfinished answer breaks off.

        An ASGI server that receives no last body message closes the connection without the end of the body. That is how
        a cut becomes real on the socket.
        """
        if self._watch is not None:
            self._watch.cancel()
        self._record.finished = True
