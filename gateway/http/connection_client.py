"""A client on the gateway's own connection. It writes without ASGI messages, coroutines or tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.http.asgi_client import AsgiClient
from gateway.http.client import Client, ClientDisconnected, RequestHead, Sink, Watch, bounded, pass_messages, too_slow
from gateway.http.request_cycle import EXTENSION, RequestCycle
from gateway.types import Body, Headers, Receive, Scope, Send


def client_of(scope: Scope, receive: Receive, send: Send) -> Client:
    """Returns the client of a request, on whichever server it came."""
    # Removed from the scope: the cycle refers to its scope, and only the garbage collector would free the two.
    cycle: RequestCycle | None = scope.get("extensions", {}).pop(EXTENSION, None)
    return AsgiClient(scope, receive, send) if cycle is None else ConnectionClient(scope, cycle)


class ConnectionClient(RequestHead):
    """See `client.Client`."""

    __slots__ = ("_cycle",)

    def __init__(self, scope: Scope, cycle: RequestCycle) -> None:
        super().__init__(scope, cycle.fields, cycle.facts)
        self._cycle = cycle

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`. A body that has already arrived sets no timer."""
        cycle = self._cycle
        here: Body | None = cycle.take_body()
        if here is None:
            try:
                async with asyncio.timeout(timeout_s):
                    here = await cycle.read_body(length, max_bytes)
            except TimeoutError:
                raise too_slow(timeout_s) from None
            if here is None:
                raise ClientDisconnected
        return bounded(here, max_bytes)

    async def pass_body(self, sink: Sink, max_bytes: int, timeout_s: float) -> None:
        """See `Client`."""
        cycle = self._cycle
        try:
            async with asyncio.timeout(timeout_s):
                await pass_messages(cycle.receive, sink, max_bytes)
        except TimeoutError:
            raise too_slow(timeout_s) from None
        cycle.connection.resume_reading()  # a client that leaves must be seen

    @property
    def memory_is_scarce(self) -> bool:
        """See `Client`."""
        return self._cycle.connection.budget.is_scarce

    def key_is_known(self) -> None:
        """See `Client`."""
        cycle = self._cycle
        cycle.verified = True
        if cycle.connection.counted_bytes:
            cycle.connection.count_unverified()

    async def start(self, status: int, headers: Headers) -> None:
        """See `Client`."""
        self.start_now(status, headers)

    def start_now(self, status: int, headers: Headers) -> bool:
        """See `Client`."""
        if not self._cycle.disconnected:
            self.status = status
        self._cycle.start(status, headers)
        return True

    async def write(self, data: Body) -> None:
        """See `Client`."""
        if not self.write_now(data):
            await self._cycle.drain()

    def write_now(self, data: Body) -> bool:
        """See `Client`."""
        cycle = self._cycle
        if not cycle.disconnected:
            if not self.bytes_out:
                self.first_byte = time.perf_counter()
            self.bytes_out += len(data)
        return cycle.write(data)

    def buffer(self, data: Body) -> None:
        """See `Client`."""
        if data and not self._cycle.disconnected:
            if not self.bytes_out:
                self.first_byte = time.perf_counter()
            self.bytes_out += len(data)
        self._cycle.buffer(data)

    def flush(self) -> None:
        """See `Client`."""
        self._cycle.flush()

    async def drained(self) -> None:
        """See `Client`."""
        await self._cycle.drain()

    async def end(self, data: Body = b"") -> None:
        """See `Client`."""
        if not self._cycle.disconnected:
            if not self.bytes_out:
                self.first_byte = time.perf_counter()
            self.bytes_out += len(data)
        self._cycle.end(data)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        if not self._cycle.disconnected:
            self.status = status
            self.first_byte = time.perf_counter()
            self.bytes_out += len(body)
        self._cycle.start(status, headers)
        self._cycle.end(body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
        self._cycle.watch(on_leave)
        return self._cycle
