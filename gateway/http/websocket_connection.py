"""A client's WebSocket connection on the socket of a request. Frames (RFC 6455) are read and written by `websockets`.

| a client that                                         | gets                                                     |
|-------------------------------------------------------|----------------------------------------------------------|
| sends a message over `max_message_bytes`, or one that | close code 1009                                          |
| inflates to more                                      |                                                          |
| sends invalid frames, or text that is not UTF-8       | close code 1002 or 1007                                  |
| sends a binary message                                | close code 1003                                          |
| sends thousands of small frames at once               | answers, a few frames at a time                          |
| sends a large frame                                   | its message: a thread parses it                          |
| sends pings and reads nothing                         | no pongs while it reads nothing                          |
| reads nothing                                         | a closed socket: `max_unsent_bytes`, `write_timeout_s`   |
| does not answer a close                               | a closed socket after `LINGER_S`                         |
| sends nothing                                         | a ping every `ping_s`, whose pong is not required        |

A client that reads slowly has `write_timeout_s` to read everything that waits for it. Reading a part of it does not
renew that time. A missing pong closes nothing, because a program that is busy between its turns answers no pings. TCP
notices a client that is gone.

    connection = WebSocketConnection(detached, protocol, bounds, off_loop)
    connection.begin(listener, head)        writes the answer to the handshake; messages then go to the listener
    connection.send(messages) -> bool       False: `drain` must be awaited before the next `send`
    connection.close(code, reason)
    connection.tick(now_s)                  is called about once a second while it is open, in place of timers
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SEND_EOF, Event, State
from websockets.server import ServerProtocol

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop
from gateway.http.detached import Detached
from gateway.http.websocket_handshake import Deflate
from gateway.protocol.byte_search import is_utf8

LINGER_S: Final = 5.0
_SLICE_BYTES: Final = 4096
_LONG_COMPRESSED_BYTES: Final = 4096
"""A longer compressed frame may inflate to more than the loop should wait for."""
_EVENTS_AT_ONCE: Final = 64
"""Frames that are handled before other connections get a turn: each takes Python some microseconds."""
_PONG: Final = 0x80 | Opcode.PONG
_MAX_REASON_BYTES: Final = 123  # RFC 6455, 5.5: a control frame holds 125 bytes, two of them are the code


def _parse(protocol: ServerProtocol, data: bytes) -> tuple[Sequence[Event], int]:
    """Parses data up to the end of a frame. Returns the events, and how many bytes it was. Runs in a thread."""
    for at in range(0, len(data), LONG_BYTES):
        protocol.receive_data(data[at : at + LONG_BYTES])
        events = protocol.events_received()
        if events:
            return events, min(at + LONG_BYTES, len(data))
    return (), len(data)


class SocketBounds(NamedTuple):
    """Bounds of one connection. `max_unsent_bytes` bounds what waits for a slow client, beside one message."""

    ping_s: float
    write_timeout_s: float
    max_unsent_bytes: int


class Listener(Protocol):
    """The user of the connection."""

    def on_message(self, text: bytes) -> None:
        """A text message has arrived. The listener checks a long one itself (`LONG_BYTES`): it may not be UTF-8."""

    def on_close(self, code: int) -> None:
        """No more messages can be sent, and none will come. `code` is the close code (RFC 6455, 7.4)."""

    def on_shutdown(self) -> None:
        """The server stops."""


class WebSocketConnection(asyncio.Protocol):
    """One connection, from its upgrade to its end.

    Mutable: `write_paused` says that the client reads more slowly than messages are sent, and `_paused_since_s` since
    when. `_unread` holds bytes that were not parsed, and `_message` the incomplete message. While `_receiving_paused`
    is set, no messages are taken. `_resting` says that parsing goes on in the loop's next turn, or in a thread.
    `_linger` is the timer of a close that the client has not answered. `close_code` is how the connection ended, and
    `too_slow` whether it ended because its client did not read. `_frame_bytes` is how much of the present frame has
    been parsed. `_in_thread` says that a thread goes on with a large one: `_protocol` is the thread's then, and
    `_close_after` what closes the connection afterwards.
    """

    __slots__ = (
        "_bounds", "_close_after", "_closed", "_detached", "_drained", "_frame_bytes", "_in_thread", "_linger",
        "_listener", "_message", "_next_ping_s", "_off_loop", "_paused_since_s", "_protocol", "_receiving_paused",
        "_resting", "_unread", "close_code", "loop", "too_slow", "transport", "write_paused",
    )  # fmt: skip

    def __init__(self, detached: Detached, protocol: ServerProtocol, bounds: SocketBounds, off_loop: OffLoop) -> None:
        self.loop = detached.loop
        self.transport = detached.transport
        self.write_paused = False
        self.close_code = int(CloseCode.ABNORMAL_CLOSURE)
        self._detached = detached._replace(rest=b"")
        self._protocol = protocol
        self._bounds = bounds
        self._off_loop = off_loop
        self._listener: Listener | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused_since_s = 0.0
        self._linger: asyncio.TimerHandle | None = None
        self.too_slow = False
        self._closed = False
        self._message: bytearray | None = None
        self._unread = detached.rest
        self._resting = self._receiving_paused = self._in_thread = False
        self._close_after: tuple[int, str] | None = None
        self._frame_bytes = 0
        self._next_ping_s = self.loop.time() + bounds.ping_s

    def begin(self, listener: Listener, head: Iterable[bytes]) -> None:
        """Answers the handshake with `head`. From now on, messages go to the listener."""
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
        """Runs `work` as a task that the server waits for when it stops."""
        task = self.loop.create_task(work)
        tasks = self._detached.server.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # to the client

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol.state is State.OPEN and not self._closed and self._close_after is None

    def send(self, messages: Iterable[bytes]) -> bool:
        """Sends text messages in UTF-8. Returns False if the client is slower: `drain` must be awaited before the next.

        After the client has disconnected, messages are discarded.
        """
        if not self._may_send():
            return True
        if self._in_thread:
            return self.send_framed([self.framed(message) for message in messages])
        for message in messages:
            self._protocol.send_text(message)
        self._flush()
        return not self.write_paused

    def framed(self, message: bytes) -> bytes:
        """Returns a text message as a frame, for `send_framed`. May run in any thread."""
        extensions = [Deflate.like(one) if isinstance(one, Deflate) else one for one in self._protocol.extensions]
        return Frame(Opcode.TEXT, message).serialize(mask=False, extensions=extensions)

    def send_framed(self, frames: Sequence[bytes]) -> bool:
        """Like `send`, for messages that are frames already."""
        if frames and self._may_send():
            self.transport.writelines(frames)
        return not self.write_paused

    def _may_send(self) -> bool:
        """Whether the client can be sent more. One that has read too little is disconnected."""
        if self.is_open and self.transport.get_write_buffer_size() > self._bounds.max_unsent_bytes:
            self._end_slow()
            return False
        return self.is_open

    async def drain(self) -> None:
        """Waits until the client has caught up, or has disconnected."""
        if self.write_paused and not self._closed:
            if self._drained is None or self._drained.done():
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def pause_receiving(self) -> None:
        """Takes no more messages until `resume_receiving`."""
        self._receiving_paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_receiving(self) -> None:
        """Takes messages again."""
        self._receiving_paused = False
        if not self._resting:
            self._read_on()

    def close(self, code: int, reason: str = "") -> None:
        """Starts the closing handshake (RFC 6455, 7.1.2). Idempotent."""
        if not self.is_open:
            return
        if self._in_thread:
            self._close_after = code, reason
            return
        self.close_code = code
        self._protocol.send_close(code, reason.encode()[:_MAX_REASON_BYTES].decode("utf-8", "ignore"))
        self._flush()
        self._notify_closed()

    def tick(self, now_s: float) -> None:
        """Sends a ping if one is due, or closes the connection of a client that does not read."""
        if self.write_paused and now_s - self._paused_since_s >= self._bounds.write_timeout_s:
            self._end_slow()
        elif now_s >= self._next_ping_s and self.is_open and not (self.write_paused or self._in_thread):
            self._next_ping_s = now_s + self._bounds.ping_s
            self._protocol.send_ping(b"")
            self._flush()

    # used by uvicorn's server, and by the budget of connections

    def shutdown(self) -> None:
        """The server stops."""
        if self._listener is not None:
            self._listener.on_shutdown()

    def unverified_bytes(self) -> int:
        """See `connection_budget.Holder`. None, because the connection has a valid key."""
        return 0

    def drop(self) -> None:
        """See `connection_budget.Holder`."""
        self.transport.abort()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Takes frames, or parts of frames."""
        self._unread = self._unread + data if self._unread else data
        if not self._resting:
            self._read()

    def eof_received(self) -> bool:
        """The client has closed its sending side, which ends a WebSocket connection."""
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
        """The client reads more slowly than messages are sent."""
        self.write_paused = True
        self._paused_since_s = self.loop.time()

    def resume_writing(self) -> None:
        """The client has caught up, or has disconnected."""
        self.write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # inside

    def _read(self) -> None:
        """Parses what has arrived, in slices, so that many small frames do not delay other connections."""
        seen, unread, at = 0, self._unread, 0
        while at < len(unread) and seen < _EVENTS_AT_ONCE and not self._receiving_paused and not self._closed:
            if self._frame_bytes > (_LONG_COMPRESSED_BYTES if self._protocol.extensions else LONG_BYTES):
                self._unread = unread[at:]
                self._resting = self._in_thread = True
                self.transport.pause_reading()
                self.spawn(self._read_in_thread())
                return
            piece = unread[at : at + _SLICE_BYTES]
            self._protocol.receive_data(piece)
            at += _SLICE_BYTES
            seen += self._handle_events(self._protocol.events_received(), len(piece))
        self._unread = unread[at:]
        if self._unread and not self._receiving_paused and not self._closed and not self.transport.is_closing():
            self._resting = True
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)
        if self._protocol.state is not State.OPEN:
            self._end_by_client()

    def _handle_events(self, events: Sequence[Event], received_bytes: int) -> int:
        """Handles what was parsed of so many bytes. Returns the number of events, where a long one counts for many."""
        self._frame_bytes = 0 if events else self._frame_bytes + received_bytes
        self._flush()
        frames = [event for event in events if isinstance(event, Frame)]
        for frame in frames:
            self._take(frame)
        return sum(1 + len(frame.data) // _SLICE_BYTES for frame in frames)

    async def _read_in_thread(self) -> None:
        """Parses a part of a large frame in a thread: it is copied, unmasked and inflated there."""
        data, self._unread = self._unread, b""
        try:
            events, parsed_bytes = await self._off_loop.run_to_end(partial(_parse, self._protocol, data))
        finally:
            self._in_thread = self._resting = False
        if self._closed:
            return
        self._unread = data[parsed_bytes:] + self._unread
        close, self._close_after = self._close_after, None
        if close is not None:
            self.close(*close)
        self._handle_events(events, parsed_bytes)
        self._read_on()

    def _read_on(self) -> None:
        self._resting = False
        if not self._receiving_paused and not self._closed and not self.transport.is_closing():
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
        if len(text) <= LONG_BYTES and not is_utf8(text):
            self.refuse_encoding()
        else:
            self._listener.on_message(text)

    def refuse_encoding(self) -> None:
        """Ends the connection of a client whose message is not UTF-8 (RFC 6455, 8.1)."""
        self.close(CloseCode.INVALID_DATA, "A text message is UTF-8.")

    def _flush(self) -> None:
        """Writes the protocol's output. A client that does not read gets no pongs, because they would pile up."""
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
            self.transport.close()  # both sides have sent a close: the server closes TCP first (RFC 6455, 7.1.1)
        elif ends and self.transport.can_write_eof():
            self.transport.write_eof()  # a reset would destroy the close frame if the client still sends
        if self._linger is None and self._protocol.close_expected():
            self._linger = self.loop.call_later(LINGER_S, self.transport.abort)

    def _end_slow(self) -> None:
        self.too_slow = True
        self.transport.abort()

    def _end_by_client(self) -> None:
        """Ends the connection after the client has closed it, or has violated the protocol."""
        sent, received = self._protocol.close_sent, self._protocol.close_rcvd
        if self.close_code == CloseCode.ABNORMAL_CLOSURE and (found := sent or received) is not None:
            self.close_code = int(found.code)
        self._notify_closed()

    def _notify_closed(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_close(self.close_code)
