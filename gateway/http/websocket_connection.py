"""A client's WebSocket connection on the socket of a request. Frames (RFC 6455) are read and written by `websockets`.

| a client                                              | gets                                              |
|-------------------------------------------------------|---------------------------------------------------|
| sends a message over `max_message_bytes`, or one that | 1009, and the end                                 |
| inflates to more                                      |                                                   |
| sends frames that break the protocol, or no UTF-8     | 1002, 1007, and the end                           |
| sends a binary message                                | 1003, and the end                                 |
| sends thousands of small frames at once               | answers, a few frames at a time                   |
| sends pings and reads nothing                         | no pongs while it reads nothing                   |
| takes nothing                                         | the end: `max_unsent_bytes`, `write_timeout_s`    |
| does not answer a close                               | the end, after `LINGER_S`                         |
| sends nothing                                         | a ping every `ping_s`; its pong is not asked for  |

A client that reads slowly has `write_timeout_s` to take what waits for it; what it takes meanwhile does not renew that.
A program that is busy between its turns answers no ping, so a missing pong ends nothing: TCP finds out who is gone.

    connection = WebSocketConnection(detached, protocol, bounds)
    connection.begin(listener, head)        writes the answer to the handshake; the listener hears of messages
    connection.send(messages) -> bool       False: `drain` before more is sent
    connection.close(code, reason)
    connection.tick(now_s)                  about once a second, while it is open: none has a timer of its own
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, NamedTuple, Protocol, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from gateway.http.detached import Detached

LINGER_S: Final = 5.0
_SLICE_BYTES: Final = 4096
_EVENTS_AT_ONCE: Final = 64
"""Frames that are looked at before somebody else gets a turn: Python takes some microseconds for each."""
_PONG: Final = 0x80 | Opcode.PONG
_LONGEST_REASON_BYTES: Final = 123  # RFC 6455, 5.5: a control frame holds 125 bytes, two of them are the code


class SocketBounds(NamedTuple):
    """Bounds of one connection. `max_unsent_bytes`: what waits for a client that reads slowly, beside one message."""

    ping_s: float
    write_timeout_s: float
    max_unsent_bytes: int


class Listener(Protocol):
    """Whoever has the connection."""

    def on_message(self, text: bytes) -> None:
        """A text message has come; it is UTF-8."""

    def on_close(self, code: int) -> None:
        """No message can be sent or will come any more. `code`: of RFC 6455, 7.4, as it was seen here."""

    def on_shutdown(self) -> None:
        """The server ends."""


class WebSocketConnection(asyncio.Protocol):
    """One connection, from its upgrade to its end.

    State that changes: `write_paused`, the client is slower than what is sent; since when; what has come and is not
    read yet; that nothing is taken for now; the message that is coming; when the next ping is due; the timer of a close
    that nobody answers; `close_code`, how it ended; `too_slow`, that it ended because its client did not read.
    """

    __slots__ = (
        "_bounds", "_closed", "_detached", "_drained", "_held", "_linger", "_listener", "_message", "_next_ping_s",
        "_paused_since_s", "_protocol", "_resting", "_unread", "close_code", "loop", "too_slow", "transport",
        "write_paused",
    )  # fmt: skip

    def __init__(self, detached: Detached, protocol: ServerProtocol, bounds: SocketBounds) -> None:
        self.loop = detached.loop
        self.transport = detached.transport
        self.write_paused = False
        self.close_code = int(CloseCode.ABNORMAL_CLOSURE)
        self._detached = detached._replace(rest=b"")
        self._protocol = protocol
        self._bounds = bounds
        self._listener: Listener | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused_since_s = 0.0
        self._linger: asyncio.TimerHandle | None = None
        self.too_slow = False
        self._closed = False
        self._message: bytearray | None = None
        self._unread = detached.rest
        self._resting = self._held = False
        self._next_ping_s = self.loop.time() + bounds.ping_s

    def begin(self, listener: Listener, head: Iterable[bytes]) -> None:
        """Answers the handshake with its head; from now on the listener hears of messages."""
        self._listener = listener
        self._detached.server.connections.add(cast("Any", self))  # uvicorn's type names its own protocols
        if self.transport.is_closing():
            self.loop.call_soon(self.connection_lost, None)
            return
        self.transport.pause_reading()
        self.transport.set_protocol(self)
        self.transport.resume_reading()
        self.transport.writelines(list(head))
        if self._unread:
            self._read()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it as a task that the server waits for when it ends."""
        task = self.loop.create_task(work)
        tasks = self._detached.server.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # to the client

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol.state is State.OPEN and not self._closed

    def send(self, messages: Iterable[bytes]) -> bool:
        """Sends text messages, which are UTF-8. False: the client is slower than that, `drain` before more is sent.

        A client that has left takes whatever is sent.
        """
        if not self.is_open:
            return True
        if self.transport.get_write_buffer_size() > self._bounds.max_unsent_bytes:
            self._end_slow()
            return True
        for message in messages:
            self._protocol.send_text(message)
        self._flush()
        return not self.write_paused

    async def drain(self) -> None:
        """Waits until the client has caught up, or has left."""
        if self.write_paused and not self._closed:
            if self._drained is None or self._drained.done():
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def hold(self) -> None:
        """Takes no more messages, until `go_on`."""
        self._held = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Takes messages again."""
        self._held = False
        if not self._resting:
            self._read_on()

    def close(self, code: int, reason: str = "") -> None:
        """Begins the end (RFC 6455, 7.1.2). Idempotent."""
        if not self.is_open:
            return
        self.close_code = code
        self._protocol.send_close(code, reason.encode()[:_LONGEST_REASON_BYTES].decode("utf-8", "ignore"))
        self._flush()
        self._notify_closed()

    def tick(self, now_s: float) -> None:
        """What is due: a ping, or the end of a client that does not read."""
        if self.write_paused and now_s - self._paused_since_s >= self._bounds.write_timeout_s:
            self._end_slow()
        elif now_s >= self._next_ping_s and self.is_open and not self.write_paused:
            self._next_ping_s = now_s + self._bounds.ping_s
            self._protocol.send_ping(b"")
            self._flush()

    # for uvicorn's server, and for the budget of connections

    def shutdown(self) -> None:
        """The server ends."""
        if self._listener is not None:
            self._listener.on_shutdown()

    def unverified_bytes(self) -> int:
        """See `connection_budget.Holder`. A key vouches for all of it."""
        return 0

    def drop(self) -> None:
        """See `connection_budget.Holder`."""
        self.transport.abort()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of some."""
        self._unread = self._unread + data if self._unread else data
        if not self._resting:
            self._read()

    def eof_received(self) -> bool:
        """The client has ended its side: there is no half of a WebSocket connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        del exc
        if self._closed:
            return
        self._closed = True
        if self._linger is not None:
            self._linger.cancel()
        self._unread = b""
        self._message = None
        self._detached.server.connections.discard(cast("Any", self))
        self._detached.budget.leave(self._detached.address, self)
        self.resume_writing()
        self._notify_closed()

    def pause_writing(self) -> None:
        """The client is slower than what is sent."""
        self.write_paused = True
        self._paused_since_s = self.loop.time()

    def resume_writing(self) -> None:
        """It has caught up, or left."""
        self.write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # inside

    def _read(self) -> None:
        """Takes what has come, in slices: a flood of small frames keeps nobody waiting."""
        protocol, seen = self._protocol, 0
        unread, at = self._unread, 0
        while at < len(unread) and seen < _EVENTS_AT_ONCE and not self._held and not self._closed:
            protocol.receive_data(unread[at : at + _SLICE_BYTES])
            at += _SLICE_BYTES
            self._flush()
            for event in protocol.events_received():
                seen += 1
                if isinstance(event, Frame):
                    self._take(event)
        self._unread = unread[at:]
        if self._unread and not self._held and not self._closed and not self.transport.is_closing():
            self._resting = True
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)
        if protocol.state is not State.OPEN:
            self._end_by_client()

    def _read_on(self) -> None:
        self._resting = False
        if not self._held and not self._closed and not self.transport.is_closing():
            self.transport.resume_reading()
            self._read()

    def _take(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.BINARY:
            self.close(CloseCode.UNSUPPORTED_DATA, "Send messages as text.")
        elif opcode is Opcode.TEXT:
            if frame.fin:
                self._pass_on(bytes(frame.data))
            else:
                self._message = bytearray(frame.data)
        elif opcode is Opcode.CONT and self._message is not None:
            self._message += frame.data
            if frame.fin:
                whole, self._message = bytes(self._message), None
                self._pass_on(whole)

    def _pass_on(self, text: bytes) -> None:
        if self._listener is None or not self.is_open:
            return
        try:
            str(text, "utf-8")
        except UnicodeDecodeError:
            self.close(CloseCode.INVALID_DATA, "A text message is UTF-8.")
            return
        self._listener.on_message(text)

    def _flush(self) -> None:
        """Writes what the protocol has made. Nothing is ponged to who does not read: pongs would pile up."""
        ends = False
        written = []
        for data in self._protocol.data_to_send():
            if data == SEND_EOF:
                ends = True
            elif not (self.write_paused and data[0] == _PONG):
                written.append(data)
        if self.transport.is_closing():
            return
        if written:
            self.transport.writelines(written)
        if ends and self._protocol.close_rcvd is not None:
            self.transport.close()  # both sides have said it: the server closes first (RFC 6455, 7.1.1)
        elif ends and self.transport.can_write_eof():
            self.transport.write_eof()  # a reset would destroy the close on its way to who still sends
        if self._linger is None and self._protocol.close_expected():
            self._linger = self.loop.call_later(LINGER_S, self.transport.abort)

    def _end_slow(self) -> None:
        self.too_slow = True
        self.transport.abort()

    def _end_by_client(self) -> None:
        """The client has closed, or broken the protocol."""
        sent, received = self._protocol.close_sent, self._protocol.close_rcvd
        if self.close_code == CloseCode.ABNORMAL_CLOSURE and (found := sent or received) is not None:
            self.close_code = int(found.code)
        self._notify_closed()

    def _notify_closed(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_close(self.close_code)
