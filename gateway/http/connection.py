"""A client's connection: HTTP/1.1 (RFC 9112) under uvicorn's server, with bounds for everything.

| a client                                            | gets                                                |
|-----------------------------------------------------|-----------------------------------------------------|
| sends a head of more than `max_head_bytes`          | 431 headers_too_large, and the end of the connection|
| takes longer than `head_timeout_s` for a head       | 408 request_timeout (after silence: the end alone)  |
| goes on with a body after it was refused            | `LINGER_S` to read the answer, then the end         |
| sends what is no HTTP, or can be read in two ways   | 400 invalid_http; the end alone inside an answer    |
| asks for an upgrade to anything but WebSocket       | its answer over HTTP/1.1 (RFC 9110, 7.8)            |
| sends its next request before it has the answer     | its answers, in order                               |
| ends its side behind its request                    | its answer, if it is still there: see below         |
| takes nothing of an answer's rest for `keep_alive_s`| the end                                             |

A client that ends its side (`shutdown(SHUT_WR)`, `nc -N`) and one that has left send the same FIN. Only what is sent to
them tells them apart: who has left answers with a reset. So an interim answer goes out, which every HTTP/1.1 client has
to skip (RFC 9110, 15.2; Python's http.client skips no other than 100). Inside an answer nothing can ask, and a client
that ends its side counts as gone.

Uvicorn's own protocol copies each piece of a body three times, and its objects and timers a request cost as much as the
rest of a client's side (benchmarks/README.md). Its server stays: sockets, signals, shutdown, the Date header.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any, Final, Protocol, cast

import structlog
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from gateway.concurrency.deadline import Deadline
from gateway.errors import GatewayError
from gateway.http.body_reader import DirectBodyReader
from gateway.http.head import STATUS_LINES, lines, target
from gateway.http.parser import RequestParser
from gateway.http.request_cycle import CONTINUE, EXTENSION, RequestCycle
from gateway.types import Headers, Receive, Scope, Send

LINGER_S: Final = 5.0
_PATIENCE_S: Final = 0.02  # an answer that comes so soon needs no question
_LOOKS_S: Final = (0.005, 0.05, 0.5, 2.0)  # apart: a reset takes one round trip, and one more behind a relay of bytes


class Wait(IntEnum):
    """What a connection's timer is for."""

    NOTHING = 0
    HEAD = 1  # to be whole
    NEXT = 2  # request, or the taking of an answer's rest
    LINGER = 3


class Application(Protocol):
    """What a connection needs of the application that it serves."""

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serves one request."""

    def refuse_head(self, error: GatewayError) -> tuple[int, Headers, bytes]:
        """Status, headers and body of the answer to what was refused before it was a request."""


class ConnectionFactory:
    """What a worker's connections have in common. Uvicorn calls it as it calls a protocol's class.

    State that changes: the server's headers, as they were last written out; the application, once it is loaded.
    """

    def __init__(self, *, max_head_bytes: int, head_timeout_s: float) -> None:
        self.max_head_bytes = max_head_bytes
        self.head_timeout_s = head_timeout_s
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""
        self._application: Application | None = None

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> ClientConnection:
        """A connection that has been accepted."""
        if self._application is None:
            self._application = cast("Application", config.loaded_app)
        return ClientConnection(
            self, self._application, config, server_state, app_state, _loop or asyncio.get_running_loop()
        )

    def lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Uvicorn's own headers, which it replaces once a second, as they go out."""
        if headers is not self._headers:
            self._headers, self._lines = headers, lines(headers)
        return self._lines


