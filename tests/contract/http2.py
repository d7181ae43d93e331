"""An upstream that speaks HTTP/2 over TLS on a real socket, and answers as a test tells it to.

    async with serve_http2(context) as upstream:
        ...a request is sent...                     upstream.streams: every one that has arrived whole
        stream.head(); stream.data(b"..."); stream.end() | stream.reset(code) | stream.goaway(last) | stream.drop()

`reply` is called with each whole request, for tests that need not drive it themselves.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

import h2.config
import h2.connection
import h2.events
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings


@dataclass
class Upstream:
    """What the test sees of the server (mutable)."""

    url: str = ""
    streams: list["Stream"] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)  # error codes with which the client has reset streams
    accepted: int = 0
    gone: int = 0
    connections: list["_Connection"] = field(default_factory=list)

    def pause_reading(self) -> None:
        for connection in self.connections:
            connection.wire.pause_reading()

    def resume_reading(self) -> None:
        for connection in self.connections:
            connection.wire.resume_reading()


@dataclass
class Stream:
    """One request, and the way to answer it (mutable)."""

    connection: "_Connection"
    id: int
    headers: dict[bytes, bytes]
    body: bytearray = field(default_factory=bytearray)

    def head(self, status: int = 200) -> None:
        self.connection.state.send_headers(
            self.id, [(":status", str(status)), ("content-type", "text/event-stream"), ("x-kept", "yes")]
        )
        self.connection.flush()

    def data(self, *frames: bytes) -> None:
        for frame in frames:
            self.connection.state.send_data(self.id, frame)
            self.connection.flush()

    def end(self) -> None:
        self.connection.state.end_stream(self.id)
        self.connection.flush()

    def reset(self, code: ErrorCodes) -> None:
        self.connection.state.reset_stream(self.id, code)
        self.connection.flush()

    def goaway(self, last_stream_id: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """As a frame: h2 itself would send nothing any more behind it."""
        body = last_stream_id.to_bytes(4, "big") + int(code).to_bytes(4, "big")
        self.raw(len(body).to_bytes(3, "big") + b"\7\0\0\0\0\0" + body)

    def raw(self, data: bytes) -> None:
        self.connection.wire.write(data)

    def drop(self) -> None:
        self.connection.wire.abort()


Reply = Callable[[Stream], None]


def json_answer(stream: Stream) -> None:
    stream.head()
    stream.data(b'{"echo": %d}' % len(stream.body))
    stream.end()


def wait_for_the_test(_stream: Stream) -> None:
    """Answer nothing: the test does."""


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream, reply: Reply, window_bytes: int | None) -> None:
        self._window_bytes = window_bytes
        self._upstream = upstream
        self._reply = reply
        self._open: dict[int, Stream] = {}
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.wire: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast("asyncio.Transport", transport)  # uvloop's is not derived from it
        self._upstream.accepted += 1
        if self._window_bytes is not None:
            self.state.local_settings = Settings(
                client=False, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: self._window_bytes}
            )
        self.state.initiate_connection()
        if self._window_bytes is not None:
            self.state.increment_flow_control_window(self._window_bytes - 65_535)
        self.flush()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._upstream.gone += 1

    def data_received(self, data: bytes) -> None:
        for event in self.state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = {bytes(name): bytes(value) for name, value in event.headers}
                self._open[event.stream_id] = Stream(self, event.stream_id, headers)
            elif isinstance(event, h2.events.DataReceived):
                self._open[event.stream_id].body += event.data
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self._upstream.resets.append(event.error_code)
            elif isinstance(event, h2.events.StreamEnded):
                stream = self._open.pop(event.stream_id)
                self._upstream.streams.append(stream)
                self._reply(stream)
        self.flush()

    def flush(self) -> None:
        self.wire.write(self.state.data_to_send())


@contextlib.asynccontextmanager
async def serve_http2(
    tls: ssl.SSLContext, reply: Reply = wait_for_the_test, window_bytes: int | None = None
) -> AsyncIterator[Upstream]:
    """Run a server on loopback that offers nothing but HTTP/2. `window_bytes`: what may be sent to it unasked."""
    upstream = Upstream()
    connections = upstream.connections

    def accept() -> _Connection:
        connections.append(_Connection(upstream, reply, window_bytes))
        return connections[-1]

    tls.set_alpn_protocols(["h2"])
    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0, ssl=tls)
    upstream.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        for connection in connections:
            if hasattr(connection, "wire"):
                connection.wire.abort()
