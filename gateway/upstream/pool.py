"""The native transport: a pool of HTTP/1.1 connections to one origin.

    send takes an idle connection (the last used one first)  -> writes the request, waits for the head
         or a new one if fewer than max_connections are open -> dials, TLS handshake
         or waits in a queue, first come first served, for at most connect_timeout_s

A connection occupies one of `max_connections` places from the start of dialling until its socket is closed. While
callers queue, a connection or a place that becomes free goes to the first of them.

The upstream may close a reused connection while a request is being written. If the connection dies before the first
byte of the answer, the request is repeated once on a new connection, because other idle ones may be dead too. An
idempotent method (GET, DELETE) is always repeated, any other one only if the connection died so soon that no server can
have worked on the request: within `replay_within_s` and two round trips. If the pool is full, an idle connection is
closed for the new one, or the next one that becomes free. A request on a new connection is never repeated.
"""

import asyncio
import time
from collections import deque

from gateway.concurrency.disk_body import SentBody
from gateway.types import Body
from gateway.upstream.answer import NativeAnswer
from gateway.upstream.connector import Connector
from gateway.upstream.http1 import Http1Connection
from gateway.upstream.request_head import RequestHeads
from gateway.upstream.transport import FaultKind, Progress, TransportConfig, UpstreamFault


class NativeTransport:
    """`transport.Transport` over asyncio and httptools. Belongs to the event loop of its first request.

    Raises:
        ValueError: the base URL, the proxy or a TLS file is invalid.
    """

    def __init__(self, config: TransportConfig) -> None:
        self._config = config
        self._connector = Connector(config, ["http/1.1"])
        self._heads = RequestHeads(self._connector.origin, self._connector.http_proxy)
        # Mutable from here on.
        self._connections: set[Http1Connection] = set()  # every occupied place
        self._idle: dict[Http1Connection, None] = {}  # an ordered set: oldest first
        self._queue: deque[asyncio.Future[Http1Connection]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None  # `close` waits for it
        self._closed = False

    @property
    def open_connections(self) -> int:
        """Connections that are open or being opened."""
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        """Open connections that wait for a request."""
        return len(self._idle)

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: Body | SentBody,
        progress: Progress | None = None,
    ) -> NativeAnswer:
        """See `Transport.send`."""
        head = self._heads.build(method, target, headers, len(body))
        connection = self._idle.popitem()[0] if self._idle else await self._acquire()
        may_retry = connection.answered
        while True:
            answer, written_s = connection.begin(head, body), time.monotonic()
            if answer.fault is None:
                if progress is not None:
                    progress.sent = True
                try:
                    await connection.wait(answer, self._config.first_byte_timeout_s)
                except asyncio.CancelledError:
                    answer.abort()
                    raise
            fault = answer.fault
            if fault is None or answer.status:  # the body may be cut already, but its head still counts
                return answer
            if not may_retry or fault.kind is not FaultKind.RESET or not connection.unanswered:
                raise fault
            if not self._connector.may_replay(method, fault, written_s):
                raise fault
            may_retry = 0
            try:
                connection = await self._acquire(fresh=True)
            except UpstreamFault as later:
                later.sent = later.sent or fault.sent  # bytes of the first attempt count as sent
                raise

    async def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(_closed())
        for connection in list(self._connections):
            connection.fail(FaultKind.CUT, "the gateway closed its connections")
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._connections:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=self._config.connect_timeout_s)

    # http1.Owner

    def connection_free(self, connection: Http1Connection) -> None:
        """Give the connection to the first in the queue, or keep it for the next request."""
        if self._queue and self._hand_over(connection):
            return
        if self._closed or len(self._idle) >= self._config.max_idle:
            connection.close()
            return
        self._idle[connection] = None
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._config.idle_expiry_s, self._sweep)

    def connection_closing(self, connection: Http1Connection) -> None:
        """Use the connection for no more requests."""
        self._idle.pop(connection, None)

    def connection_lost(self, connection: Http1Connection) -> None:
        """Give the connection's place to the first in the queue. Idempotent."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if self._queue and not self._closed:
            successor = self._new()
            if not self._hand_over(successor):
                self._connections.discard(successor)
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    # internals

    async def _acquire(self, *, fresh: bool = False) -> Http1Connection:
        """Return a connected connection for this caller alone. `fresh`: it has not been used before."""
        self._refuse_if_closed()
        if self._idle and not fresh:
            return self._idle.popitem()[0]
        while True:
            full = len(self._connections) >= self._config.max_connections
            if full and self._idle:
                next(iter(self._idle)).close()
            connection = await self._wait_in_queue(first=fresh) if full else self._new()
            if not fresh or not connection.connected:
                break
            connection.close()  # a used connection became free, of which only the place is needed
        if not connection.connected:
            await self._connect(connection)
            self._refuse_if_closed()  # `close` was called while the connection was being opened
        return connection

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise _closed()

    def _new(self) -> Http1Connection:
        """Occupy a place."""
        connection = Http1Connection(self, self._config, asyncio.get_running_loop())
        self._connections.add(connection)
        return connection

    async def _wait_in_queue(self, *, first: bool) -> Http1Connection:
        """Return a free connection, or an unconnected one that already has its place."""
        waiter: asyncio.Future[Http1Connection] = asyncio.get_running_loop().create_future()
        (self._queue.appendleft if first else self._queue.append)(waiter)
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                return await waiter
        except BaseException as error:
            if waiter.cancelled():
                self._queue.remove(waiter)
            elif waiter.exception() is None:  # it arrived in the turn in which the wait ended
                self._give_back(waiter.result())
            if isinstance(error, TimeoutError):
                detail = f"all {self._config.max_connections} connections are busy"
                raise UpstreamFault(FaultKind.POOL_FULL, detail, sent=False) from None
            raise

    def _hand_over(self, connection: Http1Connection) -> bool:
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _give_back(self, connection: Http1Connection) -> None:
        if not connection.connected:
            self.connection_lost(connection)
        elif not connection.closed:
            self.connection_free(connection)

    async def _connect(self, connection: Http1Connection) -> None:
        """Open a connection. After any failure the place is free again."""
        try:
            await self._connector.open(lambda: connection)
        except BaseException:
            connection.close()
            # uvloop does not call it if it is cancelled between connection_made and returning
            self.connection_lost(connection)
            raise

    def _sweep(self) -> None:
        """Close connections that have been idle for too long, and schedule the next sweep."""
        self._sweeper = None
        loop = asyncio.get_running_loop()
        expired = loop.time() - self._config.idle_expiry_s
        while self._idle:
            oldest = next(iter(self._idle))
            if oldest.idle_since > expired:
                self._sweeper = loop.call_at(oldest.idle_since + self._config.idle_expiry_s, self._sweep)
                return
            oldest.close()


def _closed() -> UpstreamFault:
    return UpstreamFault(FaultKind.CONNECT, "the transport is closed", sent=False)