class ClientConnection(asyncio.Protocol):
    """One connection. Its life: heads and bodies in, a task a request, answers out, one after the other.

    State that changes: `_last`, the request whose head came last, `_running`, the one that was started last, and
    `_waiting`, those between; what has come of a head; what is waited for; `write_paused`, the client is
    slower than its answer; `on_leave`, whom the running request wants told.
    """

    def __init__(
        self,
        shared: ConnectionFactory,
        application: Application,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.transport: asyncio.Transport
        self.write_paused = False
        self.on_leave: Callable[[], Any] | None = None
        self._shared = shared
        self._application = application
        self._keep_alive_s = config.timeout_keep_alive
        self._server = server_state
        self._app_state = app_state
        self._requests = RequestParser(self, shared.max_head_bytes)
        self._here: tuple[str, int | None] | None = None
        self._peer: tuple[str, int] | None = None
        self._last: RequestCycle | None = None
        self._running: RequestCycle | None = None
        self._waiting: deque[RequestCycle] = deque()
        self._drained: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._waits_for = Wait.NOTHING
        self._deadline = Deadline(loop, self._over)
        self._unsent = 0  # of an answer, when the timer looked last
        self._looking: asyncio.TimerHandle | None = None  # at a client that may have left

    # for the requests

    def server_headers(self) -> bytes:
        """See `cycle.Connection`."""
        return self._shared.lines(self._server.default_headers)

    def pause_reading(self) -> None:
        """See `cycle.Connection`."""
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """See `cycle.Connection`. Behind requests that wait nothing is read."""
        if self._reading_paused and not self._waiting and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    def read_directly(self, begun: bytes, length: int) -> DirectBodyReader:
        """See `cycle.Connection`."""
        reader = DirectBodyReader(self, begun, length)
        self._switch(reader)
        return reader

    def body_read(self) -> None:
        """A body that was read directly is whole. The parser has not seen it: the next head gets a new one."""
        self._requests.skip_body()
        self._switch(self)
        self.on_end()

    async def drain(self) -> None:
        """See `cycle.Connection`."""
        if self.write_paused:
            if self._drained is None or self._drained.done():
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def answered(self, cycle: RequestCycle) -> None:
        """See `cycle.Connection`. Before its body was whole: the client may go on sending, but not for ever."""
        if cycle.disconnected:
            return
        if not cycle.keep_alive:
            self.transport.close()
        if self._waiting and not self.transport.is_closing():
            self._start(self._waiting.popleft())
        elif cycle.complete:
            self._wait(Wait.NEXT, self._keep_alive_s)
        else:
            self._wait(Wait.LINGER, LINGER_S)
        self.resume_reading()

    # for uvicorn's server

    def shutdown(self) -> None:
        """The server ends: an idle connection at once, another with its answer."""
        if self._last is None or self._last.response_complete:
            self.transport.close()
        else:
            self._last.keep_alive = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The clock for the first head starts."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from asyncio's
        self._server.connections.add(cast("Any", self))  # uvicorn's type names its own protocols
        self._here, self._peer = get_local_addr(self.transport), get_remote_addr(self.transport)
        self._wait(Wait.HEAD, self._shared.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells whoever waits for the client. No timer outlives its connection."""
        del exc
        self._server.connections.discard(cast("Any", self))
        self._waits_for = Wait.NOTHING
        self._deadline.close()
        if self._looking is not None:
            self._looking.cancel()
        for cycle in (self._running, self._last):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.wake()
        self._running = self._last = None
        self._waiting.clear()
        self.resume_writing()
        self._requests.close()
        on_leave, self.on_leave = self.on_leave, None
        if on_leave is not None:
            on_leave()

    def pause_writing(self) -> None:
        """The client is slower than its answer."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """It has caught up, or left."""
        self.write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def eof_received(self) -> bool:
        """The client has ended its side, or has left. True: the connection stays for its answer."""
        cycle = self._last
        if (
            cycle is None
            or cycle.started
            or cycle.response_complete
            or self._requests.in_head
            or self._waiting
            or not cycle.complete
        ):
            return False
        if cycle.scope["http_version"] != "1.1":
            return False
        cycle.keep_alive = False
        self._looking = self.loop.call_later(_PATIENCE_S, self._ask_if_there, cycle, 0)
        return True

    def data_received(self, data: bytes) -> None:
        """The parser's; the clock runs while a head is not whole."""
        requests = self._requests
        if self._waits_for is Wait.NEXT:
            self._waits_for = Wait.NOTHING
        try:
            requests.feed(data)
        except GatewayError as error:
            if self._running is not None and self._running.started and not self._running.response_complete:
                self.transport.close()  # inside an answer nothing can be said
            elif not self.transport.is_closing():
                self._refuse(error)
            return
        if requests.in_head and self._waits_for is Wait.NOTHING:
            self._wait(Wait.HEAD, self._shared.head_timeout_s)

    # for the parser

    def on_head(self) -> None:
        """A request starts, when those before it have their answers."""
        requests = self._requests
        self._waits_for = Wait.NOTHING
        before = self._last
        self._last = cycle = RequestCycle(self, self._scope(requests), keep_alive=requests.keep_alive)
        cycle.scope["extensions"] = {EXTENSION: cycle}
        if before is None or before.response_complete:
            self._start(cycle)
        else:
            self._waiting.append(cycle)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of a body. Nothing is kept of one whose request was refused, or has its answer."""
        cycle = self._last
        if cycle is not None and not cycle.response_complete and not self.transport.is_closing():
            cycle.add(body)

    def on_end(self) -> None:
        """A body is whole: nothing to linger for."""
        cycle = self._last
        if cycle is None or self.transport.is_closing():
            return
        cycle.complete = True
        if cycle.response_complete:
            self._wait(Wait.NEXT, self._keep_alive_s)
        else:
            cycle.wake()

    # inside

    def _switch(self, protocol: asyncio.BaseProtocol) -> None:
        """Hands the socket's bytes to somebody else. A transport looks at that when it begins to read."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self.transport.set_protocol(protocol)
            self.transport.resume_reading()
            self._reading_paused = False

    def _scope(self, requests: RequestParser) -> Scope:
        path, raw_path, query = target(requests.url)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": requests.version,
            "server": self._here,
            "client": self._peer,
            "scheme": "http",
            "method": requests.method.decode("ascii"),
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": requests.headers,
            "state": self._app_state.copy(),
        }

    def _start(self, cycle: RequestCycle) -> None:
        self._running = cycle
        cycle.task = self.loop.create_task(self._serve(cycle))
        self._server.tasks.add(cycle.task)

    async def _serve(self, cycle: RequestCycle) -> None:
        try:
            await self._application.dispatch(cycle.scope, cycle.receive, cycle.send)
        except BaseException as error:  # noqa: BLE001 - the server ends a task that hangs by a cancellation, too
            structlog.get_logger("gateway.inbound").error("request_crashed", exc_info=error)
        finally:
            task, cycle.task = cycle.task, None
            self._server.tasks.discard(cast("asyncio.Task[None]", task))
            if not cycle.response_complete and not cycle.disconnected:
                self._end_badly(cycle)

    def _end_badly(self, cycle: RequestCycle) -> None:
        """An application that gave no answer, or half of one."""
        if cycle.started:
            self.transport.close()
        else:
            self._refuse(GatewayError("internal_error", "The gateway failed. The operator's log has the reason."))

    def _ask_if_there(self, cycle: RequestCycle, asked: int) -> None:
        """Asks and looks, a few times: nobody reads the socket after its end, so nothing tells of a reset."""
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        elif asked < len(_LOOKS_S) and not cycle.started:
            self.transport.write(CONTINUE)
            self._looking = self.loop.call_later(_LOOKS_S[asked], self._ask_if_there, cycle, asked + 1)

    def _refuse(self, error: GatewayError) -> None:
        """A request that no route has seen: counted all the same, with the headers that every answer has."""
        status, headers, body = self._application.refuse_head(error)
        head = (STATUS_LINES[status], self.server_headers(), lines(headers), b"connection: close\r\n\r\n", body)
        self.transport.write(b"".join(head))
        self.transport.close()

    def _wait(self, what: Wait, delay_s: float) -> None:
        self._waits_for = what
        self._unsent = 0
        self._deadline.set(delay_s)

    def _over(self) -> None:
        """The time of what was waited for is over."""
        if self._waits_for is Wait.HEAD and self._requests.head_bytes:
            text = f"The headers did not arrive within {self._shared.head_timeout_s:g} s."
            self._refuse(GatewayError("request_timeout", text))
        elif self._waits_for is not Wait.NOTHING:
            self._end_or_go_on()

    def _end_or_go_on(self) -> None:
        """The end, unless the client has taken some of its answer's rest since the last look."""
        before, unsent = self._unsent, self.transport.get_write_buffer_size()
        if not unsent:
            self.transport.close()
        elif unsent == before:
            self.transport.abort()
        else:
            self._wait(self._waits_for, self._keep_alive_s)
            self._unsent = unsent
