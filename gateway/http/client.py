"""The client's side of an exchange: an ASGI connection, read and written without a framework.

    fields                the request's headers by their lower-case names; the last one where a name occurs twice
    read_body(...)        step 2's bytes, bounded in size and time
    start / write / end   the answer, in pieces; straight to the connection where the server is ours: request_cycle.py
    buffer / flush        bytes that wait for the next ones, and an end to that
    watch(on_leave)       tells when the client is gone
    answer(...)           the answer, whole

State that changes: `status` (None until the head is sent), `bytes_out`, `first_byte` (when the body's was written).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from gateway.errors import GatewayError
from gateway.http.disconnect import DisconnectWatch
from gateway.http.request_cycle import EXTENSION, RequestCycle
from gateway.types import Body, Headers, Message, Receive, Scope, Send


class Watch(Protocol):
    """What `Client.watch` gives."""

    def close(self) -> None:
        """Stops watching. Idempotent."""


class ClientDisconnected(Exception):
    """The client closed its connection before its request was whole."""


class Client:
    """One request's client."""

    __slots__ = (
        "_cycle",
        "_send",
        "_unsent",
        "bytes_out",
        "fields",
        "first_byte",
        "headers",
        "receive",
        "scope",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        # Taken out: a Wire that its own scope leads to would be garbage that only the collector finds.
        self._cycle: RequestCycle | None = scope.get("extensions", {}).pop(EXTENSION, None)
        self._unsent = b""
        self.headers: Headers = scope["headers"]
        self.fields: dict[bytes, bytes] = self._cycle.fields if self._cycle is not None else dict(self.headers)
        self.status: int | None = None
        self.bytes_out = 0
        self.first_byte: float | None = None

    def text(self, name: bytes) -> str | None:
        """A request header as text."""
        value = self.fields.get(name)
        return None if value is None else value.decode("latin-1")

    def body_length(self, max_bytes: int) -> int | None:
        """The body's length if it is known before it is read. Raises GatewayError `body_too_large`."""
        text = self.fields.get(b"content-length", b"")
        length = int(text) if text.isdigit() else None
        if length is not None and length > max_bytes:
            raise _too_large(max_bytes)
        return length

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """The request's body. Raises GatewayError `body_too_large`, `request_timeout`; ClientDisconnected."""
        cycle = self._cycle
        if cycle is None:
            return await self._read_messages(max_bytes, timeout_s)
        here: Body | None = cycle.take_body()
        if here is None:
            try:
                async with asyncio.timeout(timeout_s):
                    here = await cycle.read_body(length, max_bytes)
            except TimeoutError:
                raise _too_slow(timeout_s) from None
            if here is None:
                raise ClientDisconnected
        return _bounded(here, max_bytes)

    async def _read_messages(self, max_bytes: int, timeout_s: float) -> Body:
        message = await self._first_message(timeout_s)
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return _bounded(body, max_bytes)
        pieces, size = [body], len(body)
        try:
            async with asyncio.timeout(timeout_s):
                while message.get("more_body", False):
                    message = await self._next_message()
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > max_bytes:
                        raise _too_large(max_bytes)
        except TimeoutError:
            raise _too_slow(timeout_s) from None
        return b"".join(pieces)

    async def _first_message(self, timeout_s: float) -> Message:
        # The usual body is here already, or comes in one piece: no timer for that where its length is short and known.
        if self.fields.get(b"content-length") == b"0":
            return await self._next_message()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._next_message()
        except TimeoutError:
            raise _too_slow(timeout_s) from None

    async def _next_message(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        return message

    async def start(self, status: int, headers: Headers) -> None:
        """The answer's head; it may wait for the first bytes of the body, or for `flush`."""
        self.status = status
        if self._cycle is not None:
            self._cycle.start(status, headers)
        else:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def start_now(self, status: int, headers: Headers) -> bool:
        """The answer's head, without waiting; False where the server does not let us."""
        if self._cycle is None:
            return False
        self.status = status
        self._cycle.start(status, headers)
        return True

    async def write(self, data: bytes) -> None:
        """Sends body bytes; waits while the client is slower than the upstream."""
        if not self.write_now(data):
            await self.drained()

    def write_now(self, data: bytes) -> bool:
        """Sends body bytes without waiting. False: before more is written, `drained` must be awaited."""
        if not self.bytes_out:
            self.first_byte = time.perf_counter()
        self.bytes_out += len(data)
        if self._cycle is None:
            self._unsent += data
            return False
        return self._cycle.write(data)

    def buffer(self, data: bytes) -> None:
        """Sends body bytes together with what follows at once, which may be the end."""
        if data and not self.bytes_out:
            self.first_byte = time.perf_counter()
        self.bytes_out += len(data)
        if self._cycle is None:
            self._unsent += data
        else:
            self._cycle.buffer(data)

    def flush(self) -> None:
        """Sends what waits."""
        if self._cycle is not None:
            self._cycle.flush()

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """Calls back when the client is gone, until `close`. For use after the body has been read."""
        if self._cycle is None:
            return DisconnectWatch(self.receive, on_leave)
        self._cycle.watch(on_leave)
        return self._cycle

    async def drained(self) -> None:
        """Waits until the client has taken what was written, but for a bounded rest; or has left."""
        if self._cycle is not None:
            await self._cycle.drain()
        elif self._unsent:
            data, self._unsent = self._unsent, b""
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Sends the last body bytes."""
        if not self.bytes_out:
            self.first_byte = time.perf_counter()
        self.bytes_out += len(data)
        if self._cycle is not None:
            self._cycle.end(data)
        else:
            await self._send({"type": "http.response.body", "body": self._unsent + data, "more_body": False})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer."""
        cycle = self._cycle
        if cycle is None:
            await self.start(status, headers)
            await self.end(body)
            return
        self.status = status
        self.first_byte = time.perf_counter()
        self.bytes_out += len(body)
        cycle.start(status, headers)
        cycle.end(body)


def _bounded(body: Body, max_bytes: int) -> Body:
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> GatewayError:
    return GatewayError("body_too_large", f"The body may hold {max_bytes} bytes at most.", explain={"limit": max_bytes})


def _too_slow(timeout_s: float) -> GatewayError:
    return GatewayError("request_timeout", f"The body did not arrive within {timeout_s:g} s.")
