"""The HTTP/2 transport: requests share a few connections to one origin, each on a stream of its own.

    send: takes a place (`max_connections` bounds the exchanges), then a connection that has room, or a new one
    If the TLS handshake does not select HTTP/2, the native transport is used from then on.

As in the native pool, a request is repeated on a new connection if a reused connection died before the answer began. A
request whose stream the upstream reset is only repeated if the upstream states that it had not begun.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final

from gateway.concurrency.disk_body import SentBody
from gateway.types import Body
from gateway.upstream.answer import NativeAnswer
from gateway.upstream.connector import Connector
from gateway.upstream.http2 import Http2Connection
from gateway.upstream.pool import NativeTransport
from gateway.upstream.request_head import RequestHeads
from gateway.upstream.transport import FaultKind, Progress, TransportConfig, UpstreamFault

_ALPN: Final = ("h2", "http/1.1")


class _ProtocolSelector(asyncio.Protocol):
    """Waits until TLS has negotiated a protocol, and hands the connection over."""

    def __init__(self, connection: Http2Connection) -> None:
        self._connection = connection
        self.speaks_http2 = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up."""
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.speaks_http2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        if self.speaks_http2:
            transport.set_protocol(self._connection)
            self._connection.connection_made(transport)
        else:
            transport.close()


