"""A client's connection: HTTP/1.1 (RFC 9112) under uvicorn's server, with bounds for everything.

| a client that                                         | gets                                                     |
|-------------------------------------------------------|----------------------------------------------------------|
| exceeds the connections of the worker or its address  | 503 too_many_connections; the connection closes          |
| sends a head with too many bytes or fields            | 431 headers_too_large; the connection closes             |
| takes longer than `head_timeout_s` for a head         | 408 request_timeout, or only a close if it sent nothing  |
| goes on sending a body that was refused               | `LINGER_S` to read the answer; the connection closes     |
| sends invalid or ambiguous HTTP                       | 400 invalid_http, or only a close during an answer       |
| asks for an upgrade to anything but WebSocket         | its answer over HTTP/1.1 (RFC 9110, 7.8)                 |
| sends requests before it has the answer (pipelining)  | its answers, one after another                           |
| closes its sending side after its request             | its answer, if it is still connected: half_closed.py     |
| reads nothing of an answer for `write_timeout_s`      | a closed connection                                      |
| holds most when all hold too much memory              | a closed connection: connection_budget.py                |

Once an answer has begun, no probe can be sent: a client that closes its sending side then counts as disconnected.
Uvicorn's server has the sockets, signals, shutdown and the Date header (docs/decisions/connection-protocol.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import structlog
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from gateway.errors import GatewayError
from gateway.http.body_reader import DirectBodyReader
from gateway.http.client_address import normalised
from gateway.http.connection_context import ConnectionContext
from gateway.http.detached import Detached
from gateway.http.half_closed import HalfClosedProbe
from gateway.http.parser import RequestParser
from gateway.http.patience import Patience, Wait
from gateway.http.request_cycle import EXTENSION, RequestCycle
from gateway.types import Body

LINGER_S: Final = 5.0
_UNCOUNTED_BYTES: Final = 4096  # fewer bytes are not worth counting: each connection takes more than that anyway


class ClientConnection(asyncio.Protocol):
    """One connection. It reads a head and a body, runs a task that answers, and goes on to the next request.

    Mutable: `_cycle` is the request whose head came last, and `_unparsed` what followed it. `write_paused` says that
    the client reads more slowly than its answer is written. `_discards` says that received bytes are dropped.
    `counted_bytes`: what the budget has noted. `on_leave` is called when the client disconnects.
    """

    def __init__(
        self,
        context: ConnectionContext,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.transport: asyncio.Transport
        self.write_paused = False
        self.on_leave: Callable[[], Any] | None = None
        self._context = context
        self.budget = context.budget
        self._limits = context.limits
        self._keep_alive_s = config.timeout_keep_alive
        self._server = server_state
        self._app_state = app_state
        self._requests = RequestParser(self, context.limits.max_head_bytes, context.limits.max_head_fields)
        self._local_address: tuple[str, int | None] | None = None
        self._peer: tuple[str, int] | None = None
        self._address: str | None = None
        self._cycle: RequestCycle | None = None
        self._unparsed = b""
        self._drained: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._discards = False
        self.counted_bytes = 0
        self.is_fresh = True
        self._patience: Patience
        self._probe: HalfClosedProbe | None = None

    # used by requests

    def server_headers(self) -> bytes:
        """See `request_cycle.Connection`."""
        return self._context.lines(self._server.default_headers)

    def pause_reading(self) -> None:
        """See `request_cycle.Connection`."""
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """See `request_cycle.Connection`. Nothing is read while as much as a whole head waits to be parsed."""
        waits_behind = len(self._unparsed) > self._limits.max_head_bytes
        if self._reading_paused and not waits_behind and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    def read_directly(self, begun: Body, length: int) -> DirectBodyReader:
        """See `request_cycle.Connection`."""
        reader = DirectBodyReader(self, begun, length)
        self._switch(reader)
        return reader

    def body_read(self) -> None:
        """A body that was read directly is complete. The next head needs a new parser."""
        self._requests.skip_body()
        self._switch(self)
        self.on_end()

    async def drain(self) -> None:
        """See `request_cycle.Connection`."""
        if self.write_paused:
            if self._drained is None or self._drained.done():
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def answered(self, cycle: RequestCycle) -> None:
        """See `request_cycle.Connection`. If the body is incomplete, the client may go on sending it for `LINGER_S`."""
        if cycle.disconnected:
            return
        if cycle.keep_alive:
            self._wait_for_client()
            if self._unparsed and not self.transport.is_closing():
                self._parse(self._unparsed)
            self.resume_reading()
        else:
            self._end(lingers=not cycle.complete)
        if self.counted_bytes or self.transport.get_write_buffer_size():
            self.count_unverified()

    def detach(self, cycle: RequestCycle) -> Detached:
        """See `request_cycle.Connection`. The new protocol takes over all registrations of this object."""
        rest, address = self._unparsed, cycle.address or self._address
        self._unparsed, cycle.address, self._cycle = b"", None, None
        self._patience.close()
        self._requests.close()
        if self._probe is not None:  # the client has closed its sending side: no other protocol can begin
            self._probe.close()
            self.transport.abort()
        self._server.connections.discard(cast("Any", self))
        self.budget.hold(self, 0)
        return Detached(self.loop, self.transport, self._server, self.budget, address, rest)

    # used by the budget

    def unverified_bytes(self) -> int:
        """See `connection_budget.Holder`."""
        cycle = self._cycle
        size = self._requests.head_bytes + len(self._unparsed)
        if cycle is None or cycle.verified:
            return size
        return size + cycle.body_bytes + self.transport.get_write_buffer_size()

    def count_unverified(self) -> None:
        """Tells the budget how many unverified bytes this connection holds."""
        if (size := self.unverified_bytes()) != self.counted_bytes:
            self.counted_bytes = size
            self.budget.hold(self, size)

    def drop(self) -> None:
        """See `connection_budget.Holder`."""
        self.counted_bytes = 0
        self.transport.abort()

    # used by uvicorn's server

    def shutdown(self) -> None:
        """The server stops. An idle connection closes at once, another one after its answer."""
        if self._cycle is None or self._cycle.response_complete:
            self.transport.close()
        else:
            self._cycle.keep_alive = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Registers the connection, or refuses it, and starts the timeout for the first head."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from asyncio's
        self._server.connections.add(cast("Any", self))  # uvicorn's type names its own protocols
        self._patience = Patience(self.loop, self.transport, self._limits.write_timeout_s, self._head_is_late)
        self._local_address, peer = get_local_addr(self.transport), get_remote_addr(self.transport)
        self._peer = (normalised(peer[0]), peer[1]) if peer else None
        self._address = self.budget.counted_address(self._peer[0] if self._peer else "")
        refusal = self.budget.admit(self._address)
        if refusal is None:
            self._patience.wait(Wait.HEAD, self._limits.head_timeout_s)
        else:
            self._discards = True
            self._write_refusal(refusal)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the running request that its client has disconnected, and ends all timers."""
        del exc
        self._server.connections.discard(cast("Any", self))
        self._patience.close()
        if self._probe is not None:
            self._probe.close()
        self.budget.leave(self._address, self)
        self._discards = True
        self._unparsed = b""
        self._client_has_left()
        self._cycle = None
        self.resume_writing()
        self._requests.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than its answer is written."""
        self.write_paused = True
        self._patience.wait(Wait.PROGRESS, self._limits.write_timeout_s)
        self.count_unverified()

    def resume_writing(self) -> None:
        """The client has caught up, or has disconnected."""
        self.write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._patience.waits_for is not Wait.PROGRESS:
            return
        self._patience.waits_for = Wait.NOTHING
        self.count_unverified()
        if self._cycle is not None and self._cycle.response_complete:
            self._wait_for_client()
            if self._unparsed:
                self._parse(self._unparsed)
                self.resume_reading()

    def eof_received(self) -> bool:
        """The client has closed its sending side, or has disconnected. True keeps the connection open for an answer."""
        cycle = self._cycle
        if (
            cycle is None
            or cycle.started
            or cycle.response_complete
            or self._requests.head_bytes
            or self._unparsed
            or not cycle.complete
            or self._discards
            or cycle.scope["http_version"] != "1.1"
        ):
            return False
        cycle.keep_alive = False
        self._probe = HalfClosedProbe(self.loop, self.transport, cycle)
        return True

    def data_received(self, data: bytes) -> None:
        """Passes the bytes to the parser. A timeout runs while a head is incomplete."""
        if not self._discards:
            self._parse(self._unparsed + data if self._unparsed else data)

    # used by the parser

    def on_head(self) -> None:
        """Starts a request."""
        requests = self._requests
        self.is_fresh = False
        self._patience.waits_for = Wait.NOTHING
        head, scope = requests.head, requests.scope(self._local_address, self._peer, self._app_state)
        keep_alive = head.keep_alive and not self._context.application.leaving
        self._cycle = cycle = RequestCycle(self, scope, head.fields, keep_alive=keep_alive, facts=head.facts)
        scope["extensions"] = {EXTENSION: cycle}
        if self._address is None:  # a trusted proxy's: each request counts against the address it is forwarded for
            cycle.address = self.budget.forwarded_address(scope)
            cycle.refusal = self.budget.begin(cycle.address)
        cycle.task = self.loop.create_task(self._serve(cycle))
        self._server.tasks.add(cycle.task)

    def on_body(self, body: bytes) -> None:
        """Adds a piece to the body. The body of a request that was refused or answered is dropped."""
        cycle = self._cycle
        if cycle is not None and not cycle.response_complete and not self.transport.is_closing():
            cycle.add(body)

    def on_end(self) -> None:
        """The body is complete."""
        cycle = self._cycle
        if cycle is None or self.transport.is_closing():
            return
        cycle.complete = True
        if cycle.response_complete:
            self._wait_for_client()
        else:
            cycle.wake()

    # inside

    def _parse(self, data: bytes) -> None:
        """Parses one request after another. None begins while another one runs, or while the client does not read."""
        requests = self._requests
        if self._patience.waits_for is Wait.NEXT:
            self._patience.waits_for = Wait.NOTHING
        try:
            while data:
                cycle = self._cycle
                if cycle is not None and cycle.complete and (self.write_paused or not cycle.response_complete):
                    break
                data = requests.feed(data)
        except GatewayError as error:
            self._unparsed = b""
            self._refuse(error)
            return
        self._unparsed = data
        cycle = self._cycle
        if len(data) > self._limits.max_head_bytes:
            self.pause_reading()
        if self._patience.waits_for is Wait.NOTHING and (cycle is None or cycle.response_complete):
            self._patience.wait(Wait.HEAD, self._limits.head_timeout_s)
        pending_bytes = max(len(data), requests.head_bytes, 0 if cycle is None else cycle.body_bytes)
        if self.counted_bytes or pending_bytes > _UNCOUNTED_BYTES:
            self.count_unverified()

    def _switch(self, protocol: asyncio.BaseProtocol) -> None:
        """Gives the socket's bytes to another protocol. A transport notices the change when it begins to read."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self.transport.set_protocol(protocol)
            self.transport.resume_reading()
            self._reading_paused = False

    async def _serve(self, cycle: RequestCycle) -> None:
        try:
            if cycle.refusal is not None:
                status, headers, body = self._context.application.refuse_head(cycle.refusal, cycle.scope)
                cycle.start(status, headers)
                cycle.end(body)
                return
            await self._context.application.dispatch(cycle.scope, cycle.receive, cycle.send)
        except BaseException as error:  # noqa: BLE001 - cancellation too, by which the server ends a task that hangs
            structlog.get_logger("gateway.inbound").error("request_crashed", exc_info=error)
        finally:
            task, cycle.task = cycle.task, None
            self._server.tasks.discard(cast("asyncio.Task[None]", task))
            if cycle.address is not None:
                self.budget.end(cycle.address)
            if not cycle.response_complete and not cycle.disconnected:
                # the application gave no answer, or half of one
                self._refuse(GatewayError("internal_error", "The gateway failed. The operator's log has the reason."))

    def _refuse(self, error: GatewayError) -> None:
        """Refuses a request that reaches no route, or whose body cannot be read on. Nothing after it is read."""
        cycle = self._cycle
        if self.transport.is_closing():
            return
        if cycle is not None and cycle.started and not cycle.response_complete:
            self.transport.close()  # during an answer no other one can be sent
            return
        self._client_has_left()
        self._write_refusal(error)
        self._end(lingers=True)

    def _write_refusal(self, error: GatewayError) -> None:
        self.transport.write(self._context.refusal(error, self._server.default_headers, self._cycle))

    def _end(self, *, lingers: bool) -> None:
        """Closes the connection once everything is sent.

        `lingers`: the client still sends. A reset would then destroy its answer, so that what it sends is read and
        dropped for a while (RFC 9112, 9.6).
        """
        if not lingers:
            self.transport.close()
            return
        self._discards = True
        self._unparsed = b""
        self.resume_reading()
        self.transport.write_eof()
        self._patience.wait(Wait.LINGER, LINGER_S)

    def _client_has_left(self) -> None:
        cycle = self._cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.drop_body()
            cycle.wake()
        on_leave, self.on_leave = self.on_leave, None
        if on_leave is not None:
            on_leave()

    def _wait_for_client(self) -> None:
        """After an answer: waits for the client to read it, to send the rest of its body, or its next request."""
        if self.write_paused:
            return  # it waits for PROGRESS already
        if self._cycle is not None and not self._cycle.complete:
            self._patience.wait(Wait.LINGER, LINGER_S)
        else:
            self._patience.wait(Wait.NEXT, self._keep_alive_s)

    def _head_is_late(self) -> None:
        if self._requests.head_bytes:
            text = f"The headers did not arrive within {self._limits.head_timeout_s:g} s."
            self._refuse(GatewayError("request_timeout", text))
        else:
            self._patience.end_or_go_on()
