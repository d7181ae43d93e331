"""A client on any ASGI server. Its body and its answer are ASGI messages. A task waits for its disconnect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.http.client import (
    ClientDisconnected,
    RequestHead,
    Sink,
    Watch,
    bounded,
    pass_messages,
    too_large,
    too_slow,
)
from gateway.types import Body, Headers, Message, Receive, Scope, Send


class AsgiClient(RequestHead):
    """See `client.Client`.

    Further mutable state: `_unsent` holds the bytes that go out with the next message, and `_gone` says whether the
    client has disconnected.
    """

    __slots__ = ("_gone", "_receive", "_send", "_unsent")

    starts_now = False  # each message is awaited

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, dict(scope["headers"]))
        self._receive = receive
        self._send = send
        self._unsent = b""
        self._gone = False

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`."""
        del length  # each ASGI message says whether more follows
        try:
            async with asyncio.timeout(timeout_s):
                return bounded(await self._read_messages(max_bytes), max_bytes)
        except TimeoutError:
            raise too_slow(timeout_s) from None

    async def _read_messages(self, max_bytes: int) -> Body:
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            piece: bytes = message.get("body", b"")
            if not message.get("more_body", False):
                return piece if not body else body + piece
            body += piece
            if len(body) > max_bytes:
                raise too_large(max_bytes)

    async def pass_body(self, sink: Sink, max_bytes: int, timeout_s: float) -> None:
        """See `Client`."""
        try:
            async with asyncio.timeout(timeout_s):
                await pass_messages(self._receive, sink, max_bytes)
        except TimeoutError:
            raise too_slow(timeout_s) from None

    @property
    def memory_is_scarce(self) -> bool:
        """See `Client`. An ASGI server bounds its own memory."""
        return False

    def key_is_known(self) -> None:
        """See `Client`."""

    async def start(self, status: int, headers: Headers) -> None:
        """See `Client`."""
        if not self._gone:
            self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def start_now(self, status: int, headers: Headers) -> bool:
        """See `Client`. Always False, because each message is awaited."""
        del status, headers
        return False

    async def write(self, data: Body) -> None:
        """See `Client`."""
        self.write_now(data)
        await self.drained()

    def write_now(self, data: Body) -> bool:
        """See `Client`."""
        self._note(data)
        self._unsent += data
        return False

    def buffer(self, data: Body) -> None:
        """See `Client`."""
        if data:
            self._note(data)
            self._unsent += data

    def flush(self) -> None:
        """See `Client`. Nothing to do: `start` has sent the head, and `drained` sends the bytes."""

    async def drained(self) -> None:
        """See `Client`."""
        if self._unsent:
            data, self._unsent = self._unsent, b""
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: Body = b"") -> None:
        """See `Client`."""
        self._note(data)
        data, self._unsent = self._unsent + data, b""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        await self.start(status, headers)
        await self.end(body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""

        def left() -> None:
            self._gone = True
            on_leave()

        return DisconnectWatch(self._receive, left)

    def _note(self, data: Body) -> None:
        if self._gone:
            return
        if not self.bytes_out:
            self.first_byte = time.perf_counter()
        self.bytes_out += len(data)


class DisconnectWatch:
    """A task that waits for `http.disconnect` and calls back; `close` ends it."""

    def __init__(self, receive: Receive, on_leave: Callable[[], object]) -> None:
        self._task = asyncio.create_task(self._wait(receive, on_leave))

    async def _wait(self, receive: Receive, on_leave: Callable[[], object]) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await receive()
        on_leave()

    def close(self) -> None:
        """Stops watching. Idempotent."""
        self._task.cancel()