class Http2Transport:
    """`transport.Transport` over HTTP/2. Mutable: connections, places, and whether the upstream speaks HTTP/2.

    Raises:
        ValueError: the base URL, the proxy or a TLS file is invalid.
    """

    def __init__(self, config: TransportConfig) -> None:
        self._config = config
        self._connector = Connector(config, _ALPN)
        self._heads = RequestHeads(self._connector.origin)
        self._native = NativeTransport(config)
        self._speaks_http2 = True
        self._connections: set[Http2Connection] = set()
        self._places = asyncio.Semaphore(config.max_connections)
        self._dialling = asyncio.Lock()  # callers without a connection wait for the one that dials
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open_connections(self) -> int:
        """Connections that are open or being opened."""
        return len(self._connections) + self._native.open_connections

    @property
    def idle_connections(self) -> int:
        """Open connections that wait for a request."""
        idle = sum(1 for one in self._connections if one.connected and not one.running)
        return idle + self._native.idle_connections

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: Body | SentBody,
        progress: Progress | None = None,
    ) -> NativeAnswer:
        """See `Transport.send`."""
        if not self._speaks_http2:
            return await self._native.send(method, target, headers, body, progress)
        fields = self._fields(method, target, headers, len(body))
        await self._take_place()
        placed = True

        def release() -> None:
            nonlocal placed
            if placed:
                placed = False
                self._places.release()

        try:
            known = self._connection_with_room()
            connection = known or await self._new_connection()
            if connection is None:
                release()
                return await self._native.send(method, target, headers, body, progress)
            may_retry = connection is known or connection.running > 0
            return await self._exchange(connection, fields, body, release, progress, may_retry=may_retry)
        except BaseException:  # cancellation included: the place must become free
            release()
            raise

    async def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        for connection in list(self._connections):
            connection.close(FaultKind.CUT, "the gateway closed its connections")
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await self._native.close()

    # http2.Owner

    def connection_closing(self, connection: Http2Connection) -> None:
        """See `http2.Owner`. `has_room` is False from now on."""

    def connection_lost(self, connection: Http2Connection) -> None:
        """See `http2.Owner`."""
        self._connections.discard(connection)

    # internals

    def _fields(
        self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body_size: int
    ) -> list[tuple[bytes, bytes]]:
        origin = self._connector.origin
        given = self._heads.fields(method, target, headers)
        fields = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", origin.authority),
            (b":path", origin.path + target),
            *((name.lower(), value) for name, value in given),
        ]
        if body_size or method == b"POST":
            fields.append((b"content-length", b"%d" % body_size))
        return fields

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await self._places.acquire()
        except TimeoutError:
            detail = f"all {self._config.max_connections} connections are busy"
            raise UpstreamFault(FaultKind.POOL_FULL, detail, sent=False) from None

    async def _exchange(
        self,
        connection: Http2Connection,
        fields: list[tuple[bytes, bytes]],
        body: Body | SentBody,
        release: Callable[[], None],
        progress: Progress | None,
        *,
        may_retry: bool,
    ) -> NativeAnswer:
        sent = False
        while True:
            deferred = _DeferredRelease(release)
            stream, written_s = connection.begin(fields, body, deferred.on_stream_end), time.monotonic()
            answer = stream.answer
            if answer.fault is None:
                if progress is not None:
                    progress.sent = True
                try:
                    await stream.wait(answer, self._config.first_byte_timeout_s)
                except asyncio.CancelledError:
                    answer.abort()
                    raise
            fault = answer.fault
            if fault is None or answer.status:  # the body may be cut already, but its head still counts
                deferred.release_at_stream_end()
                return answer
            fault.sent, sent = fault.sent or sent, fault.sent or sent  # bytes of the first attempt count as sent
            lost = fault.kind is FaultKind.RESET and (connection.closed or not fault.sent)
            if not may_retry or not lost or not self._connector.may_replay(fields[0][1], fault, written_s):
                raise fault
            may_retry = False
            fresh = await self._dial()
            if fresh is None:
                raise fault
            connection = fresh

    def _connection_with_room(self) -> Http2Connection | None:
        return next((one for one in self._connections if one.has_room), None)

    async def _new_connection(self) -> Http2Connection | None:
        """Return a connection with room for a request, or None if the upstream does not speak HTTP/2."""
        self._refuse_if_closed()
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await self._dialling.acquire()
        except TimeoutError:
            detail = f"not connected after {self._config.connect_timeout_s} s"
            raise UpstreamFault(FaultKind.CONNECT_TIMEOUT, detail, sent=False) from None
        try:
            return self._connection_with_room() or await self._dial()
        finally:
            self._dialling.release()

    async def _dial(self) -> Http2Connection | None:
        self._refuse_if_closed()
        if not self._speaks_http2:
            return None
        connection = Http2Connection(self, self._config)
        selector = _ProtocolSelector(connection)
        self._connections.add(connection)
        try:
            await self._connector.open(lambda: selector)
        except BaseException:
            connection.close()
            self._connections.discard(connection)
            raise
        if not selector.speaks_http2:
            self._speaks_http2 = False
            self._connections.discard(connection)
            return None
        self._refuse_if_closed(connection)
        connection.idle_since_s = asyncio.get_running_loop().time()
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._config.idle_expiry_s, self._sweep)
        return connection

    def _refuse_if_closed(self, connection: Http2Connection | None = None) -> None:
        if self._closed:
            if connection is not None:
                connection.close()
            raise UpstreamFault(FaultKind.CONNECT, "the transport is closed", sent=False)

    def _sweep(self) -> None:
        """Close connections that have been idle for too long, or that exceed `max_idle`."""
        self._sweeper = None
        loop = asyncio.get_running_loop()
        idle = sorted((one for one in self._connections if not one.running), key=lambda one: one.idle_since_s)
        expired_s = loop.time() - self._config.idle_expiry_s
        surplus = len(idle) - self._config.max_idle
        for number, connection in enumerate(idle):
            if number < surplus or connection.idle_since_s <= expired_s:
                connection.close()
        if self._connections:
            self._sweeper = loop.call_later(self._config.idle_expiry_s, self._sweep)


class _DeferredRelease:
    """Releases a place at the end of a stream, but only after its head has come. Mutable.

    If the attempt fails before that, the repeated attempt keeps the place.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._is_deferred = True
        self._ended = False

    def on_stream_end(self) -> None:
        """Releases the place unless that is deferred. To be called when the stream has ended."""
        self._ended = True
        if not self._is_deferred:
            self._release()

    def release_at_stream_end(self) -> None:
        """Releases the place at the end of the stream, or at once if it has ended already."""
        self._is_deferred = False
        if self._ended:
            self._release()
